"""A run that goes on with more or fewer processes sees what it would have seen: the same samples in the same order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hierax.train import finetune, pretrain
from hierax.train.checkpoint import newest
from hierax.train.loop import Loop
from hierax.train.methods import METHODS

from ..members import coloured_classes, save_learner
from . import runs
from .test_methods import Toy

pytestmark = pytest.mark.slow

STEPS = 6
SETTINGS = {
    **runs.SETTINGS, "steps": STEPS, "checkpoint_every": 2, "drop_path": 0.0, "ema_decay": 0.9,
    "validation_fraction": 0.0, "layer_decay": 0.75,
}  # fmt: skip


@pytest.fixture
def start(tmp_path):
    return (
        coloured_classes(tmp_path / "data", per_class=6),
        save_learner(tmp_path / "start"),
        save_learner(tmp_path / "mae", decoder=True),
    )


def life(train, seen: Path, world: int, *, dies_after: int | None = None) -> list[int]:
    """Train in some processes, which all die after a step where one is given; what each read is written down."""
    seen.mkdir(parents=True, exist_ok=True)

    def work():
        real = Loop._step

        def step(self, number, parts, *given):
            read = [[part.samples, part.keys.tolist()] for part in parts]
            place = {"world": self.devices.world, "rank": self.devices.rank, "parts": read}
            (seen / f"{number:03}-of-{self.devices.world}-rank-{self.devices.rank}.json").write_text(json.dumps(place))
            return real(self, number, parts, *given)

        def after(self, done):
            real_after(self, done)
            if done == dies_after:
                self.devices.accelerator.wait_for_everyone()
                runs.die()

        real_after = Loop._after
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Loop, "_step", step)
            patch.setattr(Loop, "_after", after)
            train()

    return [runs.finished(runs.in_child(work))] if world == 1 else runs.in_processes(work, world)


def order(seen: Path, step: int, world: int) -> list[tuple[int, int]]:
    """Sample and key of everything that a step read, in the order of the stream."""
    placed = {}
    for path in seen.glob(f"{step:03}-of-{world}-*.json"):
        found = json.loads(path.read_text())
        parts = found["parts"]
        for part, (samples, keys) in enumerate(parts):
            for index, pair in enumerate(zip(samples, keys, strict=True)):
                placed[part * world + found["rank"] + index * world * len(parts)] = pair
    assert sorted(placed) == list(range(len(placed)))  # nothing twice, nothing left out
    return [placed[place] for place in sorted(placed)]


@pytest.mark.parametrize(
    ("task", "sharding", "before", "after"),
    [
        ("finetune", "ddp", 1, 2),
        ("finetune", "ddp", 2, 1),
        ("finetune", "fsdp2", 1, 2),
        ("finetune", "fsdp2", 2, 1),
        ("pretrain", "fsdp2", 2, 1),
    ],
)
def test_another_number_of_processes_sees_the_same(tmp_path, start, task, sharding, before, after):
    """A share cut by the number of processes at the start, or an epoch that begins anew, reads samples twice."""
    train, model = (finetune, start[1]) if task == "finetune" else (pretrain, start[2])
    spread = {1: "ddp", 2: sharding}

    def run(out, world, resume):
        return lambda: train(start[0], out, model=model, resume=resume, sharding=spread[world], **SETTINGS)

    assert life(run(tmp_path / "whole", 1, False), tmp_path / "seen_whole", 1) == [0]
    out, seen = tmp_path / "changed", tmp_path / "seen_changed"
    assert life(run(out, before, False), seen, before, dies_after=3) == [-9] * before
    assert newest(out / "checkpoints").step == 2
    assert life(run(out, after, True), seen, after) == [0] * after
    for step in range(STEPS):
        world = before if step < 2 else after
        wanted, got = order(tmp_path / "seen_whole", step, 1), order(seen, step, world)
        assert len(got) == SETTINGS["batch_size"]
        assert got == wanted, step
    whole, changed = runs.result(tmp_path / "whole"), runs.result(out)
    assert max((whole[name] - changed[name]).abs().max().item() for name in whole) <= 1e-5
    losses = [
        json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["loss"] for folder in (tmp_path / "whole", out)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_what_is_kept_beside_the_network_goes_along(tmp_path, start, monkeypatch, before, after):
    """A teacher that only the first process gets back would pull the others towards random weights."""
    monkeypatch.setitem(METHODS, "toy", Toy)
    settings = {key: value for key, value in SETTINGS.items() if key not in ("validation_fraction", "ema_decay")}

    def run(resume):
        return lambda: pretrain(start[0], tmp_path / "out", method="toy", model=start[1], resume=resume, **settings)

    def restored(self, found):
        real(self, found)
        kept = {f"method.{name}": tensor for name, tensor in self.method.kept.state_dict().items()}
        same = kept and all(torch.equal(tensor, found.tensors[name]) for name, tensor in kept.items())
        (tmp_path / f"rank-{self.devices.rank}-{bool(same)}").touch()

    assert life(run(False), tmp_path / "seen", before, dies_after=3) == [-9] * before
    real = Loop._restore
    monkeypatch.setattr(Loop, "_restore", restored)
    assert life(run(True), tmp_path / "seen", after) == [0] * after
    assert sorted(path.name for path in tmp_path.glob("rank-*")) == [f"rank-{rank}-True" for rank in range(after)]
