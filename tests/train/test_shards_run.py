"""A run on shards of which half are broken: it trains on what is good and reports the rest."""

from __future__ import annotations

import json

from hierax.train import finetune

from ..data.test_training_data import png, samples, write_tar
from . import tiny


def test_broken_shards(tmp_path):
    """One bad member that stops the run, or a loss that nobody hears of, fails."""
    data = tmp_path / "shards"
    data.mkdir()
    write_tar(data / "train-0.tar", samples(6))
    odd = [
        ("a.jpg", png(mode="CMYK", kind="JPEG")), ("a.cls", b"1"), ("b.png", png(size=(1, 1))), ("b.cls", b"2"),
        ("c.jpg", png(kind="JPEG")), ("d.jpg", b"<html>"), ("d.cls", b"0"),
    ]  # fmt: skip
    write_tar(data / "train-1.tar", odd)
    cut = write_tar(data / "train-2.tar", samples(4, 20))
    cut.write_bytes(cut.read_bytes()[: 512 * 8])
    summary = finetune(
        data, tmp_path / "out", model=tiny.save(tmp_path / "m"), epochs=2, validation_fraction=0.0, **tiny.SETTINGS
    )
    assert summary.skipped_steps == 0
    assert set(summary.unreadable) == {"train-1.tar/d"}
    problems = {name for name, _ in json.loads((tmp_path / "out" / "summary.json").read_text())["problems"]}
    assert "train-1.tar/c" in problems
    assert "train-2.tar" in problems
    assert summary.samples == 6 + 3 + 1
