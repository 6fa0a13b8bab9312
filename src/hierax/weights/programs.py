"""Exported programs as files: told from weights by their content, and what their metadata says.

An exported file carries everything that a `Predictor` needs beside the program: the network's config, preprocess,
class names, licence, and which weights it was made from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from .. import schema
from ..config import ModelConfig, PreprocessSpec
from ..errors import CheckpointError
from ..schema import Length
from .card import ModelCard, Weights
from .onnx_files import read_metadata
from .private import regular
from .program_files import KINDS, kind_of
from .zips import Damaged, records

__all__ = ["KINDS", "ProgramFacts", "kind_of", "read_facts"]

PREFIX = "hierax."  # of the keys of ours among a format's metadata
TORCH_ENTRY = "hierax.json"  # of a torch.export archive, among its extra files
_MOST_METADATA = 8 << 20
Outputs = Annotated[tuple[str, ...], Length(1, 6)]


@dataclass(frozen=True, kw_only=True)
class ProgramFacts:
    """What an exported file says about itself.

    Attributes:
        version: Of the library that wrote it.
        config: The network, its input size that of the trace.
        preprocess: How images become its input.
        outputs: What it gives, by name.
        any_size: Whether it takes every legal height and width, or only those of `config`.
        dtype: "float32", "float16" (of the weights) or "int8".
        input_name: The name of what it takes.
        labels: Class names by index.
        name: Of the model that was exported.
        license: SPDX-like identifier of its weights.
        commercial: Whether that allows commercial use.
        dataset: What the weights were trained on.
        base_model: The checkpoint they come from.
        citation: BibTeX.
        source_sha256: Of the weights that were exported.
        made_with: Packages and their versions.
    """

    version: str
    config: ModelConfig
    preprocess: PreprocessSpec
    outputs: Outputs
    any_size: bool = False
    dtype: str = "float32"
    input_name: str = "images"
    labels: tuple[str, ...] | None = None
    name: str = "custom"
    license: str | None = None
    commercial: bool | None = None
    dataset: str | None = None
    base_model: str | None = None
    citation: str | None = None
    source_sha256: str | None = None
    made_with: dict[str, str] | None = None

    def __post_init__(self) -> None:
        schema.conform(self, CheckpointError)
        known = ("embedding", "logits", *self.config.stage_names)
        if unknown := set(self.outputs) - set(known):
            raise CheckpointError(f"Outputs of a program are among {', '.join(known)}; got {min(unknown)!r}.")
        if self.labels is not None and len(self.labels) != self.config.num_classes:
            raise CheckpointError(
                f"A program must have a label for each of {self.config.num_classes} classes; got {len(self.labels)}."
            )

    def to_texts(self) -> dict[str, str]:
        """For a format whose metadata are pairs of text: text as it is, anything else as JSON."""
        data = schema.plain(self)
        data["input_size"] = list(self.config.input_size)  # for readers of other tools
        return {
            PREFIX + key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for key, value in data.items()
        }

    @classmethod
    def from_texts(cls, texts: Mapping[str, str], path: Path) -> ProgramFacts:
        """What `to_texts` wrote.

        Raises:
            CheckpointError: It is not there, or not as written.
        """
        ours = {key.removeprefix(PREFIX): text for key, text in texts.items() if key.startswith(PREFIX)}
        if not ours.keys() >= {"version", "config", "preprocess", "outputs"}:
            raise CheckpointError(
                f"{path} was not exported by hierax: its metadata has no network, preprocess and labels, without which "
                "an answer could only be guessed. Write it with `hierax export`."
            )
        ours.pop("input_size", None)
        where = f"The metadata of {path}"
        as_text = {"version", "dtype", "input_name", "name", "license", "dataset", "base_model", "citation"}
        as_text.add("source_sha256")
        data: dict[str, Any] = {}
        for key, text in ours.items():
            if len(text) > _MOST_METADATA:
                raise CheckpointError(f"{where} must have at most {_MOST_METADATA} bytes; {key} has {len(text)}.")
            data[key] = (
                text
                if key in as_text
                else schema.parse_json(text, where=f"{where} must be valid JSON; {key}", error=CheckpointError)
            )
        return schema.read(cls, data, where=where, error=CheckpointError)

    def weights(self, path: Path, kind: str) -> Weights:
        """A card and labels, and no tensors."""
        size = "x".join(map(str, self.config.input_size))
        sizes = f"any legal size, traced at {size}" if self.any_size else f"{size} alone"
        card = ModelCard(
            name=self.name,
            config=self.config,
            license=self.license,
            commercial=self.commercial,
            dataset=self.dataset,
            preprocess=self.preprocess,
            note=f"Exported program ({self.dtype}, hierax {self.version}): {', '.join(self.outputs)}; {sizes}.",
            format=kind,
            path=path,
            sha256=self.source_sha256,
            citation=self.citation,
            base_model=self.base_model,
            pretrained=True,
        )
        return Weights(card=card, labels=None if self.labels is None else list(self.labels))


def read_facts(path: Path, kind: str) -> ProgramFacts:
    """What an exported file says about itself.

    Raises:
        CheckpointError: It was not written by hierax, or is damaged.
        MissingExtraError: Its runtime is needed to read it, and not installed.
    """
    return ProgramFacts.from_texts({"onnx": _onnx, "openvino": _openvino, "torch": _torch}[kind](path), path)


def _onnx(path: Path) -> dict[str, str]:
    with regular(path) as stream:
        found = read_metadata(stream)
    if found is None:
        raise CheckpointError(f"{path} begins like an ONNX file and is damaged further on. Copy or export it again.")
    return found


def _openvino(path: Path) -> dict[str, str]:
    from ..model.programs.openvino import read_model

    model = read_model(path)
    if not model.has_rt_info(["hierax"]):
        return {}
    found: dict[str, str] = {}
    for key, value in model.get_rt_info(["hierax"]).value.items():
        text = schema.parse_json(str(value), where=f"The metadata of {path} must be valid JSON", error=CheckpointError)
        found[PREFIX + key] = text if isinstance(text, str) else ""
    return found


def _torch(path: Path) -> dict[str, str]:
    with regular(path) as stream:
        try:
            entries = records(stream)
        except Damaged as error:
            raise CheckpointError(f"{path} is damaged: {error}. Copy or export it again.") from error
        for name, entry in entries.items():
            if name.endswith(f"/extra/{TORCH_ENTRY}") and entry.size <= _MOST_METADATA:
                stream.seek(entry.start)
                text = stream.read(entry.size).decode("utf-8", errors="replace")
                data = schema.parse_json(
                    text, where=f"The metadata of {path} must be valid JSON", error=CheckpointError
                )
                return {key: value for key, value in data.items() if isinstance(value, str)}
    return {}
