"""The folder of a run: one run at a time, one recipe a folder, nothing half-written under its final name."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from ..atomic import atomic_file
from ..errors import InputError, RecipeError
from .recipe import Recipe

# What may differ between a run and its continuation without changing its result.
_FREE = ("device", "workers", "checkpoint_every", "validate_every", "log_every", "max_bad_steps", "accumulate",
         "validation", "sharding")  # fmt: skip


# What a run writes: a folder that holds any of these without being a run's is somebody's work.
_WRITTEN = ("model", "checkpoints", "tensorboard", "recipe.toml", "run.json", "summary.json", "log.jsonl",
            "curves.png", "confusion.png", "mistakes.png", "reconstructions.png")  # fmt: skip
_RECIPE = "run_recipe.json"


def check_free(folder: Path, *, resume: bool) -> None:
    """Refuse a folder that a run would damage, before time is spent on data and weights.

    Raises:
        InputError: It is a file, cannot be made, holds a run already (and `resume` is off), or holds files that a
            run would overwrite.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = [name for name in _WRITTEN if os.path.lexists(folder / name)]
        ran = (folder / _RECIPE).exists()
    except OSError as error:
        raise InputError(
            f"A run needs a folder that can be written; {str(folder)!r}: {error.strerror or error}. Name another."
        ) from error
    if ran and not resume:
        raise InputError(
            f"A run needs a folder of its own; {str(folder)!r} holds one. Go on with it by --resume (in Python "
            "resume=True), or name another folder."
        )
    if held and not ran:
        raise InputError(
            f"A run overwrites nothing; {str(folder)!r} holds {', '.join(held)} that no run of hierax left there. "
            "Name another folder."
        )


@contextlib.contextmanager
def claim(folder: Path, recipe: Recipe, *, resume: bool, main: bool, fingerprint: str) -> Iterator[None]:
    """Hold the folder for one run.

    Raises:
        InputError: As `check_free`; or a run is going on in it, or the data changed.
        RecipeError: `resume` with a recipe that would give another result.
    """
    if not main:
        yield
        return
    with _locked(folder):
        check_free(folder, resume=resume)
        before = folder / _RECIPE
        if before.exists():
            _check_same(json.loads(before.read_text("utf-8")), recipe, fingerprint)
        else:
            text = json.dumps({"recipe": recipe.to_dict(), "fingerprint": fingerprint})
            with atomic_file(before) as partial:
                partial.write_text(text, "utf-8")
        yield


def _check_same(before: dict, recipe: Recipe, fingerprint: str) -> None:
    old, new = before["recipe"], json.loads(json.dumps(recipe.to_dict()))
    changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key) and key not in _FREE)
    if changed:
        listed = ", ".join(f"{key} ({old.get(key)} before, {new.get(key)} now)" for key in changed)
        raise RecipeError(f"A resumed run must keep its recipe; changed: {listed}. Use the old values or another out.")
    if before["fingerprint"] != fingerprint:
        raise InputError(
            "A resumed run must keep its data; samples were added, removed or renamed since it began. "
            "Start a new run in another folder, with model= the old one."
        )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """An advisory lock that dies with the process, so that a killed run leaves none."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (folder / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"A folder takes one run at a time; {str(folder)!r} is in use by another.") from error
        yield


def publish(write: Callable[[Path], object], target: Path) -> None:
    """Let `write` fill a folder, then put it in the target's place."""
    partial, old = target.with_name(f".{target.name}.partial"), target.with_name(f".{target.name}.old")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    if target.exists():
        os.replace(target, old)
    os.replace(partial, target)
    shutil.rmtree(old, ignore_errors=True)
