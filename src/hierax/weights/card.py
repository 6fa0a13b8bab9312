"""What is known about a model, with or without its weights in memory: one record from catalogue to saved folder."""

from __future__ import annotations

import dataclasses
import html
import itertools
import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import ModelConfig, PreprocessSpec, architecture, block_table
from ..schema import conform
from .shapes import count

if TYPE_CHECKING:
    from torch import Tensor

    from .files import RawCheckpoint

# What a person is shown, in this order.
# fmt: off
_SHOWN = (
    "name", "aliases", "architecture", "family", "task", "input_size", "num_classes", "embedding_size", "parameters",
    "license", "commercial", "dataset", "top1", "note", "preprocess", "frame_stride", "format", "url", "repo", "source",
    "sha256", "citation", "base_model", "pretrained", "candidates", "report",
)
# fmt: on
# What follows weights through every conversion, beside what a format has its own words for.
FACTS = ("license", "commercial", "dataset", "base_model", "citation")
RANDOM = "random weights"  # the base_model of what was trained from no other weights


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
        lines += [f"{number} left unused: {reason}" for reason, number in Counter(self.left_over.values()).items()]
        return "; ".join([*lines, *self.notes])


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What is known about a model. What its config says (architecture, classes, parameters, ...) is read off it.

    Attributes:
        name: Catalogue name, or that of the file or folder.
        config: The network.
        aliases: Other names that mean the same weights.
        license: SPDX-like identifier of the weights, None if unknown or without weights.
        commercial: Whether the licence allows commercial use; None if unknown.
        dataset: What the weights were trained on.
        preprocess: How images become its input.
        top1: Accuracy in percent that the origin reports on its own dataset.
        note: One sentence a user should know before choosing it.
        format: Format of the file they lie in now.
        origin: Format they were first read from; it decides how position tables are resized.
        path: Where they lie on this machine.
        url: Address of a single file.
        repo: Hub repository, "org/repo".
        file: The weights file in that repository; empty means that its standard files make one folder.
        revision: Branch, tag or commit of the repository; empty is its default branch.
        sha256: Digest of the published file, 64 hexadecimal digits.
        citation: BibTeX of the works behind it.
        base_model: The checkpoint that these weights were derived from, or `RANDOM`.
        pretrained: Whether there are weights.
        candidates: Architectures that a local file may hold, where neither its tensors nor its metadata say which.
        report: What became of the file's tensors; None before they were read.
    """

    name: str = "custom"
    config: ModelConfig
    aliases: tuple[str, ...] = ()
    license: str | None = None
    commercial: bool | None = None
    dataset: str | None = None
    preprocess: PreprocessSpec = field(default_factory=PreprocessSpec)
    top1: float | None = None
    note: str | None = None
    format: str | None = None
    origin: str | None = None
    path: Path | None = None
    url: str | None = None
    repo: str | None = None
    file: str = ""
    revision: str = ""
    sha256: str | None = None
    citation: str | None = None
    base_model: str | None = None
    pretrained: bool = False
    candidates: tuple[str, ...] = ()
    report: LoadReport | None = None

    def __post_init__(self) -> None:
        conform(self)

    @property
    def facts(self) -> dict[str, Any]:
        """What goes with the weights into a table "hierax" of any format; of what is unknown nothing."""
        parent = self.base_model or (self.name if self.name != "custom" else None)
        found = {**{key: getattr(self, key) for key in FACTS}, "base_model": parent}
        return {key: value for key, value in found.items() if value is not None}

    @property
    def architecture(self) -> str:
        """Name of the network, or the names of the candidates."""
        return f"one of {', '.join(self.candidates)}" if self.candidates else self.config.name

    @property
    def family(self) -> str:
        """Which line of the family it belongs to."""
        return self.config.family

    @property
    def task(self) -> str:
        """What it is for, "classification", "embedding" or "mae"."""
        if self.config.decoder is not None:
            return "mae"
        return "classification" if self.config.num_classes else "embedding"

    @property
    def input_size(self) -> tuple[int, ...]:
        """Pixels, (height, width) or (frames, height, width)."""
        return self.config.input_size

    @property
    def num_classes(self) -> int:
        """Classes of the head, 0 without one."""
        return self.config.num_classes

    @property
    def embedding_size(self) -> int:
        """Length of the embedding."""
        return self.config.embedding_size

    @property
    def frame_stride(self) -> int | None:
        """For video, how many source frames one input frame stands for."""
        return self.preprocess.frame_stride if self.config.is_video else None

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return count(self.config)

    @property
    def source(self) -> str | None:
        """Local path, hub repository or URL of the weights; None without any."""
        if self.path is not None or not self.repo:
            return str(self.path) if self.path is not None else self.url
        return self.repo + (f"@{self.revision}" if self.revision else "") + (f"/{self.file}" if self.file else "")

    @property
    def blocks(self) -> str:
        """The block table as text; one for each candidate where the file does not say which network it holds."""
        if not self.candidates:
            return block_text(self.config)
        tables = []
        for name in self.candidates:
            config = dataclasses.replace(architecture(name), input_size=self.config.input_size)
            tables.append(f"if it is {name!r}:\n{block_text(config)}")
        return "\n\n".join(tables)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data, without the config."""
        data = {key: getattr(self, key) for key in _SHOWN}
        report = None if self.report is None else str(self.report)
        return {**data, "preprocess": asdict(self.preprocess), "report": report}

    def __str__(self) -> str:
        """Every known field, then the block table."""
        known = {**self.to_dict(), "preprocess": preprocess_text(self.preprocess), "citation": None}
        texts = {key: _text(key, value) for key, value in known.items() if value not in (None, ())}
        width = max(map(len, texts))
        lines = [f"{key:<{width}}  {value}" for key, value in texts.items()]
        return "\n".join([*lines, "", self.blocks, *(["", self.citation.strip()] if self.citation else [])])

    def __repr__(self) -> str:
        """One line; `print(card)` shows everything."""
        size, known = "x".join(map(str, self.input_size)), self.license or "licence unknown"
        return f"ModelCard({self.name!r}, {self.architecture}, {size}, {self.num_classes} classes, {known})"

    def _repr_html_(self) -> str:
        known = {**self.to_dict(), "preprocess": preprocess_text(self.preprocess)}
        texts = {key: _text(key, value) for key, value in known.items() if value not in (None, ())}
        rows = (f"<tr><th>{key}</th><td>{html.escape(text)}</td></tr>" for key, text in texts.items())
        return f"<table>{''.join(rows)}</table>"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A network's parameters under our (flat) names, with everything known about them: what moves between formats.

    Attributes:
        card: What is known, and the network's config.
        tensors: Parameters by flat name, position tables grid-shaped; those that are missing will be fresh.
        labels: Class names by index, None where nobody named them.
        names: The file's own name of each of the tensors.
        raw: The file they were read from, for formats that keep what is not the encoder.
    """

    card: ModelCard
    tensors: dict[str, Tensor] = field(default_factory=dict)
    labels: list[str] | None = None
    names: dict[str, str] = field(default_factory=dict)
    raw: RawCheckpoint | None = None

    @property
    def config(self) -> ModelConfig:
        """The network."""
        return self.card.config

    @property
    def preprocess(self) -> PreprocessSpec:
        """How images become its input."""
        return self.card.preprocess

    @property
    def report(self) -> LoadReport:
        """What became of the file's tensors."""
        return self.card.report or LoadReport()

    def with_card(self, **facts: Any) -> Weights:
        """The same weights with other facts on their card."""
        return dataclasses.replace(self, card=dataclasses.replace(self.card, **facts))


