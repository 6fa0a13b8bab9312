"""Clips through the commands: found, sampled and named; a broken one becomes a row."""

from __future__ import annotations

import numpy as np

from hierax.cli import main

from ..members import noise, save_video_learner, write_clip


def test_clips_and_a_broken_one(tmp_path, capsys):
    """A clip file must be found, sampled and named; a broken one must become a row."""
    model = save_video_learner(tmp_path / "model", 32, num_classes=3)
    folder = tmp_path / "clips"
    folder.mkdir()
    frames = np.stack([noise(12, 16, seed) for seed in range(30)])
    write_clip(folder / "a.mp4", frames.repeat(4, 1).repeat(4, 2))
    (folder / "b.mp4").write_bytes(b"no video")
    assert main(["classify", str(folder), "-m", str(model), "--views", "2", "--top-k", "1"]) == 3
    out = capsys.readouterr().out
    assert "a.mp4" in out
    assert "error" in out
    command = ["embed", str(folder), "-m", str(model), "-o", str(tmp_path / "v.npz"), "--views", "2"]
    assert main(command) == 3
    data = np.load(tmp_path / "v.npz")
    assert np.isfinite(data["embedding"][0]).all()
    assert np.isnan(data["embedding"][1]).all()
    assert main(["classify", str(folder / "a.mp4"), "--views", "2"]) == 1
    assert "--views" in capsys.readouterr().err
