"""The lines of a run as a person reads them."""

from __future__ import annotations

import re

import pytest

from hierax.cli import main
from hierax.model.metrics import Accuracy
from hierax.train.report import Report

from ..members import coloured_classes, save_learner


def test_counts_are_counts(tmp_path, monkeypatch, capsys):
    """Validation between steps was printed as "correct1 3.0000  total 16.0000"."""
    monkeypatch.chdir(tmp_path)
    coloured_classes(tmp_path / "data", per_class=4)
    save_learner(tmp_path / "start")
    settings = ["--set", "workers=0", "validate_every=1", "validation_fraction=0.25"]
    assert main(["finetune", "data", "out", "-m", "start", "--steps", "2", "--batch-size", "4", *settings]) == 0
    said = capsys.readouterr().err
    assert re.search(r"step 1: validation top-1 [\d.]+% \(\d of 3\), top-3 ", said)
    assert not re.search(r"(correct|total) ?\d*\.0000", said)


def test_a_learning_autoencoder_is_not_told_that_it_learned_nothing(tmp_path, monkeypatch, capsys):
    """Every line said "(nothing learned: 0.9987)", whatever the loss was."""
    monkeypatch.chdir(tmp_path)
    coloured_classes(tmp_path / "data", per_class=2)
    save_learner(tmp_path / "mae", decoder=True)
    line = ["pretrain", "data", "out", "-m", "mae", "--steps", "2", "--batch-size", "4", "--set", "workers=0"]
    assert main(line) == 0
    said = capsys.readouterr().err
    assert "nothing learned" not in said
    assert re.search(r"step 2/2  loss [\d.]+ \(predicting zero: 0\.99\d\d\)", said)


@pytest.mark.drawn
def test_mistakes_name_the_file_and_both_classes(tmp_path, monkeypatch):
    """A picture of mistakes said "97% dog, is cat" of images that nobody could find again, out of nobody knew how many."""
    from hierax.visualize import sheets

    monkeypatch.chdir(tmp_path)
    coloured_classes(tmp_path / "data", per_class=4)
    save_learner(tmp_path / "start")
    captions, notes = [], []
    draw, stack = sheets.contact_sheet, sheets.stack_sheets
    monkeypatch.setattr(sheets, "contact_sheet", lambda images, said: captions.extend(said) or draw(images, said))
    monkeypatch.setattr(sheets, "stack_sheets", lambda found, note="": notes.append(note) or stack(found, note=note))
    settings = ["--set", "workers=0", "lr=0.0", "validation_fraction=0.5"]
    assert main(["finetune", "data", "out", "-m", "start", "--steps", "1", "--batch-size", "4", *settings]) == 0
    assert (tmp_path / "out" / "mistakes.png").is_file()
    assert captions
    for caption in captions:
        file, labelled, seen = caption.split("\n")
        assert re.fullmatch(r"00\d\.png", file)
        assert re.fullmatch(r"labelled class_\d", labelled)
        assert re.fullmatch(r"seen as class_\d [01]\.\d\d", seen)
        assert labelled.split()[-1] != seen.split()[2]
    assert notes == [f"{len(captions)} of 6 answered wrong; the surest first."]


@pytest.mark.drawn
def test_curves_show_validation_and_learning_rate(tmp_path, monkeypatch):
    """The loss alone tells neither overfitting nor a rate that was still warming up."""
    from matplotlib.figure import Figure

    monkeypatch.chdir(tmp_path)
    coloured_classes(tmp_path / "data", per_class=4)
    save_learner(tmp_path / "start")
    kept = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: kept.append(self) or save(self, *a, **k))
    settings = ["--set", "workers=0", "validate_every=2", "validation_fraction=0.25"]
    assert main(["finetune", "data", "out", "-m", "start", "--steps", "4", "--batch-size", "4", *settings]) == 0
    panels = {axes.get_title(loc="left").split(":")[0]: axes.lines[0].get_xydata() for axes in kept[0].axes}
    assert list(panels["Validation top-1"][:, 0]) == [2, 4]
    assert list(panels["Learning rate"][:, 0]) == [1, 2, 3, 4]
    assert list(panels["Training loss"][:, 0]) == [1, 2, 3, 4]


def test_accuracy_stands_beside_the_loss_with_the_best_so_far(tmp_path, monkeypatch):
    """Who sees the loss alone stops a run that still learns, or lets one go on that has long been getting worse."""
    shown, said = [], []
    monkeypatch.setattr("hierax.console.show", lambda text, **given: shown.append(text))
    monkeypatch.setattr("hierax.console.say", said.append)

    def step(made, number):
        made.step(number, 0.5, samples=4, wait_s=0.0, lr=0.1)
        return shown[-1]

    made = Report(tmp_path, True, 9, 1, baseline=None)
    made.open(0)
    assert "top-1" not in step(made, 1)
    made.validated(1, Accuracy(correct1=3, correct5=4, total=4))
    assert "step 2/9  loss 0.5000  top-1 75.0% (the best so far)  lr " in step(made, 2)
    made.validated(2, Accuracy(correct1=2, correct5=4, total=4, losses=6.0))
    assert said[-1] == "step 2: validation top-1 50.00% (2 of 4), top-5 100.00% (4), loss 1.5000 (best 75.0% at step 1)"
    assert "step 3/9  loss 0.5000  top-1 50.0% (best 75.0% at step 1)  lr " in step(made, 3)
    made.close()
    resumed = Report(tmp_path, True, 9, 1, baseline=None)
    resumed.open(2)
    assert "top-1 50.0% (best 75.0% at step 1)" in step(resumed, 3)
    resumed.close()
    earlier = Report(tmp_path, True, 9, 1, baseline=None)
    earlier.open(1)
    assert "top-1 75.0% (the best so far)" in step(earlier, 2)
    earlier.close()
