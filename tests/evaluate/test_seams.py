"""Seams: maps whose borders are known, windows of the published networks, and the command."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from PIL import Image

import hierax
from hierax.cli import main
from hierax.config import architecture
from hierax.errors import HieraxError, InputError, UnknownNameError
from hierax.evaluate import seams
from hierax.evaluate.borders import Stage, border_ratios, stages_of
from hierax.model.programs.encoder import ProgramEncoder
from hierax.predictor import Predictor
from hierax.weights.network import to_module

from ..members import MEMBERS, noise, weights_of


def windows(name, size=None):
    config = architecture(name)
    return stages_of(config if size is None else config.with_input_size(size))


def test_stages_of__published():
    """A lag forgotten, a padded window taken for a whole one, or a window in cells for one in pixels names others."""
    plain = windows("hiera_base_224")
    assert [stage.periods for stage in plain] == [((32, 32),), ((32, 32),), ((32, 32),), ()]
    assert not any(any(stage.strip) for stage in plain)
    det = windows("sam2_hiera_base_plus")
    assert [stage.periods for stage in det] == [
        ((32, 32),), ((32, 32),), ((224, 224), (32, 32)), ((224, 224),),
    ]  # fmt: skip
    assert [stage.strip for stage in det] == [(0, 0), (0, 0), (128, 128), (128, 128)]
    assert [stage.strip for stage in windows("sam2_hiera_base_plus", (896, 1024))][2:] == [(0, 128), (0, 128)]
    large = windows("sam2_hiera_large")
    assert [stage.periods for stage in large][2:] == [((256, 256), (32, 32)), ((256, 256),)]
    assert [stage.strip for stage in large] == [(0, 0)] * 4
    assert [stage.periods for stage in windows("hieradet_d_tiny")] == [stage.periods for stage in plain]
    assert [stage.periods for stage in windows("hieradet_tiny")][3] == ()  # at 224 px one window is the whole image


def test_border_ratios__pair_by_pair():
    """A border that is off by a cell, counted for two windows, or along one axis only, gives another ratio."""
    stage = Stage(3, 16, (12, 10), ((96, 64), (32, 32)), (0, 32))
    cells = np.random.default_rng(0).standard_normal((12, 10, 5))
    found = {(96, 64): [], (32, 32): [], "strip": [], None: []}
    for row, column in itertools.product(range(12), range(10)):
        for axis, (down, across) in enumerate(((row + 1, column), (row, column + 1))):
            if down == 12 or across == 10:
                continue
            distance = np.sqrt(((cells[row, column] - cells[down, across]) ** 2).sum())
            at = 16 * (down if axis == 0 else across)
            kind = (96, 64) if at % (96, 64)[axis] == 0 else (32, 32) if at % 32 == 0 else None
            found[kind].append(distance)
            if axis == 1 and at == 128:
                found["strip"].append(distance)
    inside = np.mean(found.pop(None))
    ratios = border_ratios(cells, stage)
    assert list(ratios) == list(found)
    for kind, distances in found.items():
        assert ratios[kind] == pytest.approx(np.mean(distances) / inside)


def test_border_ratios__known():
    """A ramp has no seams; one with steps of one cell's slope more has twice the distance at its borders."""
    stage = Stage(1, 4, (32, 32), ((32, 32),), (0, 0))
    ramp = np.add.outer(np.arange(32.0), np.arange(32.0))[..., None]
    assert border_ratios(ramp, stage) == {(32, 32): pytest.approx(1)}
    steps = np.arange(32) // 8
    assert border_ratios(ramp + np.add.outer(steps, steps)[..., None], stage) == {(32, 32): pytest.approx(2)}
    assert np.isnan(border_ratios(np.zeros((32, 32, 3)), stage)[32, 32])


def test_seams__rows():
    """Loud windows must show, the images must not, and the strip must be named where it is."""
    weights = weights_of(MEMBERS["SAM 2 trunk"])
    predictor = Predictor(to_module(weights).eval(), weights)
    scores = seams(predictor, size=(256, 288), images=2)
    told = [(row["stage"], row["window"], row["strip"]) for row in scores.results]
    strip = {"bottom": 32, "right": 64}
    assert told == [
        ("stage1", [32, 32], None), ("stage2", [32, 32], None),
        ("stage3", [224, 224], strip), ("stage3", [32, 32], strip), ("stage4", [224, 224], strip),
    ]  # fmt: skip
    for row in scores.results:
        assert row["size"] == [256, 288]
        assert row["images"] == 2
        assert row["ratio"] > 0
        assert row["spread"] >= 0
    assert abs(scores.results[0]["pixels"] - 1) < 0.2
    assert scores.results[0]["ratio"] > scores.results[0]["pixels"] + 0.1
    assert "bottom 32 px, right 64 px" in str(scores)
    assert seams(predictor, size=(256, 288), images=2).results[2]["ratio"] == scores.results[2]["ratio"]


def test_seams__own_images(tmp_path):
    """One's own images are preprocessed as ever; the ratio is that of the maps that `features` gives."""
    Image.fromarray(noise(96, 96)).save(tmp_path / "a.png")
    predictor = hierax.load()
    (first, second, *_) = seams(predictor, data=tmp_path).results
    maps = predictor.features(tmp_path / "a.png")
    for row, stage in ((first, 0), (second, 1)):
        cells = maps[f"stage{stage + 1}"][0].transpose(1, 2, 0)
        wanted = border_ratios(cells, stages_of(predictor.encoder.config)[stage])
        assert row["ratio"] == pytest.approx(wanted[32, 32], rel=1e-5)
        assert row["spread"] is None


def test_command(capsys, tmp_path):
    """json has what the table shows; architectures take random weights without a download."""
    models = ["-m", "hieradet_tiny", "hiera_tiny"]
    arguments = ["eval", "seams", *models, "--random-weights", "--size", "64", "--images", "1"]
    assert main([*arguments, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["model"] for row in found["results"]} == {"hieradet_tiny, random weights", "hiera_tiny, random weights"}
    assert found["results"][-1]["ratio"] is None
    assert main(["eval", "seams", "--size", "64", "96", "--images", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["model", "stage", "cells", "window", "ratio", "pixels"]
    assert lines[1].split()[:4] == ["hiera_nano_96", "stage1", "16x24", "32"]
    Image.fromarray(noise(96, 96)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    assert main(["eval", "seams", "--data", str(tmp_path)]) == 3
    assert "b.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--size", "100"], "multiple of 32"),
        (["--size", "64", "64", "64"], "got 3 numbers"),
        (["--size", "-64"], "multiple of 32"),
        (["--size", "999968"], "65535"),
        (["--images", "0"], "images"),
        (["--data", "nowhere"], "nowhere"),
        (["-m", "hiera_tinny", "--random-weights"], "Did you mean"),
        (["--random-weights"], "names of architectures"),
        (["-m", "hiera_base_16x224", "--random-weights"], "takes clips"),
    ],
)
def test_command__refuses(arguments, match, capsys):
    """One line that says what would do."""
    assert main(["eval", "seams", *arguments]) == 1
    said = capsys.readouterr().err
    assert match in said
    assert "internal error" not in said


def test_seams__refuses_programs():
    """A program's windows are nobody's knowledge."""
    program = ProgramEncoder(MEMBERS["Hiera"], lambda x, names: {}, ("logits",), any_size=False)
    with pytest.raises(InputError, match="exported program"):
        seams(Predictor(program, weights_of(MEMBERS["Hiera"])))
    with pytest.raises(UnknownNameError):
        seams("no_such_network", random_weights=True)
    with pytest.raises(HieraxError):
        seams(3)
