"""The folder of a run: one run at a time, one recipe a folder, nothing half-written under its final name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..atomic import locked
from ..errors import InputError, RecipeError, cannot_write
from ..weights.files import read_json, write_json
from .methods import METHODS
from .reading import recipe_of, to_record
from .recipe import Recipe

# What may differ between a run and its continuation without changing its result; what a class file holds is part of the
# data's fingerprint.
_FREE = ("device", "workers", "checkpoint_every", "validate_every", "log_every", "max_bad_steps", "validation",
         "sharding", "checkpoint_blocks", "class_file", "probe", "probe_every")  # fmt: skip
# What a run writes: a folder that holds any of these without being a run's is somebody's work.
_WRITTEN = ("model", "best", "last", "checkpoints", "tensorboard", "recipe.toml", "run.json", "summary.json",
            "log.jsonl", "report.html", "example.png", "curves.png", "confusion.png", "mistakes.png",
            "features_over_time.png", "features_over_time.safetensors")  # fmt: skip
_RECIPE = "run_recipe.json"


def check_apart(data: Any, folder: Path) -> None:
    """Refuse a run's folder inside its data: the next look at the data would take its pictures for samples.

    Raises:
        InputError: It lies there, or is the data's own folder.
    """
    try:
        inside = isinstance(data, (str, os.PathLike)) and os.path.isdir(data)
        if not inside or not folder.resolve().is_relative_to(Path(data).resolve()):
            return
    except (OSError, ValueError):  # told by whoever opens the data
        return
    raise InputError(
        f"A run's folder must lie outside its data, or its pictures are taken for samples; {str(folder)!r} lies in "
        f"{str(data)!r}. Name another folder."
    )


def check_free(folder: Path, *, resume: bool) -> None:
    """Refuse a folder that a run would damage, before time is spent on data and weights.

    Raises:
        InputError: It is a file, cannot be made, holds a run already (and `resume` is off), or holds files that a
            run would overwrite.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        own = (name for method in METHODS.values() for name in (method.picture, method.extras))
        written = [*_WRITTEN, *filter(None, own)]
        held = [name for name in written if os.path.lexists(folder / name)]
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
def claim(folder: Path, *, resume: bool) -> Iterator[None]:
    """Hold the folder for one run, from before any work is done.

    Raises:
        InputError: As `check_free`; or a run is going on in it.
    """
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(folder / ".lock"))
        except BlockingIOError as error:
            holder = (error.strerror or "another").removesuffix(" is writing it")
            raise InputError(
                f"A folder takes one run at a time; {str(folder)!r} is in use by {holder}. Wait until it is done, or "
                "name another folder."
            ) from error
        except OSError as error:
            raise InputError(
                f"A run needs a folder that can be written. {cannot_write(repr(str(folder)), error)}"
            ) from error
        check_free(folder, resume=resume)
        yield


class Begun(NamedTuple):
    """What a folder says of the run that began in it.

    Attributes:
        recipe: Its recipe.
        fingerprint: That of its data.
    """

    recipe: Recipe
    fingerprint: str | None


def keep_recipe(folder: Path, recipe: Recipe, fingerprint: str, begun: Begun | None) -> None:
    """Write down what is run on which data, or hold it against what was written when the run began.

    Raises:
        InputError: The data changed.
        RecipeError: `resume` with a recipe that would give another result.
    """
    if begun is None:
        write_json(folder / _RECIPE, {"recipe": to_record(recipe), "fingerprint": fingerprint})
        return
    old, new = _flat(begun.recipe), _flat(recipe)
    choosing = recipe.patience or recipe.result == "best"  # then validations decide what the result is
    free = {*_FREE} - ({"validation", "validate_every"} if choosing else set())
    changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key) and key not in free)
    if changed:
        listed = ", ".join(f"{key} ({old.get(key)} before, {new.get(key)} now)" for key in changed)
        raise RecipeError(f"A resumed run must keep its recipe; changed: {listed}. Use the old values or another out.")
    if begun.fingerprint != fingerprint:
        raise InputError(
            "A resumed run must keep its data; samples were added, removed or renamed since it began. "
            "Start a new run in another folder, with model= the old one."
        )


def begun_with(folder: Path) -> Begun | None:
    """What is written of the run that lies in a folder, None without one.

    Raises:
        RecipeError: It is not as a run writes it.
    """
    if not (folder / _RECIPE).exists():
        return None
    found = read_json(folder / _RECIPE)
    return Begun(recipe_of(found.get("recipe"), "The recipe of the run that goes on"), found.get("fingerprint"))


def _flat(recipe: Recipe) -> dict[str, Any]:
    """All keys, the method's among them."""
    values = to_record(recipe)
    return {**values, **values.pop(recipe.method)}
