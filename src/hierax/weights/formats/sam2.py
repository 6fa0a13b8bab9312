"""SAM 2 and 2.1 `.pt` files: the trunk `image_encoder.trunk.*` is a HieraDet, the rest is kept aside."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...config import ARCHITECTURES, ModelConfig, PreprocessSpec
from ...errors import CheckpointError
from ..files import RawCheckpoint, read, write_torch
from ..geometry import Geometry, adapt, choose, first, fits, measure, unusual
from ..rename import Dialect, to_theirs
from .base import Format

if TYPE_CHECKING:
    from torch import Tensor

    from ..card import Weights

log = logging.getLogger("hierax")
NAMES = tuple(name for name in ARCHITECTURES if name.startswith("sam2_"))
TRUNK = "image_encoder.trunk."
DIALECT = Dialect(parts=(("mlp.fc1.", "mlp.layers.0."), ("mlp.fc2.", "mlp.layers.1.")))
PREPROCESS = PreprocessSpec(
    size=(1024, 1024), resize="squash", crop_ratio=1.0, interpolation="bilinear", engine="float"
)


class Sam2(Format):
    """The original SAM 2 checkpoints, whole or the bare trunk."""

    name = "sam2"
    suffixes = (".pt", ".pth")
    tensors_only = True
    may_be_fresh = ("norm.",)  # SAM 2 has none; heads that want one start from the identity

    def matches(self, raw: RawCheckpoint) -> bool:
        """SAM 2 names the MLP's layers by number."""
        return any(key.endswith("blocks.0.mlp.layers.0.weight") for key in raw.tensors)

    def dialect(self, raw: RawCheckpoint) -> tuple[str, Dialect]:
        """Whatever stands before the first block's MLP is the prefix."""
        tail = "blocks.0.mlp.layers.0.weight"
        found = next(key for key in raw.tensors if key.endswith(tail))
        return found.removesuffix(tail), DIALECT

    def config(self, raw: RawCheckpoint, geometry: Geometry, named: ModelConfig | None) -> ModelConfig:
        """The four trunks differ in width or depth, so shapes tell them apart."""
        return adapt(named or choose(geometry, NAMES, str(raw.path)), geometry)

    def preprocess(self, raw: RawCheckpoint, config: ModelConfig) -> PreprocessSpec:
        """Squash to the square on floats, bilinear, ImageNet statistics."""
        return PREPROCESS.with_size(config.input_size)

    def left_over(self, key: str) -> str | None:
        """Everything beside the trunk belongs to the segmenter."""
        trunk, others = "image_encoder.neck.", ("mask_downsample", "obj_ptr", "maskmem", "no_mem", "no_obj")
        beside = key.startswith(("neck.", trunk, "sam_", "memory_", *others))
        return "part of SAM 2 beside the image encoder" if beside else None

    def obstacle(self, config: ModelConfig, tensors: Mapping[str, Tensor]) -> str | None:
        """Only the four public trunks: the file carries no windows, the code that loads it fixes them."""
        eps, family, known = config.norm_eps, config.family, [ARCHITECTURES[name] for name in NAMES]
        same = ("embed_dim", "num_heads", "depths", "windows", "global_blocks", "q_pool", "position_size")
        public = any(all(getattr(config, key) == getattr(other, key) for key in same) for other in known)
        shape = f"width {config.embed_dim}, depths {config.depths}, windows {config.windows} and global blocks"
        divides_by_zero = f"its windows {config.windows} are global in whole stages, where SAM 2's code divides by zero"
        broken = first(
            (family != "hieradet", f"it is a {family!r} network, and SAM 2 files hold HieraDet trunks only"),
            (None in config.windows, divides_by_zero),
            (config.layer_scale is not None, "SAM 2's blocks have no layer scale"),
            (config.num_classes, "SAM 2 has no classification head; name a whole SAM 2 file to exchange its trunk"),
            (eps != 1e-6, f"SAM 2's norms use epsilon 1e-6; this network's use {eps}"),
            (not public, f"no public SAM 2 trunk has {shape} {config.global_blocks}, and the file cannot carry them"),
        )
        fixed = ("in_channels", "mlp_ratio", "patch_kernel", "patch_stride", "patch_padding", "q_stride")
        return broken or unusual(config, *fixed) or trained_norm(tensors, "SAM 2's trunk has no final norm")

    def write(self, weights: Weights, destination: Path) -> Path:
        """A `.pt`; what stood beside the trunk in the file that was read is written back untouched."""
        model: dict[str, Tensor] = {}
        prefix, container, raw = TRUNK, {}, weights.raw
        if raw is not None and self.matches(raw):
            prefix, container = self.dialect(raw)[0] or TRUNK, raw.container
            model = {key: t for key, t in raw.tensors.items() if key.startswith(prefix) or self.left_over(key)}
        for key, tensor in weights.tensors.items():
            if not key.startswith(("norm.", "head.")):
                theirs = prefix + DIALECT.spell(key, weights.config.depths)
                model[theirs] = to_theirs(key, tensor, weights.config).contiguous()
        path = destination if destination.suffix in self.suffixes else destination / f"{weights.config.name}.pt"
        return write_torch(path, {**container, "model": model, "hierax": weights.card.facts})


def graft(weights: Weights, path: Path) -> Weights:
    """The weights with everything beside the trunk taken from a whole SAM 2 file, ready to be written over it.

    A classifier stays behind with the norm before it: that norm reads the trunk's last map, as SAM 2's neck does, and
    changes none of its maps.

    Raises:
        CheckpointError: The file is no whole SAM 2 file, or its trunk is another one.
    """
    raw, kind = read(path), Sam2()
    prefix = kind.dialect(raw)[0] if kind.matches(raw) else ""
    if not prefix:
        raise CheckpointError(f"{path} already exists and is no whole SAM 2 file. Name another destination.")
    geometry = measure({ours: raw.tensors[theirs] for ours, theirs in kind.our_names(raw).items()})
    if not fits(dataclasses.replace(weights.config, layer_scale=None), geometry):
        raise CheckpointError(
            f"The trunk in {path} has width {geometry.embed_dim} and depths {geometry.depths}; {weights.config.name!r} "
            f"has {weights.config.embed_dim} and {weights.config.depths}. Nothing was changed."
        )
    if weights.config.num_classes:
        log.warning("%s: the classifier and its norm stay behind; the trunk's maps are as trained.", weights.card.name)
        bare = dataclasses.replace(weights.config.with_num_classes(0), head="pool")
        kept = {key: tensor for key, tensor in weights.tensors.items() if not key.startswith(("head.", "norm."))}
        weights = dataclasses.replace(weights, tensors=kept, labels=None).with_card(config=bare)
    return dataclasses.replace(weights, raw=raw)


def trained_norm(tensors: Mapping[str, Tensor], why: str) -> str | None:
    """An obstacle if the final norm has been trained; a norm still at its initial (1, 0) carries nothing."""
    weight, bias = tensors.get("norm.weight"), tensors.get("norm.bias")
    if weight is None or bias is None or (bool((weight == 1).all()) and bool((bias == 0).all())):
        return None
    return f"{why}, and this network's is trained; dropping it would change the embedding"
