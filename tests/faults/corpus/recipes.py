"""Recipes that are deep, hold themselves, are no text, or say numbers that nothing can be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hierax.errors import RecipeError
from hierax.train.reading import read_recipe, recipe_of

from ...members import coloured_classes, save_learner
from .case import Case, hierax, refused


def stages(count: int) -> dict[str, Any]:
    """Recipes one before the other."""
    found: dict[str, Any] = {}
    for _ in range(count):
        found = {"before": found}
    return found


def itself() -> dict[str, Any]:
    """A recipe before itself."""
    found: dict[str, Any] = {}
    found["before"] = found
    return found


FILES: dict[str, tuple[bytes, str]] = {
    "binary": (b"\x00\xff" * 100, "UTF-8"),
    "utf16": ("seed = 1".encode("utf-16"), "UTF-8"),
    "digits": (b"seed=" + b"1" * 5000, "too many digits"),
    "hexadecimal": (b"seed=0x" + b"f" * 5000, "64 bits"),
    "nan": (b"lr=nan", "finite"),
    "infinity": (b"lr=inf", "finite"),
    "exponent": (b"lr=1e999999", "finite"),
    "negative": (b"steps=-1", "at least 1"),
    "zero": (b"batch_size=0", "at least 1"),
    "deep": (b"a=" + b"[" * 90_000 + b"]" * 90_000, "nested too deeply"),
    "deep_key": (b".".join([b"before"] * 5000) + b".seed=1", "at most 64 parts"),
    "stages": (b".".join([b"before"] * 30) + b".seed=1", "At most 8 recipes"),
    "long": (b"x" * 3_000_000, "smaller than"),
    "twice": (b"seed=1\nseed=2", "valid TOML"),
    "date": (b"seed=1979-05-27", "whole number"),
    "mark_and_negative": (b"\xef\xbb\xbfseed=-1", "at least 0"),
}
GIVEN: dict[str, tuple[Callable[[], dict[Any, Any]], str]] = {
    "stages": (lambda: stages(2000), "At most 8 recipes"),
    "before_itself": (itself, "At most 8 recipes"),
    "number_as_a_key": (lambda: {1: 2}, "unknown key 1"),
    "long_key": (lambda: {"x" * 100_000: 2}, r"unknown key '?x{1,80}[^x]"),
    "long_table": (lambda: {"supervised": "x" * 100_000}, r"got '?x{1,80}[^x]"),
    "seed": (lambda: {"seed": 10**5000}, "bits"),
    "nan": (lambda: {"lr": float("nan")}, "lr must be a number"),
    "nothing": (lambda: None, "must be a table"),
}
RUNS: dict[str, tuple[str, object, str]] = {
    "recipe_is_null": ("run_recipe.json", {"recipe": None}, "must be a table"),
    "recipe_is_a_list": ("run_recipe.json", [1], "JSON object"),
}


def _written(content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / "r.toml").write_bytes(content) and None


def _read(folder: Path) -> object:
    return read_recipe(folder / "r.toml", "finetune")


def _given(make: Callable[[], dict[Any, Any]]) -> Callable[[Path], object]:
    return lambda folder: recipe_of(make())


def _begun(folder: Path) -> None:
    """A run that stopped after one of two steps."""
    coloured_classes(folder / "data", per_class=3)
    save_learner(folder / "tiny")
    hierax(*_run(1))


def _run(steps: int) -> list[str]:
    settings = ["-m", "tiny", "--steps", str(steps), "--device", "cpu", "--set", "workers=0", "batch_size=4"]
    return ["finetune", "data", "run", *settings]


def _goes_on(file: str, content: object, match: str) -> Callable[[Path], bool]:
    """`--resume` of a run in whose folder one file says something else."""

    def act(folder: Path) -> bool:
        (folder / "run" / file).write_text(json.dumps(content))
        ran = hierax(*_run(1), "--resume")
        return refused(ran) and match in ran.err

    return act


CASES = [
    *(Case(name, make=_begun, act=_goes_on(*change), expect=bool, seconds=20) for name, change in RUNS.items()),
    *(
        Case(name, make=_written(content), act=_read, raises=RecipeError, match=match)
        for name, (content, match) in FILES.items()
    ),
    *(
        Case(f"given_{name}", act=_given(make), raises=RecipeError, match=match)
        for name, (make, match) in GIVEN.items()
    ),
]
