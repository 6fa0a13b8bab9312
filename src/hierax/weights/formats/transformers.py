"""transformers folders: Hiera (model, classifier, backbone, pre-training) and the SAM 2 vision encoders."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...config import ARCHITECTURES, DecoderConfig, ModelConfig, PreprocessSpec
from ...errors import CheckpointError
from ..files import RawCheckpoint, write_json, write_safetensors
from ..geometry import HEADS_BY_WIDTH, Geometry, adapt, choose, irregular, public_name, unit_windows
from ..rename import Dialect, to_theirs
from .base import Format, ordered_labels, triple
from .sam2 import trained_norm

if TYPE_CHECKING:
    from torch import Tensor

    from ..state import Weights

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
# Under these our encoder's own names sit in a model with more parts; the others stand at the top.
ENCODER_OUTER = ("patch_embed.", "pos_embed", "blocks.", "norm.")
PREPROCESS = PreprocessSpec(resize_to=256, engine="uint8", crop_rounding="floor")
PREPROCESS_SAM2 = PreprocessSpec(
    size=(1024, 1024), resize="squash", crop_ratio=1.0, interpolation="bilinear", engine="uint8"
)


class Transformers(Format):
    """Folders that `save_pretrained` writes."""

    name = "transformers"

    def matches(self, raw: RawCheckpoint) -> bool:
        """Names that no other package uses."""
        return any(
            key.endswith(("encoder.stages.0.layers.0.layernorm_before.weight", "blocks.0.layer_norm1.weight"))
            for key in raw.tensors
        )

    def dialect(self, raw: RawCheckpoint) -> tuple[str, Dialect]:
        """`hiera.` before the encoder in models with a head; `vision_encoder.backbone.` or less in SAM 2."""
        for tail, table in (
            ("encoder.stages.0.layers.0.layernorm_before.weight", HIERA),
            ("blocks.0.layer_norm1.weight", SAM2),
        ):
            for key in raw.tensors:
                if key.endswith(tail):
                    return key.removesuffix(tail), table
        raise CheckpointError(f"{raw.path} has no transformers Hiera names.")

    def config(self, raw: RawCheckpoint, geometry: Geometry, named: ModelConfig | None) -> ModelConfig:
        """`config.json` decides; without it, public shapes do."""
        if named is not None:
            if named.decoder is None and geometry.decoder_pools < 0 and not geometry.has_norm:
                named = dataclasses.replace(named, head="pool")
            return adapt(named, geometry)
        data = raw.config
        vision = data.get("vision_config", data)
        trunk = vision.get("backbone_config", vision) if isinstance(vision, Mapping) else {}
        if data.get("model_type") == "hiera" and "embed_dim" in data:
            config = _hiera_config(data, geometry)
        elif isinstance(trunk, Mapping) and trunk.get("model_type") == "sam2_hiera_det_model":
            config = _sam2_config(trunk)
        else:
            names = [n for n in ARCHITECTURES if n.startswith(("hiera_", "mae_hiera_", "sam2_"))]
            config = choose(geometry, [n for n in names if n.endswith("_224") or "sam2" in n], str(raw.path))
        if geometry.decoder_pools < 0 and not geometry.has_norm:
            config = dataclasses.replace(config, head="pool")
        return adapt(config, geometry, config.input_size)

    def preprocess(self, raw: RawCheckpoint, config: ModelConfig) -> PreprocessSpec:
        """`preprocessor_config.json`, or what its conversion script writes for these models."""
        base = PREPROCESS_SAM2 if config.family == "hieradet" else PREPROCESS
        spec = read_preprocessor(raw.preprocessor, base)
        return spec.with_size((config.input_size[-2], config.input_size[-1]))

    def labels(self, raw: RawCheckpoint, num_classes: int) -> list[str] | None:
        """`id2label`."""
        return ordered_labels(raw.config.get("id2label") or {}, num_classes)

    def left_over(self, key: str) -> str | None:
        """A backbone's stage norms and the parts of SAM 2 beside the encoder have no place in an encoder."""
        if key.startswith("hidden_states_norms."):
            return "stage norms of transformers' HieraBackbone"
        sam2 = ("mask_decoder.", "prompt_encoder.", "memory_", "object_pointer", "mask_downsample")
        others = (
            "no_memory",
            "no_object",
            "occlusion",
            "shared_image_embedding",
            "vision_encoder.neck.",
            "neck.",
        )
        if key.startswith((*sam2, *others, "temporal_positional", "obj_ptr")):
            return "part of SAM 2 beside the image encoder"
        return None

    def may_be_fresh(self, key: str) -> bool:
        """Transformers' SAM 2 trunk has no final norm."""
        return key.startswith("norm.")

    def obstacle(self, config: ModelConfig, tensors: Mapping[str, Tensor]) -> str | None:
        """No video, no windowed tables outside HieraDet, no global windows inside it, no class head on it."""
        if config.is_video:
            return "transformers has no video Hiera"
        if config.layer_scale is not None or config.shortcut != "linear":
            return "transformers' blocks have neither layer scale nor the max-and-mean shortcut"
        if config.family != "hieradet":
            if config.position == "window":
                return "transformers' Hiera has only plain position tables, this one's is windowed"
            if config.decoder is None and config.head not in ("pool_norm", "pool"):
                return f"transformers pools, then norms; this network's head is {config.head!r}"
            if config.head == "pool" and config.num_classes:
                return "transformers norms the pooled vector before it classifies; this network does not"
            return irregular(config)
        if any(window is None or isinstance(window, int) for window in config.windows):
            return f"its windows {config.windows} are global in whole stages, where transformers divides by zero"
        if config.num_classes:
            return "transformers' SAM 2 encoder has no classification head; load with num_classes=0 first"
        return trained_norm(tensors, "transformers' SAM 2 encoder has no final norm")

    def unused(self, config: ModelConfig) -> tuple[str, ...]:
        """Its autoencoder has no pooler, and no masked pass reads the final norm."""
        return ("norm.",) if config.decoder is not None else ()

    def write(self, weights: Weights, destination: Path) -> Path:
        """A folder with config.json, model.safetensors and preprocessor_config.json."""
        config, depths = weights.config, weights.config.depths
        tensors = {key: to_theirs(key, tensor, config) for key, tensor in weights.tensors.items()}
        if config.family == "hieradet":
            tensors = {k: t for k, t in tensors.items() if not k.startswith("norm.")}
            table, prefix, data = SAM2, "", _sam2_json(config)
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
        write_json(destination / "preprocessor_config.json", _preprocessor_json(weights))
        write_json(destination / "config.json", data)
        return destination


