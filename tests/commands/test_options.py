"""Options that commands over images share: input size, engine, and the largest image."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from PIL import Image

import hierax
from hierax.cli import main

from ..members import folder_of_classes


@pytest.fixture(autouse=True)
def _limit(monkeypatch):
    """An option that sets the environment must not outlive its test."""
    monkeypatch.setenv("HIERAX_MAX_PIXELS", "")


def test_input_size__of_every_command(desk, capsys):
    """Maps of 160 x 96 pixels have 5 x 3 cells at the end; an option that was parsed and dropped gives 3 x 3."""
    assert main(["features", "a.png", "-o", "f.npz", "--input-size", "160x96"]) == 0
    assert np.load("f.npz")["stage4"].shape == (1, 256, 5, 3)
    assert main(["embed", "a.png", "-o", "v.npz", "--input-size", "128"]) == 0
    expected = hierax.load(input_size=128).embed("a.png")
    np.testing.assert_allclose(np.load("v.npz")["embedding"], expected, atol=1e-5)
    assert main(["classify", "a.png", "--input-size", "128", "--top-k", "1", "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    (guess,) = hierax.load(input_size=128).classify("a.png", top_k=1)[0]
    assert row["predictions"][0]["score"] == pytest.approx(guess.score, abs=1e-3)


def test_input_size__of_eval(desk, capsys):
    """A resolution sweep is an option a line."""
    folder_of_classes(desk / "set", ("star", "ring"), 2)
    assert main(["eval", "accuracy", "set", "--input-size", "128", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert main(["eval", "accuracy", "set", "--input-size", "100"]) == 1
    assert "32" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["big", "12x", "x", "96x96x96", "-96", "9" * 5000, ""])
def test_input_size__of_no_size(desk, capsys, text):
    """One line that shows how it is written."""
    assert main(["classify", "a.png", f"--input-size={text}"]) == 1
    captured = capsys.readouterr()
    assert "Write 512 or 512x768" in captured.err
    assert len(captured.err.splitlines()) == 1


def test_engine__beside_fast(desk, capsys):
    """Without --fast it changed nothing, and nobody said so."""
    assert main(["embed", "a.png", "-o", "v.npz", "--fast", "--engine", "torch"]) == 0
    assert main(["classify", "a.png", "--engine", "torch"]) == 1
    assert "--fast" in capsys.readouterr().err
    assert main(["classify", "a.png", "--fast", "--engine", "warp"]) == 1
    assert "openvino" in capsys.readouterr().err
    with pytest.raises(hierax.InputError, match="fast=True"):
        hierax.load(engine="openvino")


def test_max_pixels__the_advice_can_be_followed(desk, capsys):
    """The message names the option and the number that lets the image in."""
    Image.new("RGB", (60, 50)).save("b.png")
    assert main(["classify", "b.png", "--max-pixels", "2999"]) == 3
    assert "--max-pixels 3000" in " ".join(capsys.readouterr().out.split())
    assert main(["classify", "b.png", "--max-pixels", "3000"]) == 0
    os.environ["HIERAX_MAX_PIXELS"] = "2999"
    assert main(["classify", "b.png"]) == 3
    assert main(["classify", "b.png", "--max-pixels", "0"]) == 1
    assert "at least 1" in capsys.readouterr().err


@pytest.mark.slow
def test_photograph_of_a_phone(desk):
    """Phones take 108 megapixels and more; no option let them in."""
    Image.new("L", (12000, 9000), 90).save("phone.jpg")
    assert main(["embed", "phone.jpg", "-o", "v.npz"]) == 0
