"""Training on clips."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

import hierax
from hierax.config import DecoderConfig, PreprocessSpec, architecture
from hierax.model.init import build
from hierax.model.mae import random_units
from hierax.train import finetune, pretrain
from hierax.train.batches import Part
from hierax.train.methods.mae import MaskedPretraining, frames
from hierax.train.reading import recipe_of
from hierax.visualize.reconstruction import reconstruction
from hierax.weights.card import ModelCard, Weights
from hierax.weights.network import from_module

from ..members import noise, save_video_learner, write_clip
from . import runs


def clips(folder):
    for label in range(2):
        (folder / f"class_{label}").mkdir(parents=True)
        for index in range(3):
            video = np.stack([noise(80, 80, 100 * index + frame) // 3 for frame in range(12)])
            video[..., label] += 120
            write_clip(folder / f"class_{label}" / f"{index}.mp4", video, rate=10)
    (folder / "class_0" / "bad.mp4").write_bytes(b"no video")
    return folder


@pytest.mark.drawn
def test_clips_train_both_ways(tmp_path):
    """Frames on the wrong axis, or a broken clip that stops the run, fails."""
    data, model = clips(tmp_path / "data"), save_video_learner(tmp_path / "model")
    settings = {**runs.SETTINGS, "batch_size": 4, "repeats": 2, "epochs": 2, "frame_stride": 2}
    summary = finetune(data, tmp_path / "ft", model=model, validation_fraction=0.3, **settings)
    assert summary.metrics["total"] + len(summary.unreadable) >= 2
    assert hierax.load(summary.model).preprocess.frame_stride == 2
    page = (summary.out / "report.html").read_text("utf-8")
    assert "held-out clip" in page  # a report that calls clips images is of another run
    assert f" on {summary.samples} clips for " in page
    assert ".mp4 -m " in page
    assert "images of 2 classes" not in page
    summary = pretrain(data, tmp_path / "pt", model=model, mask_ratio=0.7, decoder_dim=16, decoder_depth=1,
                       decoder_heads=2, **settings)  # fmt: skip
    with Image.open(tmp_path / "pt" / "reconstructions.png") as picture:
        assert picture.height >= 2 * 224  # two frames of each of two clips: one row a frame
    assert list(summary.unreadable) == ["class_0/bad.mp4"]
    assert all(np.isfinite(summary.losses))


@pytest.mark.parametrize("ratio", [0.5, 0.9])
def test_frames_of_a_perfect_prediction_are_the_clip(monkeypatch, ratio):
    """Tokens of another frame, the channel order of images, or the second frame of a pair do not give the frame back."""
    base = architecture("mae_hiera_base_16x224")
    config = dataclasses.replace(
        base, name="custom", input_size=(8, 96, 96), embed_dim=8, num_heads=1, depths=(1, 1, 1, 1),
        decoder=DecoderConfig(dim=16, depth=1, num_heads=2),
    )  # fmt: skip
    empty = Weights(card=ModelCard(config=config, preprocess=PreprocessSpec(size=(96, 96))))
    recipe = recipe_of({"method": "mae", "mask_ratio": ratio})
    method = MaskedPretraining(from_module(build(config), empty), recipe, [])
    pixels = torch.randint(0, 256, (2, 3, 8, 96, 96), dtype=torch.uint8)
    visible = random_units(2, method.units, ratio)
    part = Part({"pixels": pixels, "visible": visible}, torch.zeros(2), torch.tensor([5, 6]), [0, 1], [])
    real = method.module.forward

    def perfect(x, **kwargs):
        output = real(x, **kwargs)
        return output._replace(prediction=output.target)

    monkeypatch.setattr(method.module, "forward", perfect)
    made = method.rebuilt(part)
    assert len(made) >= 2
    spec, shape = method.weights.preprocess, {"pixels": method.module.pixels, "unit": method.module.unit[-2:]}
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (spec.mean, spec.std))
    real_frames = [(pixels[clip, :, 2 * token].numpy() / 255 - mean) / std for clip in range(2) for token in range(4)]
    for image, visible, prediction in made:
        assert min(np.abs(image - frame).max() for frame in real_frames) < 1e-5
        whole = reconstruction(image, visible, prediction, **shape)[0]
        np.testing.assert_allclose(whole, image, atol=1e-5)
        empty_one = reconstruction(image, visible, prediction * 0, **shape)[0]
        assert np.abs(empty_one - image).max() > 0.1


def test_frames_that_nothing_was_seen_of_are_left_out():
    """The drawing refuses a frame without a visible unit; one such frame must not cost the whole picture."""
    clip = np.zeros((3, 4, 64, 64), dtype=np.float32)
    predictions = np.zeros((4 * 16 - 2 * 4, 768), dtype=np.float32)  # units 0 of frame 0 and 9 of frame 2 were seen
    rows = frames(clip, np.array([0, 9]), predictions, pixels=16, unit=(2, 2))
    assert [visible.tolist() for _, visible, _ in rows] == [[0], [1]]
    assert [len(hidden) for *_, hidden in rows] == [12, 12]
