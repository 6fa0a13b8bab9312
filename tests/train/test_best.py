"""The best weights of a run beside the last: which is the result, when a run ends early, and what a kill leaves of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hierax.errors import RecipeError
from hierax.model.metrics import Accuracy
from hierax.train import finetune
from hierax.train.best import Best
from hierax.train.methods.supervised import Supervised
from hierax.train.report import Report

from ..members import coloured_classes, save_learner
from . import runs

SETTINGS = {**runs.SETTINGS, "steps": 8, "validate_every": 2, "validation_fraction": 0.34, "ema_decay": 0.5,
            "ema_warmup": True, "drop_path": 0.2}  # fmt: skip


@pytest.fixture
def start(tmp_path):
    return coloured_classes(tmp_path / "data", per_class=6), save_learner(tmp_path / "start", drop_path=0.2)


def scripted(monkeypatch, found: list[float]):
    """Validations that come out as listed; after the list, as its last. The weights at each, in order."""
    weights: list[dict[str, torch.Tensor]] = []

    def validate(self, data, devices):
        top1 = found[min(len(weights), len(found) - 1)]
        weights.append({name: tensor.clone() for name, tensor in self.module.state_dict().items()})
        return Accuracy(total=10, correct1=round(10 * top1), correct5=10, losses=10.0, data=data)

    monkeypatch.setattr(Supervised, "validate", validate)
    return weights


def tensors(folder: Path):
    return load_file(folder / "model.safetensors")


def facts(out: Path):
    return json.loads((out / "run.json").read_text())["result"]


def test_the_best_lies_beside_the_last(tmp_path, start, monkeypatch, capsys):
    """Last weights under the name of the best, or raw ones instead of the averaged ones that were validated, fail."""
    weights = scripted(monkeypatch, [0.2, 0.9, 0.5, 0.6])
    out = tmp_path / "out"
    summary = finetune(start[0], out, model=start[1], **SETTINGS)
    assert facts(out) == summary.result
    assert summary.result == {
        "model": "last",
        "step": 8,
        "beside": "best",
        "beside_step": 4,
        "best_step": 4,
        "best_top1": 0.9,
    }
    assert runs.identical(tensors(out / "best"), weights[1])
    assert runs.identical(tensors(out / "model"), weights[-1])
    assert "the best, of step 4, are in" in capsys.readouterr().err


def test_nothing_lies_beside_what_is_both(tmp_path, start, monkeypatch):
    """A copy of the same weights under two names would make a person wonder."""
    scripted(monkeypatch, [0.2, 0.3, 0.4, 0.5])
    summary = finetune(start[0], tmp_path / "out", model=start[1], **SETTINGS)
    assert summary.result == {"model": "last", "step": 8, "best_step": 8, "best_top1": 0.5}
    assert not (tmp_path / "out" / "best").exists()


def test_equal_accuracies_are_told_apart_alike(tmp_path, capsys):
    """The line that names an earlier step than that whose weights are kept sends a person to the wrong ones."""
    best, report = Best(), Report(tmp_path, True, 9, 1, baseline=None)
    for step, right, losses in ((2, 5, 9.0), (4, 8, 8.0), (6, 8, 7.0), (8, 8, 7.5)):
        found = Accuracy(total=10, correct1=right, correct5=10, losses=losses)
        best.offer(step, found, dict)
        report.validated(step, found)
    assert best.step == 6
    assert capsys.readouterr().err.splitlines()[-1].endswith("(best 80.0% at step 6)")


def test_the_best_can_be_the_result(tmp_path, start, monkeypatch):
    """The accuracy that is told must be that of the weights that are given."""
    weights = scripted(monkeypatch, [0.2, 0.9, 0.5, 0.6, 0.9])
    out = tmp_path / "out"
    summary = finetune(start[0], out, model=start[1], result="best", **SETTINGS)
    assert (summary.result["model"], summary.result["step"], summary.result["beside"]) == ("best", 4, "last")
    assert runs.identical(tensors(out / "model"), weights[1])
    assert runs.identical(tensors(out / "last"), weights[3])
    assert summary.metrics["top1"] == 0.9
    assert runs.identical(weights[4], weights[1])  # what was measured at the end


def test_patience_ends_a_run(tmp_path, start, monkeypatch, capsys):
    """Two validations without a better one: steps 6 and 8 after the best at 4; the best is the result."""
    scripted(monkeypatch, [0.2, 0.9, 0.5, 0.6, 0.9])
    out = tmp_path / "out"
    settings = {**SETTINGS, "steps": 40, "patience": 2}
    summary = finetune(start[0], out, model=start[1], **settings)
    assert summary.steps == 8
    assert len(summary.losses) == 8
    assert (summary.result["model"], summary.result["step"], summary.result["beside_step"]) == ("best", 4, 8)
    assert "stopped early after step 8 of 40: no validation since step 4" in capsys.readouterr().err
    again = finetune(start[0], out, model=start[1], resume=True, **settings)
    assert (again.steps, again.result) == (8, summary.result)
    with pytest.raises(RecipeError, match="validate_every"):
        finetune(start[0], out, model=start[1], resume=True, **{**settings, "validate_every": 3})
    with pytest.raises(RecipeError, match="patience counts validations"):
        finetune(start[0], tmp_path / "none", model=start[1], **{**settings, "validate_every": 0})


@pytest.mark.slow
@pytest.mark.parametrize("kill", [3, 5, 7])
def test_a_killed_run_ends_with_the_same_best(tmp_path, start, monkeypatch, kill):
    """The best of before the kill lives only in memory unless checkpoints hold it; patience would count anew."""
    settings = {**SETTINGS, "checkpoint_every": 2, "patience": 3, "steps": 12}

    def train(out, resume=False):
        with pytest.MonkeyPatch.context() as patch:
            scores = {2: 0.5, 4: 0.9, 6: 0.4, 8: 0.6, 10: 0.7, 12: 0.8}
            real = Report.step

            def step(self, done, loss, **values):
                real(self, done, loss, **values)
                patch.setattr(Supervised, "validate", lambda self, data, devices: Accuracy(
                    total=10, correct1=round(10 * scores.get(done, 0.1)), correct5=10, losses=1.0, data=data))  # fmt: skip
                if not resume and out.name == "killed" and done == kill:
                    runs.die()

            patch.setattr(Report, "step", step)
            return finetune(start[0], out, model=start[1], resume=resume, **settings)

    whole = train(tmp_path / "whole")
    assert runs.finished(runs.in_child(lambda: train(tmp_path / "killed"))) == -9
    gone_on = train(tmp_path / "killed", resume=True)
    assert gone_on.resumed_from == kill - 1
    assert (gone_on.steps, gone_on.result) == (whole.steps, whole.result)
    assert whole.result["step"] == 4
    for name in ("model", "last"):
        assert runs.identical(tensors(tmp_path / "killed" / name), tensors(tmp_path / "whole" / name))


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp2"])
def test_two_processes_keep_the_best(tmp_path, start, sharding):
    """The best weights lie on one process only; the others must load them too, or they validate others."""
    settings = {**SETTINGS, "result": "best", "lr": 0.02, "batch_size": 6, "drop_path": 0.0}
    one = finetune(start[0], tmp_path / "one", model=start[1], **settings)
    codes = runs.in_processes(
        lambda: finetune(start[0], tmp_path / "two", model=start[1], sharding=sharding, **settings), 2
    )
    assert codes == [0, 0]
    two = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert two["result"]["step"] == one.result["step"]
    assert two["metrics"]["top1"] == one.metrics["top1"]
    first, second = runs.result(tmp_path / "one"), runs.result(tmp_path / "two")
    assert max((first[key] - second[key]).abs().max().item() for key in first) <= 1e-4
