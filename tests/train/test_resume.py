"""Runs that are killed: what is resumed ends with the same bits as what was never interrupted."""

from __future__ import annotations

import os
import random
import signal

import pytest
import torch

from hierax.errors import InputError, RecipeError
from hierax.train import checkpoint as checkpoints
from hierax.train import finetune, pretrain
from hierax.train.checkpoint import Checkpoint, commit, is_valid, newest
from hierax.train.report import Report

from ..members import coloured_classes, save_learner
from . import runs

pytestmark = pytest.mark.slow

STEPS = 8
SETTINGS = {
    **runs.SETTINGS, "steps": STEPS, "checkpoint_every": 2, "drop_path": 0.2, "ema_decay": 0.9, "mixup": 0.8,
    "cutmix": 1.0, "color_jitter": 0.2, "epochs": None, "validation_fraction": 0.0,
}  # fmt: skip


def killed_at_step(monkeypatch, step):
    """SIGKILL right after a step, before its checkpoint."""
    real = Report.step

    def report(self, done, loss, **values):
        real(self, done, loss, **values)
        if done == step:
            runs.die()

    monkeypatch.setattr(Report, "step", report)


def killed_in_write(monkeypatch, count):
    """SIGKILL inside a checkpoint, at the n-th time that something reaches the disk."""
    real, calls = checkpoints._sync, []

    def sync(path):
        calls.append(path)
        if len(calls) == count:
            runs.die()
        real(path)

    monkeypatch.setattr(checkpoints, "_sync", sync)


def survive(tmp_path, train, kills, seed):
    """Kill a run that often, each time soon after it went on; its result and the uninterrupted one's."""
    rng = random.Random(seed)
    steps = 5 * kills  # no life gets further than four steps
    train(tmp_path / "whole", resume=False, steps=steps)
    for _ in range(kills):
        with pytest.MonkeyPatch.context() as monkeypatch:
            if rng.random() < 0.5:
                last = newest(tmp_path / "killed" / "checkpoints")
                killed_at_step(monkeypatch, (last.step if last else 0) + rng.randint(1, 3))
            else:  # a checkpoint makes six trips to the disk
                killed_in_write(monkeypatch, rng.randint(1, 12))
            child = runs.in_child(lambda: train(tmp_path / "killed", resume=True, steps=steps))
            assert runs.finished(child) == -9
    train(tmp_path / "killed", resume=True, steps=steps)
    return runs.result(tmp_path / "whole"), runs.result(tmp_path / "killed")


@pytest.fixture
def start(tmp_path):
    data = coloured_classes(tmp_path / "data", per_class=4)
    return data, save_learner(tmp_path / "start", drop_path=0.2), save_learner(tmp_path / "mae", decoder=True)


def run_finetune(start):
    return lambda out, resume, steps=STEPS: finetune(
        start[0], out, model=start[1], resume=resume, **{**SETTINGS, "steps": steps}
    )


def test_three_kills_leave_no_trace(tmp_path, start):
    """Any state that is not saved (moments, average, position, random numbers) changes a bit of the result."""
    whole, killed = survive(tmp_path, run_finetune(start), 3, seed=3)
    assert runs.identical(whole, killed)
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("whole", "killed")]
    steps = [[line.split(",")[:2] for line in log.splitlines()] for log in logs]
    assert steps[0] == steps[1]


def test_killed_pretraining_leaves_no_trace(tmp_path, start):
    """Masks drawn from a generator that is not restored would differ after the kill."""

    def train(out, resume):
        settings = {key: value for key, value in SETTINGS.items() if key not in ("mixup", "cutmix")}
        pretrain(start[0], out, model=start[2], resume=resume, **settings)

    with pytest.MonkeyPatch.context() as monkeypatch:
        killed_at_step(monkeypatch, 5)
        assert runs.finished(runs.in_child(lambda: train(tmp_path / "killed", False))) == -9
    train(tmp_path / "killed", True)
    train(tmp_path / "whole", False)
    assert runs.identical(runs.result(tmp_path / "whole"), runs.result(tmp_path / "killed"))


