"""Clips through the predictor and the command line: sampled as the paper does, views averaged on request."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import hierax
from hierax.cli import main
from hierax.data.video import preprocess_clip, read_clip
from hierax.weights.card import Weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small video model, saved."""
    options = {"embed_dim": 8, "num_heads": 1, "depths": (1, 1, 1, 1), "input_size": (4, 32, 32), "num_classes": 3}
    model = hierax.create("hiera_base_16x224", **options)
    spec = hierax.PreprocessSpec(size=(32, 32), resize="squash", crop_ratio=1.0)
    card = hierax.describe("hiera_base_16x224")
    weights = Weights(card=dataclasses.replace(card, preprocess=spec))
    return hierax.Predictor(model, weights).save(tmp_path_factory.mktemp("video") / "model")


def film(seed: int, frames: int = 40) -> np.ndarray:
    """RGB bytes (t, h, w, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (frames, 24, 30, 3), dtype=np.uint8)


def test_views_are_averaged(folder):
    """One view counted several times, or logits averaged before softmax, would give other scores."""
    predictor = hierax.load(folder)
    clips = [preprocess_clip(clip, predictor.preprocess) for clip in read_clip(film(0), frames=4, views=3)]
    each = [predictor.classify(clip, top_k=3)[0] for clip in clips]
    expected = {i: np.mean([next(g.score for g in row if g.index == i) for row in each]) for i in range(3)}
    vector = np.mean([predictor.embed(clip)[0] for clip in clips], 0)
    (row,) = predictor.classify([film(0)], top_k=3, views=3)
    assert {g.index: g.score for g in row} == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(predictor.embed([film(0)], views=3)[0], vector, atol=1e-5)
    assert predictor.features([film(0)])["stage4"].shape[0] == 1
    predictor.views = 3
    (row,) = predictor.classify([film(0)], top_k=3)
    assert {g.index: g.score for g in row} == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(predictor.embed([film(0)])[0], vector, atol=1e-5)
    with pytest.raises(hierax.InputError, match="one view"):
        predictor.features([film(0)])


def test_command_line(folder, tmp_path, capsys):
    """A clip file must be found, sampled and named; a broken one must become a row."""
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for image in film(1, 30):
            picture = np.kron(image[:12, :16], np.ones((4, 4, 1), np.uint8))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    (tmp_path / "b.mp4").write_bytes(b"no video")
    assert main(["classify", str(tmp_path), "-m", str(folder), "--views", "2", "--top-k", "1"]) == 3
    out = capsys.readouterr().out
    assert "a.mp4" in out
    assert "error" in out
    command = ["embed", str(tmp_path), "-m", str(folder), "-o", str(tmp_path / "v.npz"), "--views", "2"]
    assert main(command) == 3
    data = np.load(tmp_path / "v.npz")
    assert np.isfinite(data["embedding"][0]).all()
    assert np.isnan(data["embedding"][1]).all()
    assert main(["classify", str(tmp_path / "a.mp4"), "--views", "2"]) == 1
    assert "--views" in capsys.readouterr().err
