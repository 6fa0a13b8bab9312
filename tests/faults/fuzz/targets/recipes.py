"""Recipes in TOML; what is read must be written so that it reads back the same."""

from __future__ import annotations

from pathlib import Path

from hierax.schema import to_toml
from hierax.train.reading import read_recipe, to_dict

from ..mutate import any_bytes, one_of, toml_lines
from ..target import ROOT, Target, Wrong


def act(folder: Path, data: bytes) -> None:
    """Read it for either task, write it, and read that."""
    path = folder / "recipe.toml"
    path.write_bytes(data)
    task = "pretrain" if b"pretrain" in data or b"mae" in data else "finetune"
    recipe = read_recipe(path, task)
    again = folder / "again.toml"
    again.write_text(to_toml(to_dict(recipe)), "utf-8")
    if read_recipe(again, task) != recipe:
        raise Wrong("another recipe came back")


def seeds(folder: Path) -> list[bytes]:
    """The shipped ones, and one with every kind of value."""
    own = 'task = "finetune"\nsteps = 3\nlr = 1e-3\nbetas = [0.9, 0.95]\ninput_size = [64, 96]\n[supervised]\nmixup = 0.2\n[before]\nmethod = "mae"\nepochs = 0.5\n'
    return [*(path.read_bytes() for path in sorted((ROOT / "recipes").glob("*.toml"))), own.encode()]


TARGET = Target("recipes", act, seeds, one_of(toml_lines, toml_lines, toml_lines, any_bytes))
