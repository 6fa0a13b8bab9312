"""Whether self-distillation learns what rendered textures are, beside a random start and MAE; numbers as measured."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hierax.config import PreprocessSpec
from hierax.model.init import build
from hierax.model.neighbours import knn_accuracy
from hierax.registry import load
from hierax.train import pretrain
from hierax.weights.card import ModelCard, Weights
from hierax.weights.network import from_module
from hierax.weights.write import write_weights

from ..members import abswin_config

KINDS = ("across", "down", "slanted", "checks", "dots", "rings", "crosses", "squares")
SIDE, STEPS, BATCH = 128, 120, 16
ABOVE = 0.05  # of a random start, over its spread: noise of 320 images and three seeds is half of that


def texture(kind: str, rng: np.random.Generator) -> np.ndarray:
    """One pattern at a random scale, place and contrast, in greys, under grain.

    In greys, for whatever two crops of an image share is a right answer to the method: were each image of two colours
    of its own, those would do, and patterns need not be learned.
    """
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    period, (a, b) = rng.uniform(8, 16), rng.uniform(0, 2 * np.pi, 2)
    across, down = np.sin(2 * np.pi * y / period + b), np.sin(2 * np.pi * x / period + a)
    u, v = ((place + 9 * shift) % (2 * period) - period for place, shift in ((x, a), (y, b)))
    centre = np.hypot(x - rng.uniform(0, SIDE), y - rng.uniform(0, SIDE))
    pattern = {
        "across": across,
        "down": down,
        "slanted": np.sin(2 * np.pi * (x + rng.choice([-1, 1]) * y) / period / 1.4 + a),
        "checks": np.sign(across * down),
        "dots": np.where(np.hypot(u, v) < 0.6 * period, 1.0, -1.0),
        "rings": np.sin(2 * np.pi * centre / period),
        "crosses": np.where((abs(u) < 0.2 * period) | (abs(v) < 0.2 * period), 1.0, -1.0),
        "squares": np.kron(rng.choice([-1.0, 1.0], (SIDE // 8, SIDE // 8)), np.ones((8, 8))),
    }[kind]
    dark, bright = rng.uniform(40, 215, 2)
    pixels = dark + (bright - dark) * (pattern + 1) / 2 + rng.normal(0, 12, (SIDE, SIDE))
    return np.repeat(pixels.clip(0, 255).astype(np.uint8)[..., None], 3, -1)


def textures(folder: Path, per_kind: int, seed: int) -> Path:
    """One folder a kind."""
    rng = np.random.default_rng(seed)
    for kind in KINDS:
        (folder / kind).mkdir(parents=True)
        for index in range(per_kind):
            Image.fromarray(texture(kind, rng)).save(folder / kind / f"{index}.png")
    return folder


def told_apart(model: Path, held: Path) -> float:
    """Share of held-out textures whose kind their nearest neighbours vote for."""
    files = sorted(held.glob("*/*.png"))
    labels = np.array([KINDS.index(path.parent.name) for path in files])
    return round(knn_accuracy(np.asarray(load(model).embed(files), np.float64), labels, k=20), 3)


@pytest.mark.nightly
def test_the_teacher_beats_a_random_start(tmp_path):
    """By more than the spread over three seeds; MAE gets as much processor time, and is reported whatever it does."""
    data, held = textures(tmp_path / "data", 100, 0), textures(tmp_path / "held", 40, 1)
    config = abswin_config((SIDE, SIDE), (8, 8), embed_dim=24, depths=(1, 1, 2, 1), num_classes=0)
    spec = PreprocessSpec(size=(SIDE, SIDE), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    usual = {"workers": 0, "device": "cpu", "batch_size": BATCH, "checkpoint_every": 0, "flip": 0.0}
    found: dict[str, list[float]] = {"random": [], "dinov2": [], "mae": []}
    for seed in range(3):
        torch.manual_seed(seed)
        weights = from_module(build(config), Weights(card=ModelCard(config=config, preprocess=spec)))
        start = write_weights(weights, tmp_path / f"start{seed}", to="hierax")
        found["random"].append(told_apart(start, held))
        began = time.process_time()
        small = {"local_crops": 4, "local_size": 64, "head_dim": 256, "bottleneck": 64, "warm_start_heads": 0}
        own = {**usual, **small, "model": start, "seed": seed}
        made = pretrain(data, tmp_path / f"dinov2{seed}", method="dinov2", steps=STEPS, **own)
        spent = time.process_time() - began
        found["dinov2"].append(told_apart(made.model, held))
        shape = {"decoder_dim": 48, "decoder_depth": 2, "decoder_heads": 4, "mask_ratio": 0.6}
        mae = {**usual, **shape, "model": start, "seed": seed, "lr": 1e-3, "lr_scaling": "sqrt"}
        began = time.process_time()
        pretrain(data, tmp_path / f"try{seed}", steps=20, **mae)
        steps = max(20, round(20 * spent / (time.process_time() - began)))
        made = pretrain(data, tmp_path / f"mae{seed}", steps=steps, **mae)
        found["mae"].append(told_apart(made.model, held))
        print("kNN of held-out textures:", json.dumps(found), "MAE steps", steps, flush=True)
    spread = max(statistics.stdev(found[name]) for name in ("random", "dinov2"))
    assert statistics.mean(found["dinov2"]) - statistics.mean(found["random"]) > spread + ABOVE
    assert min(found["dinov2"]) > max(found["random"])