def block_text(config: ModelConfig) -> str:
    """The block table, equal neighbours merged."""
    grid = config.grid(config.input_size)
    rows: list[tuple[str, ...]] = []
    for spec in block_table(config):
        pooled = tuple(g // s for g, s in zip(grid, spec.q_stride or (1,) * len(grid), strict=True))
        changes = ((_times(grid), _times(pooled)), (str(spec.dim_in), str(spec.dim_out)))
        sizes = (before if before == after else f"{before} > {after}" for before, after in changes)
        window = _times(spec.window) if spec.window else "global"
        rows.append((str(spec.stage), *sizes, str(spec.heads), window, _times(spec.q_stride or ()) or "-"))
        grid = pooled
    table: list[tuple[str, ...]] = [("block", "stage", "grid", "dim", "heads", "window", "q-stride")]
    for row, same in itertools.groupby(range(len(rows)), key=rows.__getitem__):
        indices = list(same)
        first, last = indices[0], indices[-1]
        table.append((str(first) if first == last else f"{first}-{last}", *row))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table)
    return "\n".join(line.rstrip() for line in lines)


def _times(numbers: tuple[int, ...]) -> str:
    return "x".join(map(str, numbers))


def preprocess_text(spec: PreprocessSpec) -> str:
    """One line for people."""
    size = _times(spec.size)
    how = f"squash to {size}"
    if spec.resize == "shortest":
        shorter = spec.resize_to or math.floor(min(spec.size) / spec.crop_ratio)
        how = f"shorter side to {shorter}, centre crop {size}"
    return f"{how}, {spec.interpolation}, mean {spec.mean}, std {spec.std}"


def _text(key: str, value: Any) -> str:
    if key == "input_size":
        return _times(value)
    if key == "parameters":
        return f"{value:,}"
    if key == "commercial":
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def allows_commerce(license: str | None) -> bool | None:
    """Whether a licence allows commercial use, None where its identifier does not say."""
    words = (license or "").lower()
    if "-nc" in words:
        return False
    return True if words.startswith(("apache", "mit", "bsd", "cc-by-4", "cc0")) else None
