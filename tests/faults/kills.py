"""Kill commands that write, at random moments: what is there afterwards is whole, and the next run cleans up.

python -m tests.faults.kills FOLDER SEED...
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import hierax
import hierax.bulk.run
import hierax.commands.evaluation
import hierax.commands.images
import hierax.commands.models
import hierax.predictor
import hierax.registry
from hierax.cli import main

from ..members import save_learner, write_png

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
    return hierax.load(path).embed([path.parent.parent / "images" / "0.png"]).shape[0] == 1


# The arguments before the output and behind it, its name, whether it is whole, and how it is written once more.
COMMANDS: dict[str, tuple[list[str], list[str], str, Callable[[Path], bool], list[str] | None]] = {
    "embed npz": (["embed", "images", "-m", "model", "-o"], [], "v.npz", _vectors, OVERWRITE),
    "embed parquet": (["embed", "images", "-m", "model", "-o"], [], "v.parquet", _table, OVERWRITE),
    "features": (["features", "images", "-m", "model", "--batch-size", "4", "-o"], [], "m.npz", _maps, OVERWRITE),
    "convert to a folder": (["convert", "model"], ["--to", "transformers"], "hf", _loads, None),
}


def one(folder: Path, seed: int) -> dict[str, object]:
    """Kill one command and run it again.

    Raises:
        AssertionError: What was there after the kill was not whole, or something is left after the next run.
    """
    rng = random.Random(seed)
    name = rng.choice(list(COMMANDS))
    before, behind, output, whole, again = COMMANDS[name]
    out = folder / "out"
    command = [*before, str(out / output), *behind]
    shutil.rmtree(out, ignore_errors=True)
    status, took = _child(command, None)  # how long it takes, and what is there before
    assert not status, f"seed {seed}: {name} fails by itself"
    older = again is not None and rng.random() < 0.5
    if not older:
        shutil.rmtree(out)
    killed, _ = _child([*command, *(again if older and again else [])], rng.uniform(0.1, 1.0) * took)
    assert not older or (out / output).exists(), f"seed {seed}: {name} lost what was there"
    if (out / output).exists():
        assert whole(out / output), f"seed {seed}: {name} left half an output"
    if again is not None or not (out / output).exists():
        status, _ = _child([*command, *(again or [])], None)
        assert not status, f"seed {seed}: {name} cannot be run again"
    assert whole(out / output)
    left = sorted(path.name for path in out.iterdir() if path.name != output)
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
    place = Path(sys.argv[1]).resolve()
    os.chdir(place)
    save_learner(place / "model")
    (place / "images").mkdir()
    for number in range(IMAGES):
        write_png(place / "images" / f"{number}.png", number)
    for number in map(int, sys.argv[2:]):
        print(json.dumps(one(place, number)), flush=True)