def stopped_at_step(monkeypatch, step, rank="0"):
    """SIGTERM right after a step, to one of the processes."""
    real = Report.step

    def report(self, done, loss, **values):
        real(self, done, loss, **values)
        if done == step and os.environ.get("RANK", "0") == rank:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Report, "step", report)


def test_a_stop_signal_saves_first(tmp_path, start, monkeypatch):
    """A scheduler that ends a job sends SIGTERM: dying of it loses what no checkpoint holds yet."""
    train = run_finetune(start)
    stopped_at_step(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", False)
    assert newest(tmp_path / "stopped" / "checkpoints").step == 3
    monkeypatch.undo()
    train(tmp_path / "stopped", True)
    train(tmp_path / "whole", False)
    assert runs.identical(runs.result(tmp_path / "whole"), runs.result(tmp_path / "stopped"))


def test_a_signal_to_one_process_stops_all(tmp_path, start, monkeypatch):
    """One process that stops alone leaves the others waiting for its gradients for ever."""
    train = run_finetune(start)
    stopped_at_step(monkeypatch, 3, rank="1")
    assert runs.in_processes(lambda: train(tmp_path / "stopped", False), 2) == [1, 1]
    assert newest(tmp_path / "stopped" / "checkpoints").step == 4  # the others hear of it with the next step's sums


@pytest.mark.nightly
def test_twenty_kills_leave_no_trace(tmp_path, start):
    """As three kills, at more places."""
    whole, killed = survive(tmp_path, run_finetune(start), 20, seed=20)
    assert runs.identical(whole, killed)


def test_damaged_checkpoint_falls_back(tmp_path):
    """Trusting a name or a marker alone would load the flipped byte."""
    for step in (2, 4, 6):
        commit(tmp_path, Checkpoint(step, {"model.w": torch.full((3,), float(step))}, {}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004", "step-00000006"]
    file = tmp_path / "step-00000006" / checkpoints.TENSORS
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert not is_valid(tmp_path / "step-00000006")
    found = newest(tmp_path)
    assert found is not None
    assert found.step == 4
    assert found.tensors["model.w"].tolist() == [4.0, 4.0, 4.0]
    (tmp_path / "step-00000004" / checkpoints.MARKER).unlink()
    assert newest(tmp_path) is None


def test_previous_checkpoint_stays_until_the_new_one_reads_back(tmp_path, monkeypatch):
    """Deleting first would leave nothing when the disk lies."""
    commit(tmp_path, Checkpoint(1, {"model.w": torch.ones(2)}, {}), keep=1)
    monkeypatch.setattr(checkpoints, "is_valid", lambda path: False)
    with pytest.raises(checkpoints.CheckpointError, match="read back"):
        commit(tmp_path, Checkpoint(2, {"model.w": torch.ones(2)}, {}), keep=1)
    monkeypatch.undo()
    assert is_valid(tmp_path / "step-00000001")


def test_a_folder_takes_one_run(tmp_path, start):
    """Overwriting in silence would lose a result; resuming another recipe would mix two."""
    train = run_finetune(start)
    train(tmp_path / "out", False)
    with pytest.raises(InputError, match="resume=True"):
        train(tmp_path / "out", False)
    with pytest.raises(RecipeError, match="lr"):
        finetune(start[0], tmp_path / "out", model=start[1], resume=True, **{**SETTINGS, "lr": 0.5})
    (start[0] / "class_0" / "000.png").unlink()
    with pytest.raises(InputError, match="keep its data"):
        train(tmp_path / "out", True)


def test_resuming_a_finished_run_changes_nothing(tmp_path, start):
    """Training on from the last step, or losing the losses, would show."""
    train = run_finetune(start)
    train(tmp_path / "out", False)
    before = runs.result(tmp_path / "out")
    summary = finetune(start[0], tmp_path / "out", model=start[1], resume=True, **SETTINGS)
    assert summary.resumed_from == STEPS
    assert len(summary.losses) == STEPS
    assert runs.identical(before, runs.result(tmp_path / "out"))
