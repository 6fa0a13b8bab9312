"""An end-to-end run on rendered data, reported as measured whatever it is."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from hierax.train import finetune, pretrain

SETTINGS = {
    "workers": 2, "device": "cpu", "batch_size": 64, "lr": 1e-3, "layer_decay": 1.0, "drop_path": 0.0, "ema_decay": 0.0,
    "crop_scale": [0.7, 1.0], "input_size": 64, "checkpoint_every": 0, "validation": "shapes:800@9x64",
    "init": "torch",
}  # fmt: skip


@pytest.mark.nightly
def test_random_mae_and_supervised_starts(tmp_path: Path):
    """Few labels from a random start, from MAE and from supervised training on other images, three seeds each.

    Only the supervised start is required to help: toy MAE is known not to transfer reliably, so it is reported.
    """
    other = "shapes:12800@4x64"
    encoders = {}
    summary = pretrain(other, tmp_path / "mae", model="hiera_nano_96", epochs=1, pretrained=False, decoder_dim=96, decoder_depth=2,
                       decoder_heads=4, mask_ratio=0.5, workers=2, device="cpu", input_size=64, lr=1e-3)  # fmt: skip
    assert summary.loss < 0.9987
    encoders["mae"] = summary.model
    encoders["supervised"] = finetune(
        other, tmp_path / "full", model="hiera_nano_96", epochs=1, pretrained=False, **SETTINGS
    ).model
    encoders["random"] = "hiera_nano_96"
    found = {
        name: [
            finetune("shapes:320@5x64", tmp_path / f"{name}{seed}", model=model, epochs=20, seed=seed, pretrained=name != "random",
                     **SETTINGS).metrics["top1"]
            for seed in range(3)
        ]
        for name, model in encoders.items()
    }  # fmt: skip
    print("top-1 with 320 labels:", json.dumps(found))
    assert statistics.mean(found["supervised"]) > statistics.mean(found["random"])
