"""The lines of a run as a person reads them."""

from __future__ import annotations

import re

from hierax.cli import main

from ..members import coloured_classes, save_learner


def test_counts_are_counts(tmp_path, monkeypatch, capsys):
    """Validation between steps was printed as "correct1 3.0000  total 16.0000"."""
    monkeypatch.chdir(tmp_path)
    coloured_classes(tmp_path / "data", per_class=4)
    save_learner(tmp_path / "start")
    settings = ["--set", "workers=0", "validate_every=1", "validation_fraction=0.25"]
    assert main(["finetune", "data", "out", "-m", "start", "--steps", "2", "--batch-size", "4", *settings]) == 0
    said = capsys.readouterr().err
    assert re.search(r"step 1: validation top-1 [\d.]+% \(\d of 3\), top-5 ", said)
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
