"""Collapse, provoked: each kind is warned of, and a healthy run is not."""

from __future__ import annotations

import dataclasses
import json

import pytest

import hierax
from hierax.config import PreprocessSpec
from hierax.model.init import build
from hierax.train.bounds import CollapseSettings, collapse_bounds
from hierax.weights.card import ModelCard, Weights
from hierax.weights.network import from_module
from hierax.weights.write import write_weights

from ..members import abswin_config
from . import runs
from .test_defaults import digits, regions
from .test_dinov2_learning import textures

pytestmark = pytest.mark.slow

SETTINGS = {
    "method": "dinov2", "recipe": "small_dinov2", "workers": 0, "device": "cpu", "checkpoint_every": 0, "batch_size": 8,
    "lr": 2e-3, "lr_batch": 8, "warmup_steps": 5, "freeze_steps": 0, "augmentation": "none", "local_crops": 2,
    "local_size": 32, "prototypes": 128, "head_dim": 64, "bottleneck": 32, "collapse_steps": 15, "log_every": 5,
}  # fmt: skip
# No centring, and a teacher that follows at once: what centring is there to prevent.
UNCENTRED = {"centring": "centre", "centre_momentum": 0.99999, "teacher_momentum": 0.9, "lr": 1e-2, "koleo_weight": 0.0,
             "ibot_weight": 0.0}  # fmt: skip
FLAT, ONE = "targets are alike", "most crops have the same prototype"


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A small HieraDet."""
    small = {"embed_dim": 16, "depths": (1, 1, 2, 1), "global_blocks": (), "input_size": 64}
    network = hierax.create("hieradet_d_small", **small)
    config = dataclasses.replace(network.config, name="toy")
    weights = Weights(card=ModelCard(config=config, preprocess=PreprocessSpec(size=(64, 64))))
    return write_weights(from_module(network, weights), tmp_path_factory.mktemp("start") / "net", to="hierax")


@pytest.mark.parametrize(
    ("changes", "finding", "setting"),
    [
        ({}, "", ""),
        ({"teacher_temperature": 1.0, "teacher_temperature_start": 1.0}, FLAT, "teacher_temperature"),
        (UNCENTRED, ONE, "centring='sinkhorn'"),
    ],
    ids=["healthy", "hot teacher", "no centring"],
)
@pytest.mark.drawn
def test_collapse(start, tmp_path, capsys, changes, finding, setting):
    """A warning that a healthy run gets is ignored the next time; one that never comes costs a week."""
    hierax.pretrain("shapes:256@3x64", tmp_path / "out", model=start, **{**SETTINGS, "steps": 16, **changes})
    lines = capsys.readouterr().err.splitlines()
    assert any("flatter than the answers" in line for line in lines) == (finding == FLAT)
    said = [line for line in lines if "WARNING: collapse" in line]
    assert len(said) == bool(finding)
    if finding:
        assert finding in said[0]
        assert setting in said[0]
        assert any(finding in note for note in runs.summary(tmp_path / "out")["notes"])
    lines = [json.loads(line) for line in (tmp_path / "out/log.jsonl").read_text().splitlines()]
    assert sum("warning" in line for line in lines) == bool(finding)
    page = (tmp_path / "out/report.html").read_text()
    assert all(
        f"{name}: " in page for name in ("dino local", "dino global", "ibot", "prototype share", "target information")
    )


def test_few_rows():
    """Of two crops of one image half always have the same prototype: that is no collapse."""
    share = [collapse_bounds(CollapseSettings(), rows)[1].most for rows in (2, 4, 6, 64)]
    assert share == [1.0, 1.0, pytest.approx(2 / 3), 0.5]


def test_a_hot_teacher_is_held_to_more():
    """Of images that differ much even a temperature of 1 leaves a little; what is usual is held to the same bound."""
    least = [collapse_bounds(CollapseSettings(), 32, heat)[0].least for heat in (0.4, 0.7, 1.0, 10.0, 100.0)]
    assert least == [0.002, 0.002, 0.002, pytest.approx(0.2), 1.0]
    assert collapse_bounds(CollapseSettings(collapse_information=0.0), 32, 10.0)[0].least == 0


# As a person would begin them, on a network that takes seconds; the second of each is on what it must be warned of.
ALL = {"digits", "textures", "photographs"}
PROVOKED = {
    "healthy": ({}, set()),
    "temperature 1": ({"teacher_temperature": 1.0, "teacher_temperature_start": 1.0}, ALL),
    # Photographs differ so much that it takes longer than 120 steps.
    "no centring": ({"centring": "centre", "centre_momentum": 0.99999, "steps": 240}, ALL),
    # Targets of other images stay different, only they teach nothing: no collapse, and the probe shows it.
    "no average": ({"teacher_momentum": 0.0, "teacher_momentum_end": 0.0}, {"digits"}),
    "rate x 100": ({"lr": 0.05, "lr_batch": 16}, ALL),
}


@pytest.mark.nightly
@pytest.mark.parametrize("run", PROVOKED)
@pytest.mark.parametrize("images", sorted(ALL))
def test_bounds_hold_on_other_images(images, run, tmp_path, capsys):
    """Digits look alike: scores with one favourite, and an entropy near 1, were taken for a collapse."""
    data = tmp_path / "data"
    if images == "textures":
        textures(data, 100, 0)
    elif images == "digits":
        digits(tmp_path / "of", 80, 0)
        data = tmp_path / "of" / "train"
    else:
        regions(tmp_path / "of", 0, each=25)
        data = tmp_path / "of" / "train"
    config = abswin_config((64, 64), (8, 8), embed_dim=24, depths=(1, 1, 2, 1), num_classes=0)
    weights = Weights(card=ModelCard(config=config, preprocess=PreprocessSpec(size=(64, 64))))
    begun = write_weights(from_module(build(config), weights), tmp_path / "start", to="hierax")
    small = {"local_crops": 2, "local_size": 32, "head_dim": 256, "bottleneck": 64, "warm_start_heads": 0, "flip": 0.0}
    usual = {"workers": 0, "device": "cpu", "batch_size": 16, "checkpoint_every": 0, "steps": 120, "model": begun}
    changes, collapses = PROVOKED[run]
    hierax.pretrain(data, tmp_path / "out", method="dinov2", **{**usual, **small, **changes})
    said = [line for line in capsys.readouterr().err.splitlines() if "WARNING: collapse" in line]
    assert bool(said) == (images in collapses), said