def _hiera_config(data: Mapping[str, Any], geometry: Geometry) -> ModelConfig:
    """Our config from a transformers `HieraConfig`."""
    if data.get("embed_dim_multiplier", 2.0) != 2.0 or data.get("hidden_act", "gelu") != "gelu":
        raise CheckpointError(
            "Only Hiera networks whose width doubles per stage and whose activation is gelu are supported; got "
            f"embed_dim_multiplier {data.get('embed_dim_multiplier')}, hidden_act {data.get('hidden_act')!r}."
        )
    unit, stride = tuple(data["masked_unit_size"]), tuple(data["query_stride"])
    q_pool = int(data["num_query_pool"])
    decoder = None
    if geometry.decoder_pools >= 0:
        decoder = DecoderConfig(
            num_heads=int(data.get("decoder_num_heads", 16)),
            normalize_target=bool(data.get("normalize_pixel_loss", True)),
        )
    size = data.get("image_size", 224)
    config = ModelConfig(
        input_size=(size, size) if isinstance(size, int) else tuple(size),
        in_channels=int(data.get("num_channels", 3)),
        embed_dim=int(data["embed_dim"]),
        num_heads=int(data["num_heads"][0]),
        depths=tuple(data["depths"]),
        windows=unit_windows(data["masked_unit_attention"], unit, stride, q_pool),
        q_pool=q_pool,
        q_stride=stride,
        patch_kernel=tuple(data["patch_size"]),
        patch_stride=tuple(data["patch_stride"]),
        patch_padding=tuple(data["patch_padding"]),
        mask_unit=unit,
        mlp_ratio=float(data.get("mlp_ratio", 4.0)),
        drop_path=float(data.get("drop_path_rate", 0.0)),
        norm_eps=float(data.get("layer_norm_eps", 1e-6)),
        head="pool" if decoder else "pool_norm",
        decoder=decoder,
    )
    return dataclasses.replace(config, name=public_name(config))


