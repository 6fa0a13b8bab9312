"""Tiny members of every family, in every format that can hold them, for the tests that go through all conversions."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hierax.config import ARCHITECTURES, DecoderConfig, ModelConfig, PreprocessSpec, square_windows
from hierax.model.encoder import Encoder
from hierax.model.init import build
from hierax.model.mae import MaskedAutoencoder
from hierax.weights.card import ModelCard, Weights
from hierax.weights.formats import FORMAT_NAMES, sam2
from hierax.weights.network import from_module, to_module
from hierax.weights.write import write_weights

from ..peers import VIDEO, loud

FORMATS = FORMAT_NAMES
SMALL = {"input_size": (64, 64), "embed_dim": 8, "depths": (1, 2, 3, 1), "num_classes": 3}
WINDOW = {"position": "window", "position_size": (4, 4), "position_antialias": True, "family": "hiera_abswin"}
DET = {
    **SMALL,
    "family": "hieradet",
    "position": "window",
    "position_size": (7, 7),
    "global_blocks": (4,),
    "num_classes": 0,
}
CLIP = {
    **VIDEO,
    "family": "hiera_video",
    "input_size": (4, 64, 64),
    "windows": ((1, 8, 8), (1, 4, 4), None, None),
    "mask_unit": (1, 8, 8),
    "position": "separable",
}
MAE = {"num_classes": 0, "q_pool": 2, "head": "pool", "decoder": DecoderConfig(dim=16, depth=2, num_heads=2)}


def _det(windows: tuple[int, ...], **options: object) -> ModelConfig:
    return ModelConfig(**{**DET, "windows": square_windows(windows), **options})


MEMBERS: dict[str, ModelConfig] = {
    "Hiera": ModelConfig(**SMALL),
    "Hiera without classes": ModelConfig(**{**SMALL, "num_classes": 0}),
    "Hiera MAE": ModelConfig(**{**SMALL, **MAE}),
    "Hiera video": ModelConfig(**{**SMALL, **CLIP}),
    "Hiera video MAE": ModelConfig(**{**SMALL, **CLIP, **MAE}),
    "SAM 2 trunk": _det((8, 4, 14, 7), head="pool"),
    "timm SAM 2 (trained norm)": _det((8, 4, 14, 7), head="pool_norm"),
    "timm HieraDet": _det((8, 4, 16, 8), head="pool_norm", layer_scale=1e-5, num_classes=3),
    "timm abswin": ModelConfig(**{**SMALL, **WINDOW, "position_size": (14, 14), "layer_scale": 1e-5}),
    "timm small abswin": ModelConfig(**{**SMALL, **WINDOW, "layer_scale": 1e-5, "shortcut": "max_avg"}),
    "birder abswin": ModelConfig(**{**SMALL, **WINDOW}),
    "birder abswin, attention pool": ModelConfig(**{**SMALL, **WINDOW, "head": "attention", "attention_pool_heads": 2}),
    "birder HieraDet": _det((8, 4, 14, 7), head="norm_pool", num_classes=3),
    "birder HieraDet, global stages": _det((8, 4, 0, 0), head="norm_pool", num_classes=3),
    "birder MAE": ModelConfig(**{**SMALL, **MAE, "q_pool": 3, "decoder": DecoderConfig(), "head": "pool_norm"}),
}
# What a target cannot express, and the words of the message that name it.
REFUSED: dict[tuple[str, str], str] = {
    ("Hiera", "sam2"): "HieraDet trunks only",
    ("Hiera without classes", "sam2"): "HieraDet trunks only",
    ("Hiera MAE", "sam2"): "HieraDet trunks only",
    ("Hiera MAE", "timm"): "no masked autoencoder",
    ("Hiera MAE", "birder"): "8 blocks of width 512",
    ("Hiera video", "sam2"): "HieraDet trunks only",
    ("Hiera video", "transformers"): "no video",
    ("Hiera video", "timm"): "images only",
    ("Hiera video", "birder"): "no video",
    ("Hiera video MAE", "sam2"): "HieraDet trunks only",
    ("Hiera video MAE", "transformers"): "no video",
    ("Hiera video MAE", "timm"): "no masked autoencoder",
    ("Hiera video MAE", "birder"): "no video",
    ("SAM 2 trunk", "meta"): "windowed",
    ("timm SAM 2 (trained norm)", "meta"): "windowed",
    ("timm SAM 2 (trained norm)", "sam2"): "no final norm",
    ("timm SAM 2 (trained norm)", "transformers"): "no final norm",
    ("timm SAM 2 (trained norm)", "birder"): "norms tokens before pooling",
    ("timm HieraDet", "meta"): "windowed",
    ("timm HieraDet", "sam2"): "no layer scale",
    ("timm HieraDet", "transformers"): "layer scale",
    ("timm HieraDet", "birder"): "layer scale",
    ("timm abswin", "meta"): "windowed",
    ("timm abswin", "sam2"): "HieraDet trunks only",
    ("timm abswin", "transformers"): "layer scale",
    ("timm abswin", "birder"): "layer scale",
    ("timm small abswin", "meta"): "windowed",
    ("timm small abswin", "sam2"): "HieraDet trunks only",
    ("timm small abswin", "transformers"): "layer scale",
    ("timm small abswin", "birder"): "layer scale",
    ("birder abswin", "meta"): "windowed",
    ("birder abswin", "sam2"): "HieraDet trunks only",
    ("birder abswin", "transformers"): "windowed",
    ("birder abswin, attention pool", "meta"): "windowed",
    ("birder abswin, attention pool", "sam2"): "HieraDet trunks only",
    ("birder abswin, attention pool", "transformers"): "windowed",
    ("birder abswin, attention pool", "timm"): "'attention'",
    ("birder HieraDet", "meta"): "windowed",
    ("birder HieraDet", "sam2"): "no classification head",
    ("birder HieraDet", "transformers"): "no classification head",
    ("birder HieraDet", "timm"): "'norm_pool'",
    ("birder HieraDet, global stages", "meta"): "windowed",
    ("birder HieraDet, global stages", "sam2"): "divides by zero",
    ("birder HieraDet, global stages", "transformers"): "divides by zero",
    ("birder HieraDet, global stages", "timm"): "'norm_pool'",
    ("birder MAE", "sam2"): "HieraDet trunks only",
    ("birder MAE", "timm"): "no masked autoencoder",
}


@pytest.fixture
def tiny_sam2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the tiny trunk a public one: SAM 2's files name no architecture, so only public trunks are known."""
    trunk = dataclasses.replace(MEMBERS["SAM 2 trunk"], name="sam2_hiera_toy")
    monkeypatch.setitem(ARCHITECTURES, "sam2_hiera_toy", trunk)
    monkeypatch.setattr(sam2, "NAMES", ("sam2_hiera_toy",))


def weights_of(config: ModelConfig, seed: int = 0) -> Weights:
    """Loud random weights, with labels and a preprocess that are nobody's default."""
    spec = PreprocessSpec(size=config.input_size[-2:], crop_ratio=0.8, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    labels = [f"bird {index}" for index in range(config.num_classes)] or None
    return from_module(
        loud(build(config), seed), Weights(card=ModelCard(config=config, preprocess=spec), labels=labels)
    )


def written(config: ModelConfig, folder: Path, to: str) -> Path:
    """A file or folder of that format with that network."""
    return write_weights(weights_of(config), folder, to=to)


def answer(weights: Weights) -> dict[str, Tensor]:
    """What the network says about one fixed input: maps and embedding, or an autoencoder's predictions."""
    module = to_module(weights).eval()
    x = torch.randn(1, 3, *weights.config.input_size, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        if isinstance(module, MaskedAutoencoder):
            said = module(x, visible=torch.arange(2)[None])
            return {"loss": said.loss, "prediction": said.prediction}
        assert isinstance(module, Encoder)
        return {**module.detection_features(x), "logits": module(x)}
