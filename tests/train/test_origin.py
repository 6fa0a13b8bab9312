"""Where weights come from is said before a run begins, and stands in every file that is made with its result."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hierax.cli import main
from hierax.net.cache import sha256_of

from ..members import coloured_classes, save_learner

FEW = ["--steps", "1", "--batch-size", "4", "--set", "workers=0"]
SMALL = [*FEW, "decoder_depth=1", "decoder_dim=32", "decoder_heads=2"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with data."""
    monkeypatch.chdir(tmp_path)
    coloured_classes(tmp_path / "data", per_class=4)
    return tmp_path


def test_first_lines_of_finetune(place, capsys):
    """A person could not see on which weights, of which licence, an hour was about to be spent."""
    save_learner(place / "start")
    assert main(["finetune", "data", "out", "-m", "start", *FEW, "validation_fraction=0.25"]) == 0
    model, data = capsys.readouterr().err.splitlines()[:2]
    assert "from weights of start, licence cc-by-nc-4.0; input 64x64, 3 classes" in model
    assert "9 samples to train on, 3 held out; 1 steps of 4" in data
    run = json.loads((place / "out" / "run.json").read_text())
    assert (run["weights"], run["license"]) == ("start", "cc-by-nc-4.0")
    assert run["weights_sha256"] == sha256_of(place / "start" / "model.safetensors")


def test_random_start_is_nobodys_weights(place, capsys):
    """The card said "Weights from: mae_hiera_nano_96" and sent the trainer to whoever gave away the weights."""
    assert main(["pretrain", "data", "mae", "-m", "hiera_nano_96", *SMALL]) == 0
    said = capsys.readouterr().err
    assert "model mae_hiera_nano_96 from random weights (seed 0); input 96x96" in said.splitlines()[0]
    assert "the published weights of hiera_nano_96 are not used" in said
    assert "pretrained=true" in said
    card = (place / "mae" / "model" / "README.md").read_text()
    assert "Weights from: random weights" in card
    assert "ask whoever" not in card
    assert main(["finetune", "data", "out", "-m", "mae/model", *FEW]) == 0
    said = capsys.readouterr().err
    assert "from weights of mae/model" in said
    assert "ask whoever" not in said
    assert main(["convert", "out/model", "there", "--to", "transformers"]) == 0
    assert json.loads((place / "there" / "config.json").read_text())["hierax"]["base_model"] == "random weights"
    assert main(["pretrain", "data", "more", "-m", "hiera_nano_96", *SMALL, "pretrained=true"]) == 0
    said = capsys.readouterr().err
    assert "from weights of hiera_nano_96" in said
    assert "not used" not in said


def test_vectors_say_which_weights_made_them(place, capsys):
    """Files of two runs both said "model" and no digest, so that their vectors seemed to be of one space."""
    save_learner(place / "start")
    known = []
    for seed in (1, 2):
        assert main(["finetune", "data", f"run{seed}", "-m", "start", *FEW, f"seed={seed}", "-q"]) == 0
        assert main(["embed", "data/class_0", "-m", f"run{seed}/model", "-o", f"{seed}.npz", "-q"]) == 0
        with np.load(place / f"{seed}.npz") as file:
            known.append(json.loads(str(file["metadata"])))
        assert known[-1]["hierax.model"] == f"run{seed}/model"
        assert known[-1]["hierax.sha256"] == sha256_of(place / f"run{seed}" / "model" / "model.safetensors")
        assert known[-1]["hierax.base_model"] == "someone/tiny"
    assert known[0]["hierax.sha256"] != known[1]["hierax.sha256"]


@pytest.mark.parametrize("out", ["data/run", "data/class_0/run", "data", "./data/../data/run"])
@pytest.mark.parametrize("command", ["finetune", "pretrain"])
def test_out_inside_data_is_refused(place, capsys, command, out):
    """The next run would take the first one's pictures for a class of their own."""
    assert main([command, "data", out, "-m", "hiera_nano_96", *FEW]) == 1
    assert "must lie outside its data" in capsys.readouterr().err
    assert not list((place / "data").rglob("run*"))
    assert not (place / "data" / ".lock").exists()
