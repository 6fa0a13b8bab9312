"""One case of the matrix of exports: a file of a family, and a predictor of it against one of the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import hierax

from ..members import noise, written
from .families import FAMILIES

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}


def exported(folder: Path, family: str, to: str, **options) -> tuple[Path, hierax.ExportReport]:
    """A file of that family, and the report on it."""
    source = written(FAMILIES[family], folder / "weights", "hierax")
    return source, hierax.export(source, folder / f"model{SUFFIXES[to]}", to=to, **options)


def check(source: Path, report: hierax.ExportReport, to: str) -> None:
    """A predictor of the file against one of the weights."""
    before, after = hierax.load(source), hierax.load(report.path)
    config = before.encoder.config
    images = [noise(70, 90, seed) for seed in range(2)]
    if config.is_video:
        images = [np.stack([noise(70, 90, seed + frame) for frame in range(4)]) for seed in range(2)]
    np.testing.assert_allclose(after.embed(images), before.embed(images), atol=1e-4)
    expected = before.features(images)
    for name, maps in after.features(images).items():
        scale = max(1.0, float(np.abs(expected[name]).max()))
        np.testing.assert_allclose(maps, expected[name], atol=1e-4 * scale)
    if config.num_classes:
        for ours, theirs in zip(after.classify(images), before.classify(images), strict=True):
            assert [guess.label for guess in ours] == [guess.label for guess in theirs]
            np.testing.assert_allclose([g.score for g in ours], [g.score for g in theirs], atol=1e-4)
    assert (after.labels, after.preprocess) == (before.labels, before.preprocess)
    assert after.card.format == to
    assert report.difference <= 1e-4


def all_outputs(family: str) -> tuple[str, ...]:
    logits = ("logits",) if FAMILIES[family].num_classes else ()
    return ("embedding", *logits, "stage1", "stage2", "stage3", "stage4")
