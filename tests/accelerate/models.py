"""Whole models of sam2 and transformers around a small encoder, loud, and what people ask of them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..members import loud, picture
from ..peers import hf_config, peer

SIDE = 128  # pixels of the small SAM 2
DEPTHS, GLOBAL, WIDTH = (1, 2, 3, 1), (4,), 16
CHANNELS = [WIDTH * 8, WIDTH * 4, WIDTH * 2, WIDTH]


def sam2_model(kind: str = "sam2.modeling.sam2_base.SAM2Base", **options: Any) -> Any:
    """SAM 2 as its own configuration builds it, with a small trunk and small images."""
    peer("sam2.modeling.sam2_base")
    hydra, conf = importlib.import_module("hydra.utils"), importlib.import_module("omegaconf").OmegaConf
    package = Path(importlib.import_module("sam2").__file__ or "").parent
    config = conf.to_container(conf.load(package / "configs" / "sam2.1" / "sam2.1_hiera_t.yaml"))["model"]
    trunk, neck = config["image_encoder"]["trunk"], config["image_encoder"]["neck"]
    trunk |= {"embed_dim": WIDTH, "stages": list(DEPTHS), "global_att_blocks": list(GLOBAL)}
    neck["backbone_channel_list"] = CHANNELS
    layer = config["memory_attention"]["layer"]
    for part in ("self_attention", "cross_attention"):
        layer[part]["feat_sizes"] = [SIDE // 16, SIDE // 16]
    config["memory_attention"]["num_layers"] = 1
    config |= {"_target_": kind, "image_size": SIDE, **options}
    return loud(hydra.instantiate(config, _convert_="all"))


def sam2_predictor() -> Any:
    """SAM2ImagePredictor, told the sizes of the small maps."""
    predictor = peer("sam2.sam2_image_predictor").SAM2ImagePredictor(sam2_model())
    predictor._bb_feat_sizes = [(SIDE // stride, SIDE // stride) for stride in (4, 8, 16)]
    return predictor


def sam2_frames(folder: Path, count: int = 5) -> Path:
    """JPEG frames of a square that moves."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        frame = np.array(picture((96, 80), seed=1))
        frame[20:50, 10 + 8 * index : 40 + 8 * index] = (240, 30, 60)
        Image.fromarray(frame).save(folder / f"{index:05}.jpg", quality=95)
    return folder


def hf_sam2_config(kind: str = "Sam2Config") -> Any:
    """transformers' configuration of the same small network."""
    transformers = peer("transformers")
    backbone = {
        "hidden_size": WIDTH,
        "num_attention_heads": 1,
        "image_size": [SIDE, SIDE],
        "blocks_per_stage": list(DEPTHS),
        "embed_dim_per_stage": CHANNELS[::-1],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": [8, 4, 14, 7],
        "window_positional_embedding_background_size": [7, 7],
        "global_attention_blocks": list(GLOBAL),
        "model_type": "sam2_hiera_det_model",
    }
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=CHANNELS,
        backbone_feature_sizes=[[SIDE // 4] * 2, [SIDE // 8] * 2, [SIDE // 16] * 2],
    )
    if kind == "Sam2VisionConfig":
        return vision
    options: dict[str, Any] = {"prompt_encoder_config": {"image_size": SIDE}}
    if kind == "Sam2VideoConfig":
        options |= {
            "image_size": SIDE,
            "memory_attention_num_layers": 1,
            "memory_attention_rope_feat_sizes": [SIDE // 16] * 2,
        }
    return getattr(transformers, kind)(vision_config=vision.to_dict(), **options)


def hf_classifier() -> Any:
    """HieraForImageClassification of 64 pixels."""
    config = hf_config((64, 64), (1, 2, 3, 1), 16, num_labels=5)
    return loud(peer("transformers").HieraForImageClassification(config))
