"""Our own folder: config.json, model.safetensors, preprocessor_config.json and a README with the licence."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...config import ARCHITECTURES, ModelConfig, PreprocessSpec
from ...errors import CheckpointError, HieraxError
from ...schema import pick
from ..card import FACTS, RANDOM
from ..files import README_TAGS, RawCheckpoint, write_json, write_safetensors, write_text
from ..geometry import Geometry, adapt, choose
from ..rename import Dialect, flat_name
from .base import Facts, Format

if TYPE_CHECKING:
    from torch import Tensor

    from ..card import Weights

_UNKNOWN = "unknown: ask whoever gave you the weights"
_OWN = "none given; no other weights went into these, so whoever trained them says"


class Hierax(Format):
    """Our names, tables stored grid-shaped, everything about the network in config.json."""

    name = "hierax"

    def matches(self, raw: RawCheckpoint) -> bool:
        """`model_type` in the config, or a plain state dict of ours; position tables stored as grids, channels last."""
        table = _table(raw)
        if table is None or table.ndim != 4:
            return False
        if not self.anonymous(raw):
            return True
        names = {flat_name(name): tensor for name, tensor in raw.tensors.items()}
        patches = names.get("patch_embed.proj.weight")
        ours = "blocks.0.mlp.fc1.weight" in names and not {"head.norm.weight", "head.fc.weight"} & set(names)
        return ours and patches is not None and table.shape[-1] == patches.shape[0]

    def anonymous(self, raw: RawCheckpoint) -> bool:
        """A state dict alone: trained by hand."""
        return raw.config.get("model_type") != "hierax"

    def dialect(self, raw: RawCheckpoint) -> tuple[str, Dialect]:
        """A module's own names have `encoder.` in front inside a masked autoencoder."""
        return "encoder." if "encoder.patch_embed.proj.weight" in raw.tensors else "", Dialect()

    def laid_out(self, ours: str, tensor: Tensor, config: ModelConfig) -> Tensor:
        """Tables are stored as they are."""
        return tensor

    def before(self, raw: RawCheckpoint, geometry: Geometry, named: ModelConfig) -> ModelConfig:
        """config.json says what it is."""
        return super().before(raw, geometry, named) if self.anonymous(raw) else named

    def config(self, raw: RawCheckpoint, geometry: Geometry, named: ModelConfig | None) -> ModelConfig:
        """What config.json says, if the tensors agree; a name cannot overrule it. A state dict alone needs the name."""
        if self.anonymous(raw):
            return _of_a_state_dict(raw, geometry, named)
        try:
            config = ModelConfig.from_dict(raw.config.get("architecture"))
        except HieraxError as error:
            raise CheckpointError(f"The config.json beside {raw.path} does not describe a network: {error}") from error
        decoder_depth = config.decoder.depth if config.decoder else 0
        if (config.depths, decoder_depth) != (geometry.depths, geometry.decoder_depth):
            raise CheckpointError(
                f"config.json says depths {config.depths} and {decoder_depth} decoder blocks, but {raw.path} has "
                f"{geometry.depths} and {geometry.decoder_depth}. They do not belong together."
            )
        if named is not None and not _readable_as(config, named):
            raise CheckpointError(
                f"The config.json beside {raw.path} says {config.name!r}; name={named.name!r} contradicts it. "
                "Leave name= out."
            )
        return config

    def preprocess(self, raw: RawCheckpoint, config: ModelConfig) -> PreprocessSpec:
        """`preprocessor_config.json` in full; the plain recipe beside a state dict alone."""
        if self.anonymous(raw):
            return PreprocessSpec().with_size(config.input_size)
        try:
            return PreprocessSpec.from_dict(raw.preprocessor.get("hierax", {}))
        except HieraxError as error:
            raise CheckpointError(f"preprocessor_config.json beside {raw.path} is damaged: {error}") from error

    def facts(self, raw: RawCheckpoint) -> Facts:
        """They stand in config.json."""
        return pick(Facts, raw.config, where="config.json", named={"origin": "origin_format"})

    def obstacle(self, config: ModelConfig, tensors: Mapping[str, Tensor]) -> str | None:
        """None: it holds every network of the family."""
        return None

    def write(self, weights: Weights, destination: Path) -> Path:
        """The folder; config.json comes last, so that a half-written folder is not taken for a model."""
        from ... import __version__

        config, spec, card = weights.config, weights.preprocess, weights.card
        data = {"model_type": "hierax", "hierax_version": __version__, "architecture": config.to_dict()}
        data |= {"num_classes": config.num_classes, "origin_format": card.origin or self.name}
        data |= {**dict.fromkeys(FACTS), **card.facts}
        if weights.labels:
            data["id2label"] = {str(index): name for index, name in enumerate(weights.labels)}
        write_safetensors(destination / "model.safetensors", weights.tensors, {"format": "pt"})
        size = {"height": spec.size[0], "width": spec.size[1]}
        readable = {"image_mean": list(spec.mean), "image_std": list(spec.std), "size": size}
        write_json(destination / "preprocessor_config.json", {**readable, "hierax": spec.to_dict()})
        write_readme(destination, weights, "hierax")
        write_json(destination / "config.json", data)
        return destination