def _sam2_config(data: Mapping[str, Any]) -> ModelConfig:
    """Our config from a transformers `Sam2HieraDetConfig`; absent fields have that class's defaults."""
    size = data.get("image_size") or (1024, 1024)
    windows = data.get("window_size_per_stage") or (8, 4, 14, 7)
    table = data.get("window_positional_embedding_background_size") or (7, 7)
    embed_dim = int(data.get("hidden_size", 96))
    config = ModelConfig(
        family="hieradet",
        num_classes=0,
        input_size=(size, size) if isinstance(size, int) else tuple(size),
        in_channels=int(data.get("num_channels", 3)),
        embed_dim=embed_dim,
        num_heads=int(data.get("num_attention_heads", HEADS_BY_WIDTH.get(embed_dim, 1))),
        depths=tuple(data.get("blocks_per_stage") or (1, 2, 7, 2)),
        windows=tuple((w, w) if w else None for w in windows),
        mask_unit=(windows[0], windows[0]),
        global_blocks=tuple(data.get("global_attention_blocks") or ()),
        q_pool=int(data.get("num_query_pool_stages", 3)),
        position="window",
        position_size=tuple(table),
        mlp_ratio=float(data.get("mlp_ratio", 4.0)),
        norm_eps=float(data.get("layer_norm_eps", 1e-6)),
        head="pool",
    )
    return dataclasses.replace(config, name=public_name(config))


def _hiera_json(config: ModelConfig, labels: list[str] | None) -> dict[str, Any]:
    names = labels or [f"LABEL_{index}" for index in range(config.num_classes)]
    kind = "HieraModel" if config.head != "pool" else "HieraBackbone"  # the one class without a pooled norm
    if config.decoder or config.num_classes:
        kind = "HieraForPreTraining" if config.decoder else "HieraForImageClassification"
    data: dict[str, Any] = {
        "architectures": [kind],
        "model_type": "hiera",
        "embed_dim": config.embed_dim,
        "image_size": list(config.input_size),
        "patch_size": list(config.patch_kernel),
        "patch_stride": list(config.patch_stride),
        "patch_padding": list(config.patch_padding),
        "mlp_ratio": config.mlp_ratio,
        "depths": list(config.depths),
        "num_heads": [config.num_heads * 2**stage for stage in range(len(config.depths))],
        "embed_dim_multiplier": 2.0,
        "num_query_pool": config.q_pool,
        "query_stride": list(config.q_stride),
        "masked_unit_size": list(config.mask_unit),
        "masked_unit_attention": [window is not None for window in config.windows],
        "drop_path_rate": config.drop_path,
        "num_channels": config.in_channels,
        "hidden_act": "gelu",
        "layer_norm_eps": config.norm_eps,
    }
    if config.decoder:
        data["decoder_hidden_size"] = config.decoder.dim
        data["decoder_depth"] = config.decoder.depth
        data["decoder_num_heads"] = config.decoder.num_heads
        data["normalize_pixel_loss"] = config.decoder.normalize_target
    if kind == "HieraBackbone":
        data["out_features"] = [f"stage{stage}" for stage in range(1, len(config.depths) + 1)]
    if config.num_classes:
        data["id2label"] = {str(index): name for index, name in enumerate(names)}
        data["label2id"] = {name: index for index, name in enumerate(names)}
    return data


