"""transformers folders: Hiera (model, classifier, backbone, pre-training) and the SAM 2 vision encoders."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...config import ARCHITECTURES, ModelConfig, PreprocessSpec
from ...errors import CheckpointError, InputError
from ..files import RawCheckpoint, write_json, write_safetensors
from ..geometry import Geometry, adapt, choose, first
from ..rename import Dialect, to_theirs
from .base import Format
from .hierax import write_readme
from .sam2 import trained_norm
from .transformers_config import hiera_json, hiera_obstacle, read_hiera, read_sam2, sam2_json, sam2_obstacle
from .transformers_processor import processor_json, read_processor

if TYPE_CHECKING:
    from torch import Tensor

    from ..card import Weights

HIERA = Dialect(
    block="encoder.stages.{stage0}.layers.{j}.",
    parts=(("norm1.", "layernorm_before."), ("norm2.", "layernorm_after.")),
    outer=(
        ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
        ("pos_embed", "embeddings.position_embeddings"),
        ("norm.", "pooler.layernorm."),
        ("head.projection.", "classifier."),
        ("multi_scale_fusion_heads.", "multiscale_fusion.multi_scale_fusion_heads."),
        ("mask_token", "decoder.mask_token"),
        ("decoder_pos_embed", "decoder.decoder_position_embeddings"),
        ("decoder_embed.", "decoder.decoder_embeddings."),
        ("decoder_norm.", "decoder.decoder_norm."),
        ("decoder_pred.", "decoder.decoder_pred."),
    ),
    decoder_block="decoder.decoder_block.layers.{n}.",
)
SAM2 = Dialect(
    parts=(
        ("norm1.", "layer_norm1."),
        ("norm2.", "layer_norm2."),
        ("mlp.fc1.", "mlp.proj_in."),
        ("mlp.fc2.", "mlp.proj_out."),
    ),
    outer=(("patch_embed.proj.", "patch_embed.projection."),),
)
_TELLING = {"encoder.stages.0.layers.0.layernorm_before.weight": HIERA, "blocks.0.layer_norm1.weight": SAM2}
# Under these our encoder's own names sit in a model with more parts; the others stand at the top.
ENCODER_OUTER = ("patch_embed.", "pos_embed", "blocks.", "norm.")


class Transformers(Format):
    """Folders that `save_pretrained` writes."""

    name = "transformers"
    may_be_fresh = ("norm.",)  # its SAM 2 trunk has none
    norm_when_masked = False  # its autoencoder has no pooler

    def matches(self, raw: RawCheckpoint) -> bool:
        """Names that no other package uses."""
        return any(key.endswith(tuple(_TELLING)) for key in raw.tensors)

    def dialect(self, raw: RawCheckpoint) -> tuple[str, Dialect]:
        """`hiera.` before the encoder in models with a head; `vision_encoder.backbone.` or less in SAM 2."""
        return next((k.removesuffix(t), _TELLING[t]) for t in _TELLING for k in raw.tensors if k.endswith(t))

    def config(self, raw: RawCheckpoint, geometry: Geometry, named: ModelConfig | None) -> ModelConfig:
        """`config.json` decides; without it, public shapes do."""
        if named is not None:
            if named.decoder is None and geometry.decoder_pools < 0 and not geometry.has_norm:
                named = dataclasses.replace(named, head="pool")
            return adapt(named, geometry)
        try:
            config = self._described(raw, geometry)
        except InputError as error:
            raise CheckpointError(f"The config.json beside {raw.path} does not describe a network: {error}") from error
        if geometry.decoder_pools < 0 and not geometry.has_norm:
            config = dataclasses.replace(config, head="pool")
        return adapt(config, geometry, config.input_size)

    def _described(self, raw: RawCheckpoint, geometry: Geometry) -> ModelConfig:
        data, decodes = raw.config, geometry.decoder_pools >= 0
        vision = data.get("vision_config", data)
        trunk = vision.get("backbone_config", vision) if isinstance(vision, Mapping) else {}
        if data.get("model_type") == "hiera" and "embed_dim" in data:
            config = read_hiera(data, head="pool" if decodes else "pool_norm", decoder=decodes)
            if config.depths != geometry.depths:
                raise CheckpointError(
                    f"config.json says depths {config.depths}, but {raw.path} has {geometry.depths}. They do not "
                    "belong together."
                )
            return config
        if isinstance(trunk, Mapping) and trunk.get("model_type") == "sam2_hiera_det_model":
            return read_sam2(trunk)
        names = [name for name in ARCHITECTURES if name.startswith("sam2_") or name.endswith("_224")]
        return choose(geometry, names, str(raw.path))

    def preprocess(self, raw: RawCheckpoint, config: ModelConfig) -> PreprocessSpec:
        """`preprocessor_config.json`, or what its conversion script writes for these models."""
        spec = read_processor(raw.preprocessor, sam2=config.family == "hieradet")
        return spec.with_size(config.input_size)

    def left_over(self, key: str) -> str | None:
        """A backbone's stage norms and the parts of SAM 2 beside the encoder have no place in an encoder."""
        if key.startswith("hidden_states_norms."):
            return "stage norms of transformers' HieraBackbone"
        decoder = ("mask_decoder.", "prompt_encoder.", "mask_downsample", "shared_image_embedding", "occlusion")
        memory = ("memory_", "no_memory", "no_object", "object_pointer", "obj_ptr", "temporal_positional")
        beside = key.startswith((*decoder, *memory, "vision_encoder.neck.", "neck."))
        return "part of SAM 2 beside the image encoder" if beside else None

    def obstacle(self, config: ModelConfig, tensors: Mapping[str, Tensor]) -> str | None:
        """No video, no windowed tables outside HieraDet, no global windows inside it, no class head on it."""
        if config.family != "hieradet":
            return hiera_obstacle(config)
        headed = "transformers' SAM 2 encoder has no classification head; load with num_classes=0 first"
        return (
            sam2_obstacle(config)
            or first((config.num_classes, headed))
            or trained_norm(tensors, "transformers' SAM 2 encoder has no final norm")
        )

    def write(self, weights: Weights, destination: Path) -> Path:
        """A folder with config.json, model.safetensors and preprocessor_config.json."""
        config, depths = weights.config, weights.config.depths
        tensors = {key: to_theirs(key, tensor, config) for key, tensor in weights.tensors.items()}
        if config.family == "hieradet":
            tensors = {k: t for k, t in tensors.items() if not k.startswith("norm.")}
            table, prefix = SAM2, ""
            data = {"architectures": ["Sam2HieraDetModel"], **sam2_json(config)}
        else:
            table, data = HIERA, _hiera_json(config, weights.labels)
            prefix = "hiera." if config.decoder is not None or config.num_classes else ""
        state = {
            (prefix if key.startswith(ENCODER_OUTER) else "") + table.spell(key, depths): tensor
            for key, tensor in tensors.items()
        }
        if data["architectures"] == ["HieraBackbone"]:
            state |= _stage_norms(weights)
        data["dtype"] = str(next(iter(state.values())).dtype).removeprefix("torch.")
        write_safetensors(destination / "model.safetensors", state, {"format": "pt"})
        recipe = processor_json(weights.preprocess, sam2=config.family == "hieradet")
        write_json(destination / "preprocessor_config.json", recipe)
        write_readme(destination, weights, "transformers")
        write_json(destination / "config.json", {**data, "hierax": weights.card.facts})
        return destination


