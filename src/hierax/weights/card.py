"""The model card: everything known about a checkpoint or architecture, without its weights in memory."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import asdict, dataclass
from typing import Any

from ..config import ModelConfig, PreprocessSpec, architecture, block_table
from ..model.init import build


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What is known about a model.

    Attributes:
        task: "classification", "embedding" or "mae".
        input_size: Pixels, (height, width) or (frames, height, width).
        parameters: Number of parameters.
        license: SPDX-like identifier of the weights, None if unknown or without weights.
        commercial: Whether the licence allows commercial use; None if unknown.
        format: Checkpoint format.
        source: URL, hub repository or local path of the weights; None without published weights.
        blocks: The block table, one row per block.
        candidates: Architectures that a local file may hold, where neither its tensors nor its metadata say which.
    """

    name: str
    aliases: tuple[str, ...] = ()
    architecture: str
    family: str
    task: str
    input_size: tuple[int, ...]
    num_classes: int
    embedding_size: int
    parameters: int
    license: str | None = None
    commercial: bool | None = None
    dataset: str | None = None
    preprocess: PreprocessSpec | None = None
    format: str | None = None
    url: str | None = None
    repo: str | None = None
    source: str | None = None
    sha256: str | None = None
    citation: str | None = None
    base_model: str | None = None
    pretrained: bool = False
    config: ModelConfig
    candidates: tuple[str, ...] = ()
    report: str | None = None

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
        data = asdict(self)
        data.pop("config")
        return data

    def __str__(self) -> str:
        """Every known field, then the block table."""
        rows = []
        for key, value in self.to_dict().items():
            if value is None or value == () or key in ("citation", "preprocess"):
                continue
            rows.append((key, _text(key, value)))
        if self.preprocess is not None:
            rows.append(("preprocess", preprocess_text(self.preprocess)))
        width = max(len(key) for key, _ in rows)
        lines = [f"{key:<{width}}  {value}" for key, value in rows]
        lines += ["", self.blocks]
        if self.citation:
            lines += ["", self.citation.strip()]
        return "\n".join(lines)


def make_card(config: ModelConfig, *, task: str | None = None, **fields: Any) -> ModelCard:
    """A card for a config; what the config says is filled in."""
    module = build(config, device="meta")
    return ModelCard(
        architecture=config.name,
        family=config.family,
        task=task or ("mae" if config.decoder else "classification" if config.num_classes else "embedding"),
        input_size=config.input_size,
        num_classes=config.num_classes,
        embedding_size=config.embedding_size,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        config=config,
        **fields,
    )


def block_text(config: ModelConfig) -> str:
    """The block table, equal neighbours merged."""
    grid = list(config.grid(config.input_size))
    rows: list[tuple[list[int], tuple[str, ...]]] = []
    for spec in block_table(config):
        before = "x".join(map(str, grid))
        if spec.q_stride is not None:
            grid = [g // s for g, s in zip(grid, spec.q_stride, strict=True)]
        after = "x".join(map(str, grid))
        window = "global" if spec.window is None else "x".join(map(str, spec.window))
        row = (
            str(spec.stage),
            before if before == after else f"{before} > {after}",
            str(spec.dim_in) if spec.dim_in == spec.dim_out else f"{spec.dim_in} > {spec.dim_out}",
            str(spec.heads),
            window,
            "-" if spec.q_stride is None else "x".join(map(str, spec.q_stride)),
        )
        if rows and rows[-1][1] == row:
            rows[-1][0].append(spec.index)
        else:
            rows.append(([spec.index], row))
    table: list[tuple[str, ...]] = [("block", "stage", "grid", "dim", "heads", "window", "q-stride")]
    for indices, row in rows:
        table.append((str(indices[0]) if len(indices) == 1 else f"{indices[0]}-{indices[-1]}", *row))
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    )


def preprocess_text(spec: PreprocessSpec) -> str:
    """One line for people."""
    size = "x".join(map(str, spec.size))
    how = f"squash to {size}"
    if spec.resize == "shortest":
        shorter = spec.resize_to or math.floor(min(spec.size) / spec.crop_ratio)
        how = f"shorter side to {shorter}, centre crop {size}"
    return f"{how}, {spec.interpolation}, mean {spec.mean}, std {spec.std}"


def _text(key: str, value: Any) -> str:
    if key == "input_size":
        return "x".join(map(str, value))
    if key == "parameters":
        return f"{value:,}"
    if key == "commercial":
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
