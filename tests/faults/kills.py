"""Kill commands that write, at random moments: what is there afterwards is whole, and the next run cleans up.

python -m tests.faults.kills FOLDER SEED...
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

import hierax
import hierax.bulk.run
import hierax.commands.evaluation
import hierax.commands.images
import hierax.commands.models
import hierax.predictor
import hierax.registry
import hierax.train
from hierax.cli import main
from hierax.config import ARCHITECTURES
from hierax.weights import files
from hierax.weights.formats import sam2

from ..members import MEMBERS, coloured_classes, save_learner, written

IMAGES = 12
OVERWRITE = ["--overwrite"]


def _vectors(path: Path) -> bool:
    import numpy as np

    with np.load(path) as data:
        return data["embedding"].shape[0] == IMAGES and bool(np.isfinite(data["embedding"]).all())


def _table(path: Path) -> bool:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).num_rows == IMAGES


def _maps(path: Path) -> bool:
    import numpy as np

    with np.load(path) as data:
        return data["stage4"].shape[0] == IMAGES


def _loads(path: Path) -> bool:
    return hierax.load(path).embed([Path("images/class_0/000.png")]).shape[0] == 1


def _unfinished_or_loads(path: Path) -> bool:
    return not (path / "model").exists() or _loads(path / "model")


def _trunk(path: Path) -> bool:
    """A whole SAM 2 file, with the old trunk or the new one, and what is beside it."""
    return _loads(path) and "sam_mask_decoder.x" in files.read(path).tensors


@dataclass(frozen=True)
class Command:
    """One that writes.

    Attributes:
        before: Its arguments before the output.
        behind: Those behind it.
        output: The name of what it writes.
        whole: Whether that is whole, if it is there.
        again: The arguments by which it is run once more; None where nothing that exists is replaced.
        made: What is there in the end, inside the output.
        beside: What may be there in the end beside it.
        onto: What is written onto; its output is always there then.
    """

    before: list[str]
    behind: list[str]
    output: str
    whole: Callable[[Path], bool]
    again: list[str] | None = None
    made: str = "."
    beside: tuple[str, ...] = ()
    onto: str = ""


def _converting(name: str, to: str, source: str = "model", beside: tuple[str, ...] = ()) -> Command:
    return Command(["convert", source], ["--to", to], name, _loads, beside=beside)


LEARNING = [
    "-m",
    "model",
    "--device",
    "cpu",
    "--steps",
    "6",
    "--set",
    "workers=0",
    "batch_size=4",
    "checkpoint_every=2",
]
COMMANDS: dict[str, Command] = {
    "embed npz": Command(["embed", "images", "-m", "model", "-o"], [], "v.npz", _vectors, OVERWRITE),
    "embed parquet": Command(["embed", "images", "-m", "model", "-o"], [], "v.parquet", _table, OVERWRITE),
    "features": Command(
        ["features", "images", "-m", "model", "--batch-size", "4", "-o"], [], "m.npz", _maps, OVERWRITE
    ),
    "convert to hierax": _converting("own", "hierax"),
    "convert to transformers": _converting("hf", "transformers"),
    "convert to meta": _converting("m.pth", "meta"),
    "convert to meta safetensors": _converting("m.safetensors", "meta", beside=("m.json",)),
    "convert to timm": _converting("timm", "timm"),
    "convert to timm file": _converting("t.safetensors", "timm", beside=("t.json",)),
    "convert to birder": _converting("b.pt", "birder"),
    "convert to birder safetensors": _converting("b.safetensors", "birder", beside=("b.json",)),
    "convert to sam2": _converting("s.pt", "sam2", "trunk"),
    "exchange a trunk": Command(
        ["convert", "trunk"], ["--to", "sam2"], "whole.pt", _trunk, beside=("whole.pt.bak",), onto="sam2.pt"
    ),
    "finetune": Command(["finetune", "images"], LEARNING, "run", _unfinished_or_loads, ["--resume"], "model"),
}


def one(folder: Path, seed: int) -> dict[str, object]:
    """Kill one command and run it again.

    Raises:
        AssertionError: What was there after the kill was not whole, or something is left after the next run.
    """
    rng = random.Random(seed)
    name = rng.choice(list(COMMANDS))
    command = COMMANDS[name]
    out = folder / "out"
    place = out / command.output
    arguments = [*command.before, str(place), *command.behind]

    def prepare() -> None:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        if command.onto:
            shutil.copy(folder / command.onto, place)

    prepare()
    status, took = _child(arguments, None)  # how long it takes, and what is there before
    assert not status, f"seed {seed}: {name} fails by itself"
    older = command.again == OVERWRITE and rng.random() < 0.5
    if not older:
        prepare()
    killed, _ = _child([*arguments, *(OVERWRITE if older else [])], rng.uniform(0.1, 1.0) * took)
    assert not (older or command.onto) or place.exists(), f"seed {seed}: {name} lost what was there"
    if place.exists():
        assert command.whole(place), f"seed {seed}: {name} left half an output"
    exchanged = bool(command.onto) and place.read_bytes() != (folder / command.onto).read_bytes()
    if not exchanged and (command.again is not None or command.onto or not place.exists()):
        status, _ = _child([*arguments, *(command.again or [])], None)
        assert not status, f"seed {seed}: {name} cannot be run again"
    assert command.whole(place)
    assert (place / command.made).exists() or command.made == "."
    hidden = [path for path in out.rglob(".*") if path.name != ".lock"]  # a run's folder keeps its own
    left = sorted(str(path) for path in (*out.iterdir(), *hidden) if path.name not in (command.output, *command.beside))
    assert not left, f"seed {seed}: {name} left {left}"
    return {"seed": seed, "command": name, "killed": bool(killed)}


def _child(arguments: list[str], delay: float | None) -> tuple[int, float]:
    """Run a command in a fork, which the system ends after `delay` seconds; its status and how long it took."""
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        if delay is not None:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process between any two instructions
            signal.setitimer(signal.ITIMER_REAL, max(delay, 0.001))
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
            code = main(arguments)
        if code:
            os.write(2, said.getvalue().encode())
        os._exit(code)
    return os.waitpid(child, 0)[1], time.monotonic() - start


if __name__ == "__main__":
    here = Path(sys.argv[1]).resolve()
    os.chdir(here)
    save_learner(here / "model")
    coloured_classes(here / "images", per_class=IMAGES // 3)
    # The tiny trunk as a public one: SAM 2's files name no architecture.
    toy = dataclasses.replace(MEMBERS["SAM 2 trunk"], name="sam2_hiera_toy")
    ARCHITECTURES[toy.name], sam2.NAMES = toy, (toy.name,)
    written(toy, here / "trunk", "hierax")
    model = files.read(written(dataclasses.replace(toy), here / "sam2.pt", "sam2")).tensors
    files.write_torch(here / "sam2.pt", {"model": {**model, "sam_mask_decoder.x": torch.ones(3)}})
    for number in map(int, sys.argv[2:]):
        print(json.dumps(one(here, number)), flush=True)
