"""A short sweep over learning rates before a run: one table, one picture, and the best of them."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import console
from ..visualize import charts
from ..weights.files import read_json, write_json
from .devices import Devices
from .recipe import Recipe

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the recipe's rate
SHARE, LEAST = 0.2, 100  # of the run's steps that each candidate takes, and the fewest
Row = dict[str, float]  # lr, top1, loss


Train = Callable[[Recipe, Path, bool], Any]  # a recipe, in a folder, going on there or not; gives a summary


def swept(recipe: Recipe, total: int, out: Path, train: Train, devices: Devices) -> Recipe:
    """The recipe with the learning rate that did best in short runs, by accuracy, then loss.

    Each candidate is a run in a folder of its own; one that is finished is not run again, one that was killed goes on.

    Args:
        recipe: All of it; its rate is the middle of the candidates.
        total: Steps of the run to come.
        out: Folder of the candidates, of the table and the picture.
        train: Trains a candidate.
        devices: The processes.
    """
    rows: list[Row] = []
    shorter = min(total, max(LEAST, math.ceil(SHARE * total)))
    console.say(f"sweep: {len(FACTORS)} learning rates, {shorter} steps each")
    for factor in FACTORS:
        candidate = _short(recipe, recipe.lr * factor, shorter, total)
        folder = out / f"lr-{candidate.lr:g}"
        # Of the main process, for all: it may have begun to write before the others look.
        known, begun = devices.gather((_finished(folder), (folder / "run_recipe.json").exists()))[0]
        metrics = known or train(candidate, folder, begun).metrics
        rows.append({"lr": candidate.lr, "top1": metrics["top1"], "loss": metrics["loss"]})
    best = max(rows, key=lambda row: (row["top1"], -row["loss"]))
    if devices.main:
        _tell(rows, best, out)
    return dataclasses.replace(recipe, lr=best["lr"])


def _short(recipe: Recipe, lr: float, steps: int, total: int) -> Recipe:
    """The same recipe in fewer steps, at another rate."""
    warmup = None if recipe.warmup_steps is None else math.ceil(recipe.warmup_steps * steps / total)
    return dataclasses.replace(
        recipe, lr=float(f"{lr:.3g}"), steps=steps, epochs=None, warmup_steps=warmup, validate_every=0, patience=0,
        result=None, checkpoint_every=0,
    )  # fmt: skip


def _finished(folder: Path) -> dict[str, Any]:
    """The metrics of a candidate that is done, else nothing."""
    path = folder / "summary.json"
    return read_json(path).get("metrics", {}) if path.exists() else {}


def _tell(rows: list[Row], best: Row, out: Path) -> None:
    """The table on stderr and in `sweep.json`, the picture in `sweep.png`."""
    console.say("sweep: learning rate   top-1    loss")
    for row in rows:
        mark = "   taken for the run" if row is best else ""
        console.say(f"sweep: {row['lr']:>13.3g}  {row['top1']:6.1%}  {row['loss']:6.4f}{mark}")
    write_json(out / "sweep.json", {"rows": rows, "taken": best["lr"]})
    if importlib.util.find_spec("matplotlib") is None:
        return
    with charts.canvas(out / "sweep.png", (6, 3.6)) as (axes, *_):
        rates = [row["lr"] for row in rows]
        axes.plot(rates, [100 * row["top1"] for row in rows], marker="o")
        axes.axvline(best["lr"], ls="--", lw=1)
        axes.set(xscale="log", xlabel="learning rate", ylabel="top-1 (%)", title=f"Best learning rate: {best['lr']:g}")
        axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
        axes.minorticks_off()