def _stage_norms(weights: Weights) -> dict[str, Tensor]:
    """Norms of a backbone's stage maps: the file's own where it was a backbone, else the identity."""
    import torch

    norms: dict[str, Tensor] = {}
    kept = weights.raw.tensors if weights.raw is not None else {}
    for stage, width in enumerate(weights.config.channels, start=1):
        key = f"hidden_states_norms.stage{stage}."
        norms[f"{key}weight"] = kept.get(f"{key}weight", torch.ones(width))
        norms[f"{key}bias"] = kept.get(f"{key}bias", torch.zeros(width))
    return norms


def _sam2_json(config: ModelConfig) -> dict[str, Any]:
    stages = range(len(config.depths))
    return {
        "architectures": ["Sam2HieraDetModel"],
        "model_type": "sam2_hiera_det_model",
        "hidden_size": config.embed_dim,
        "num_attention_heads": config.num_heads,
        "num_channels": config.in_channels,
        "image_size": list(config.input_size),
        "patch_kernel_size": list(config.patch_kernel),
        "patch_stride": list(config.patch_stride),
        "patch_padding": list(config.patch_padding),
        "query_stride": list(config.q_stride),
        "window_positional_embedding_background_size": list(config.table_size),
        "num_query_pool_stages": config.q_pool,
        "blocks_per_stage": list(config.depths),
        "embed_dim_per_stage": list(config.channels),
        "num_attention_heads_per_stage": [config.num_heads * 2**stage for stage in stages],
        "window_size_per_stage": [w[0] for w in config.windows if isinstance(w, tuple)],
        "global_attention_blocks": list(config.global_blocks),
        "mlp_ratio": config.mlp_ratio,
        "hidden_act": "gelu",
        "layer_norm_eps": config.norm_eps,
    }


def read_preprocessor(data: Mapping[str, Any], base: PreprocessSpec) -> PreprocessSpec:
    """A preprocess recipe from a `preprocessor_config.json`, `base` where it is silent."""
    size = data.get("size") or {}
    crop = data.get("crop_size") or {}
    changes: dict[str, Any] = {
        "mean": triple(data.get("image_mean"), base.mean),
        "std": triple(data.get("image_std"), base.std),
        "interpolation": {2: "bilinear", 3: "bicubic"}.get(data.get("resample", -1), base.interpolation),
    }
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    size = {"shortest_edge": size} if isinstance(size, int) else size
    if "shortest_edge" in size and "height" in crop and data.get("do_center_crop", True):
        changes |= {"resize": "shortest", "resize_to": int(size["shortest_edge"])}
        changes["size"] = (int(crop["height"]), int(crop["width"]))
    elif "height" in size:
        changes |= {"resize": "squash", "crop_ratio": 1.0, "resize_to": None}
        changes["size"] = (int(size["height"]), int(size["width"]))
    return dataclasses.replace(base, **changes)


def _preprocessor_json(weights: Weights) -> dict[str, Any]:
    spec = weights.preprocess
    data: dict[str, Any] = {
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "rescale_factor": 1 / 255,
        "resample": 3 if spec.interpolation == "bicubic" else 2,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
    }
    if weights.config.family == "hieradet":
        size = {"height": spec.size[0], "width": spec.size[1]}
        return {"image_processor_type": "Sam2ImageProcessor", **data, "size": size}
    data |= {"image_processor_type": "BitImageProcessor", "do_convert_rgb": True}
    if spec.resize == "squash":
        return {**data, "do_center_crop": False, "size": {"height": spec.size[0], "width": spec.size[1]}}
    shortest = spec.resize_to or int(min(spec.size) / spec.crop_ratio)
    crop = {"height": spec.size[0], "width": spec.size[1]}
    return {**data, "do_center_crop": True, "size": {"shortest_edge": shortest}, "crop_size": crop}
