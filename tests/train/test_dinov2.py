"""Self-distillation from the first step to the last: what is logged, kept, frozen, written and refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from hierax.errors import InputError, RecipeError
from hierax.registry import load
from hierax.train import checkpoint as checkpoints
from hierax.train import pretrain
from hierax.weights.safetensors_files import read_safetensors

from ..members import coloured_classes, small_det, written
from . import runs
from .test_resume import killed_at_step

SETTINGS = {
    **runs.SETTINGS, "steps": 6, "checkpoint_every": 2, "lr": 0.01, "batch_size": 4, "clip_norm": 1.0,
    "local_crops": 2, "local_size": 32, "prototypes": 32, "head_dim": 16, "bottleneck": 8, "drop_path": 0.2, "queue": 16,
    "freeze_steps": 1, "weight_decay_end": 0.4, "koleo_gathered": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dinov2")
    config = small_det((8, 4, 0, 0), head="norm_pool", input_size=(96, 96))
    return coloured_classes(folder / "data", per_class=3), written(config, folder / "start", "hierax")


def train(start, out, resume=False, **settings):
    return pretrain(start[0], out, method="dinov2", model=start[1], resume=resume, **{**SETTINGS, **settings})


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    return train(start, out), out


def saved(out):
    return checkpoints.newest(out / "checkpoints").tensors


def log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_what_a_run_says_and_yields(start, whole):
    """A result that is the student, a part of the loss that is left out of the sum, or health that nobody can read."""
    summary, out = whole
    assert np.isfinite(summary.losses).all()
    for line in log(out):
        parts = line["dino_local"] + line["dino_global"] + line["ibot"] + 0.1 * line["koleo"]
        assert line["loss"] == pytest.approx(parts, rel=1e-6)
        least = {"target_entropy": 0, "marginal_entropy": 0, "prototype_share": 1 / 8, "agreement": 0}
        assert all(bound <= line[name] <= 1.000001 for name, bound in least.items())
    tensors, result = saved(out), runs.result(out)
    key = "patch_embed.proj.weight"
    assert torch.equal(result[key], tensors[f"method.teacher.encoder.{key}"])
    assert not torch.equal(result[key], tensors[f"model.encoder.{key}"])
    assert not any("head" in name or "mask" in name for name in result)
    heads, _ = read_safetensors(out / "heads.safetensors")
    assert torch.equal(heads["dino_head.last_layer.g"], tensors["method.teacher.dino_head.last_layer.g"])
    assert load(out / "model").embed(sorted(start[0].glob("*/*.png"))[:2]).shape == (2, 64)


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, start, whole):
    """A teacher, a queue or masks that begin anew change every later step."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        killed_at_step(monkeypatch, 5)
        assert runs.finished(runs.in_child(lambda: train(start, tmp_path / "killed"))) == -9
    assert train(start, tmp_path / "killed", resume=True).resumed_from == 4
    assert runs.identical(saved(whole[1]), saved(tmp_path / "killed"))
    assert runs.identical(runs.result(whole[1]), runs.result(tmp_path / "killed"))


def test_refused_before_the_first_step(tmp_path, start):
    """Each of these ends in a shape error, a NaN or a run that learns nothing."""
    for settings, said in [
        ({"local_size": 98}, r"local_size .*multiple of 32x32.*98x98.*96x96 or 128x128"),
        ({"mask_ratio": (0.0, 0.5)}, "mask_ratio.* more than 0"),
        ({"mask_ratio": (0.1, 1.0)}, "mask_ratio.* less than 1"),
        ({"mask_ratio": (0.5, 0.1)}, "mask_ratio must be .smallest, largest."),
        ({"input_size": 100}, "multiple of 32x32"),
    ]:
        with pytest.raises((RecipeError, InputError), match=said):
            train(start, tmp_path / "o", **settings)
        assert not (tmp_path / "o" / "log.jsonl").exists()
