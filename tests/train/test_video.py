"""Training on clips."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hierax.config import ModelConfig, PreprocessSpec, architecture
from hierax.model.init import build
from hierax.train import finetune, pretrain
from hierax.weights.load import from_module, write_weights
from hierax.weights.state import Weights

from . import tiny


def tiny_video(folder):
    base = architecture("hiera_base_16x224")
    config: ModelConfig = dataclasses.replace(
        base, name="custom", input_size=(4, 64, 64), embed_dim=8, num_heads=1, depths=(1, 1, 1, 1), num_classes=0
    )
    empty = Weights(config=config, tensors={}, preprocess=PreprocessSpec(size=(64, 64)))
    return write_weights(from_module(build(config), empty), folder, to="hierax")


def clips(folder):
    av = pytest.importorskip("av")
    rng = np.random.default_rng(0)
    for label in range(2):
        (folder / f"class_{label}").mkdir(parents=True)
        for index in range(3):
            with av.open(str(folder / f"class_{label}" / f"{index}.mp4"), "w") as container:
                stream = container.add_stream("mpeg4", rate=10)
                stream.width = stream.height = 80
                for _ in range(12):
                    frame = rng.integers(0, 100, (80, 80, 3), dtype=np.uint8)
                    frame[..., label] += 120
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
                container.mux(stream.encode())
    (folder / "class_0" / "bad.mp4").write_bytes(b"no video")
    return folder


def test_clips_train_both_ways(tmp_path):
    """Frames on the wrong axis, or a broken clip that stops the run, fails."""
    data, model = clips(tmp_path / "data"), tiny_video(tmp_path / "model")
    settings = {**tiny.SETTINGS, "batch_size": 4, "repeats": 2, "epochs": 2, "frame_stride": 2}
    summary = finetune(data, tmp_path / "ft", model=model, validation_fraction=0.3, **settings)
    assert summary.metrics["total"] + len(summary.unreadable) >= 2
    summary = pretrain(data, tmp_path / "pt", model=model, mask_ratio=0.7, decoder_dim=16, decoder_depth=1,
                       decoder_heads=2, **settings)  # fmt: skip
    assert list(summary.unreadable) == ["class_0/bad.mp4"]
    assert all(np.isfinite(summary.losses))