def _table(raw: RawCheckpoint) -> Tensor | None:
    """The background position table, by our names."""
    names = ("pos_embed", "pos_embed_spatial", "encoder.pos_embed", "encoder.pos_embed_spatial")
    return next((raw.tensors[name] for name in names if name in raw.tensors), None)


def _of_a_state_dict(raw: RawCheckpoint, geometry: Geometry, named: ModelConfig | None) -> ModelConfig:
    """A network without its config: shapes, which our tables keep, and the name where they do not decide."""
    config = choose(geometry, ARCHITECTURES, str(raw.path)) if named is None else named
    table = _table(raw)
    grid = () if table is None else tuple(table.shape[1:-1])
    if geometry.position == "window":
        return adapt(config, dataclasses.replace(geometry, table=grid))
    cells = (*((geometry.frames,) if geometry.frames else ()), *grid)
    return adapt(config, geometry, tuple(n * stride for n, stride in zip(cells, config.patch_stride, strict=False)))


def _readable_as(config: ModelConfig, named: ModelConfig) -> bool:
    """Whether a named architecture is this one, or one that its weights can be turned into."""
    if config.decoder is not None and named.decoder is None:
        return (config.embed_dim, config.depths) == (named.embed_dim, named.depths)
    if config.family == "hiera_abswin" and named.family == "hieradet":
        return True
    same = ("family", "embed_dim", "depths", "windows", "global_blocks")
    return all(getattr(config, field) == getattr(named, field) for field in same)


def write_readme(folder: Path, weights: Weights, library: str) -> Path:
    """A hub model card, with the licence in its front matter."""
    config, card = weights.config, weights.card
    task = "image-classification" if config.num_classes else "image-feature-extraction"
    # What has the form of an identifier; anything else would break the front matter.
    license = card.license if re.fullmatch(r"[\w.-]+", card.license or "") else None
    parent = card.base_model if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", card.base_model or "") else None
    size = "x".join(map(str, config.input_size))
    lines = [
        "---",
        f"library_name: {library}",
        f"pipeline_tag: {task}",
        *([f"license: {license}"] if license else []),
        *([f"base_model: {parent}"] if parent else []),
        f"tags: {README_TAGS}",
        "---",
        f"# {config.name if config.name != 'custom' else card.name}",
        "",
        f"A {config.family} encoder: width {config.embed_dim}, depths {config.depths}, input {size}, "
        f"{config.num_classes} classes.",
        "",
        f"- Weights from: {card.base_model or card.name} ({card.origin or 'hierax'} format)",
        f"- Licence: {card.license or (_OWN if card.base_model == RANDOM else _UNKNOWN)}"
        f"{' (no commercial use)' if card.commercial is False else ''}",
        f"- Trained on: {card.dataset or 'unknown'}",
        "",
        "```python",
        "import hierax",
        "",
        'predictor = hierax.load("path/to/this/folder")',
        'predictor.embed("image.jpg")',
        "```",
    ]
    if card.citation:
        lines += ["", "```bibtex", card.citation.strip(), "```"]
    text = "\n".join(lines) + "\n"
    return write_text(folder / "README.md", text)
