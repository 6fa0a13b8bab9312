"""Weights of one network together with everything known about them: what moves between formats."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..config import ModelConfig, PreprocessSpec

if TYPE_CHECKING:
    from torch import Tensor

    from .files import RawCheckpoint


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where weights came from and what may be done with them.

    Attributes:
        name: Catalogue name, or the file or folder name.
        origin: Format the weights were first read from; it decides how position tables are resized.
        format: Format of the file they lie in now.
        license: SPDX-like identifier, None if unknown.
        commercial: Whether the licence allows commercial use, None if unknown.
        dataset: What it was trained on.
        base_model: The checkpoint that these weights were derived from.
        sha256: Digest of the published file.
        citation: BibTeX.
    """

    name: str = "custom"
    origin: str = "hierax"
    format: str = "hierax"
    license: str | None = None
    commercial: bool | None = None
    dataset: str | None = None
    base_model: str | None = None
    source: str | None = None
    sha256: str | None = None
    citation: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class LoadReport:
    """Which parameters came from the file and which did not.

    Attributes:
        used: Names in the file that were loaded.
        fresh: Our parameters that the file does not have, randomly initialised.
        left_over: Names in the file that the network has no place for, each with the reason.
        notes: What else was changed, e.g. a resized table.
    """

    used: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    left_over: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """A few lines for people."""
        lines = [f"{len(self.used)} tensors loaded"]
        if self.fresh:
            lines.append(f"fresh (randomly initialised): {', '.join(self.fresh)}")
        reasons: dict[str, int] = {}
        for reason in self.left_over.values():
            reasons[reason] = reasons.get(reason, 0) + 1
        lines += [f"{count} left unused: {reason}" for reason, count in reasons.items()]
        return "; ".join([*lines, *self.notes])


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A network's parameters under our (flat) names, with config, preprocess, labels and provenance.

    Attributes:
        tensors: Parameters by flat name, position tables grid-shaped; those that are missing will be fresh.
        names: The file's own name of each of the tensors.
        raw: The file they were read from, for formats that keep what is not the encoder.
    """

    config: ModelConfig
    tensors: dict[str, Tensor]
    preprocess: PreprocessSpec
    labels: list[str] | None = None
    provenance: Provenance = Provenance()
    report: LoadReport = LoadReport()
    names: dict[str, str] = field(default_factory=dict)
    raw: RawCheckpoint | None = None
    extra: dict[str, Any] = field(default_factory=dict)
