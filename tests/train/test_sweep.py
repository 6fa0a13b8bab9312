"""The sweep over learning rates: its candidates, its table and picture, and what a kill leaves of it."""

from __future__ import annotations

import json
import sys

import pytest

from hierax.cli import main
from hierax.errors import RecipeError
from hierax.train import finetune, sweep
from hierax.train.reading import read_recipe

from ..members import coloured_classes, save_learner
from . import runs

runs_module = sys.modules["hierax.train.run"]  # the package gives its name to the function
SETTINGS = {key: value for key, value in runs.SETTINGS.items() if key != "lr"}


@pytest.fixture
def start(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "LEAST", 2)
    monkeypatch.setattr(sweep, "SHARE", 0.25)
    return coloured_classes(tmp_path / "data", per_class=6), save_learner(tmp_path / "start")


def scored(monkeypatch, best):
    """Candidates whose accuracy falls with the distance from one rate; the recipes that were run."""
    real, seen = runs_module._candidate, []

    def candidate(data, recipe, folder, resume):
        summary = real(data, recipe, folder, resume)
        seen.append(recipe)
        summary.metrics.update(top1=1.0 if recipe.lr == pytest.approx(best) else 0.5, loss=1.0)
        (folder / "summary.json").write_text(json.dumps({"metrics": summary.metrics}))
        return summary

    monkeypatch.setattr(runs_module, "_candidate", candidate)
    return seen


@pytest.mark.drawn
def test_the_best_rate_is_taken(tmp_path, start, monkeypatch, capsys):
    """A candidate at another length than said, or a run at another rate than the best, fails."""
    seen = scored(monkeypatch, 2e-3)
    out = tmp_path / "out"
    finetune(start[0], out, model=start[1], lr=1e-3, steps=12, sweep="lr", validation_fraction=0.34, **SETTINGS)
    assert [recipe.lr for recipe in seen] == pytest.approx([2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3])
    assert {recipe.steps for recipe in seen} == {3}
    assert read_recipe(out / "recipe.toml", "finetune").lr == pytest.approx(2e-3)
    said = capsys.readouterr().err
    assert "learning rate   top-1    loss" in said
    assert [line.count("taken") for line in said.splitlines() if line.startswith("hierax: sweep:")][-5:] == [
        0,
        0,
        0,
        1,
        0,
    ]
    written = json.loads((out / "sweep" / "sweep.json").read_text())
    assert written["taken"] == pytest.approx(2e-3)
    assert len(written["rows"]) == 5
    assert (out / "sweep" / "sweep.png").stat().st_size > 1000
    assert (out / "report.html").exists()
    drawn = [path.name for path in (out / "sweep").rglob("*") if path.suffix in (".html", ".png")]
    assert drawn == ["sweep.png"]  # five reports of runs that nobody keeps hide the one that counts
    finetune(
        start[0], out, model=start[1], lr=1e-3, steps=12, sweep="lr", resume=True, validation_fraction=0.34, **SETTINGS
    )
    assert len(seen) == 5


def test_a_killed_sweep_runs_no_candidate_twice(tmp_path, start, monkeypatch):
    """Whoever goes on after the third candidate must not wait for the first two again."""
    seen = scored(monkeypatch, 5e-4)
    counted = runs_module._candidate

    def dies(data, recipe, folder, resume):
        if len(seen) == 2:
            raise KeyboardInterrupt
        return counted(data, recipe, folder, resume)

    settings = {**SETTINGS, "lr": 1e-3, "steps": 12, "sweep": "lr", "validation_fraction": 0.34}
    with monkeypatch.context() as patch:
        patch.setattr(runs_module, "_candidate", dies)
        with pytest.raises(KeyboardInterrupt):
            finetune(start[0], tmp_path / "out", model=start[1], **settings)
    summary = finetune(start[0], tmp_path / "out", model=start[1], resume=True, **settings)
    assert len(seen) == 5
    assert summary.steps == 12
    assert read_recipe(tmp_path / "out" / "recipe.toml", "finetune").lr == pytest.approx(5e-4)


@pytest.mark.slow
def test_processes_agree(tmp_path, start, capfd):
    """One that takes another rate, or looks whether a candidate began after the main one wrote it, hangs or differs."""
    out = tmp_path / "out"

    def work():
        finetune(start[0], out, model=start[1], lr=1e-3, steps=4, sweep="lr", validation_fraction=0.34, **SETTINGS)

    assert runs.in_processes(work, 2) == [0, 0]
    taken = json.loads((out / "sweep" / "sweep.json").read_text())["taken"]
    assert read_recipe(out / "recipe.toml", "finetune").lr == taken
    assert json.loads((out / "run.json").read_text())["processes"] == 2
    assert capfd.readouterr().err.count("taken for the run") == 1


def test_nothing_to_compare(tmp_path, start):
    """Without a validation the first candidate would be taken, whatever it learned."""
    with pytest.raises(RecipeError, match="compares accuracies"):
        finetune(start[0], tmp_path / "out", model=start[1], steps=4, sweep="lr", validation_fraction=0.0, **SETTINGS)
    assert not (tmp_path / "out" / "sweep").exists()  # a whole run, for nothing
    with pytest.raises(RecipeError, match="over 'lr'"):
        finetune(start[0], tmp_path / "out", model=start[1], steps=4, sweep="wd", **SETTINGS)


def test_on_the_command_line(tmp_path, start, capsys):
    """The table is talk: standard output holds the folder of the result and nothing else."""
    line = ["finetune", str(start[0]), str(tmp_path / "out"), "-m", str(start[1]), "--steps", "4", "--sweep", "lr"]
    assert main([*line, "--set", "workers=0", "device=cpu", "validation_fraction=0.34"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'model'}\n"