def _hiera_json(config: ModelConfig, labels: list[str] | None) -> dict[str, Any]:
    kind = "HieraModel" if config.head != "pool" else "HieraBackbone"  # the one class without a pooled norm
    if config.decoder or config.num_classes:
        kind = "HieraForPreTraining" if config.decoder else "HieraForImageClassification"
    data: dict[str, Any] = {"architectures": [kind], "model_type": "hiera", **hiera_json(config)}
    if kind == "HieraBackbone":
        data["out_features"] = [f"stage{stage}" for stage in range(1, len(config.depths) + 1)]
    if config.num_classes:
        names = labels or [f"LABEL_{index}" for index in range(config.num_classes)]
        data["id2label"] = {str(index): name for index, name in enumerate(names)}
        data["label2id"] = {name: index for index, name in enumerate(names)}
    return data


def _stage_norms(weights: Weights) -> dict[str, Tensor]:
    """Norms of a backbone's stage maps: the file's own where it was a backbone, else the identity."""
    import torch

    norms: dict[str, Tensor] = {}
    for stage, width in enumerate(weights.config.channels, start=1):
        key = f"hidden_states_norms.stage{stage}."
        norms |= {f"{key}weight": torch.ones(width), f"{key}bias": torch.zeros(width)}
    kept = weights.raw.tensors if weights.raw is not None else {}
    return {key: kept.get(key, identity) for key, identity in norms.items()}
