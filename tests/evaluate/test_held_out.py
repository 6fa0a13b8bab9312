"""What a run of hierax trained on does not pass for unseen data when its model is measured."""

from __future__ import annotations

import json
import shutil

import pytest

from hierax.cli import main

from ..members import coloured_classes, save_learner


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A folder of data, and a run on it: 24 images, two of eight held out in each of three classes."""
    monkeypatch.chdir(tmp_path)
    coloured_classes(tmp_path / "data")
    save_learner(tmp_path / "start")
    settings = ["--set", "workers=0", "validation_fraction=0.25", "seed=3"]
    assert main(["finetune", "data", "out", "-m", "start", "--steps", "2", "--batch-size", "4", "-q", *settings]) == 0
    return tmp_path


def measured(capsys, *arguments):
    """The counts, and what was said."""
    capsys.readouterr()
    assert main(["eval", "accuracy", *arguments, "--format", "json"]) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


def test_only_what_was_held_out_counts(trained, capsys):
    """All 24, of which 18 were trained on, gave 98 % without a word."""
    found, said = measured(capsys, "data", "-m", "out/model")
    assert found["total"] == 6
    assert "6 samples that training held out" in said
    assert "18" in said
    validated = json.loads((trained / "out" / "summary.json").read_text())["metrics"]
    assert found["correct1"] == validated["correct1"]
    assert found["top1"] == validated["top1"]


def test_all_of_them_on_request(trained, capsys):
    """A person may ask for every image, and is told what the number means."""
    found, said = measured(capsys, "data", "-m", "out/model", "--split", "all")
    assert found["total"] == 24
    assert "trained on" in said


def test_data_and_run_that_were_moved(trained, capsys):
    """A comparison of paths would take the same images for others."""
    (trained / "data").rename(trained / "elsewhere")
    shutil.copytree(trained / "out", trained / "copied")
    assert measured(capsys, "elsewhere", "-m", "copied/model")[0]["total"] == 6


def test_other_images_of_the_same_names(trained, capsys):
    """A comparison of names would leave most of a test set out, or warn of what is not so."""
    coloured_classes(trained / "test", seed=9)
    found, said = measured(capsys, "test", "-m", "out/model")
    assert (found["total"], said) == (24, "")


def test_data_that_grew(trained, capsys):
    """What was held out cannot be told any more; that most was trained on can."""
    shutil.copy(trained / "data" / "class_0" / "000.png", trained / "data" / "class_0" / "new.png")
    found, said = measured(capsys, "data", "-m", "out/model")
    assert found["total"] == 25
    assert "trained on samples that are counted here" in said


def test_splits_of_the_data(trained, capsys):
    """With a validation split nothing is held out: that split is unseen, the other is not."""
    for split in ("train", "val"):
        coloured_classes(trained / "split" / split, per_class=2, seed=ord(split[0]))
    line = [
        "finetune",
        "split",
        "again",
        "-m",
        "start",
        "--steps",
        "1",
        "--batch-size",
        "4",
        "-q",
        "--set",
        "workers=0",
    ]
    assert main(line) == 0
    assert measured(capsys, "split", "-m", "again/model")[1] == ""
    assert "trained on" in measured(capsys, "split", "-m", "again/model", "--split", "train")[1]


@pytest.mark.parametrize("text", ["[]", "{", '{"held_out": 5, "traces": [1]}',
                                  '{"held_out": {"fraction": "a", "split": 1}, "traces": {"a": 1}}'])  # fmt: skip
def test_a_damaged_record_is_no_record(trained, capsys, text):
    """A file that somebody edited must not stop a measurement."""
    (trained / "out" / "run.json").write_text(text)
    assert measured(capsys, "data", "-m", "out/model")[0]["total"] == 24
