"""Inputs that are not what they were taken for: said in one line, never ignored."""

from __future__ import annotations

import json

import pytest

import hierax
from hierax.cli import main

from ..members import write_png


@pytest.fixture
def model(desk):
    """A folder that is a model, as a training run leaves it."""
    hierax.load().save("run1/model")
    return "run1/model"


def test_forgotten_option__is_named(model, capsys, caplog):
    """`classify run1/model photo.png` answered with another model's classes, without a word."""
    assert main(["classify", model, "a.png", "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1
    (said,) = caplog.messages
    assert f"did you mean -m {model}" in said


def test_forgotten_option__alone(model, capsys):
    """Nothing but a model leaves nothing to do."""
    assert main(["embed", model, "-o", "v.npz"]) == 1
    assert f"did you mean -m {model}" in capsys.readouterr().err


def test_forgotten_option__of_a_file(model, capsys):
    """A named file is always tried; that it is no image is true and helps nobody."""
    assert main(["classify", f"{model}/model.safetensors", "a.png"]) == 3
    assert f"did you mean -m {model}/model.safetensors" in " ".join(capsys.readouterr().out.split())


def test_a_list_of_paths__is_told_how_it_goes_in(desk, capsys):
    """That a text is no image says nothing of the thousand images it names."""
    (desk / "my list.txt").write_text("a.png\n")
    assert main(["classify", "my list.txt"]) == 3
    assert "- < 'my list.txt'" in " ".join(capsys.readouterr().out.split())


def test_inputs_without_images__are_said(desk, caplog):
    """A folder of documents, and a glob that matches nothing, among others; a folder named twice is no such thing."""
    (desk / "docs").mkdir()
    (desk / "docs" / "text.md").write_text("x")
    (desk / "photos").mkdir()
    write_png(desk / "photos" / "b.png")
    assert main(["classify", "docs", "photos", "photos/", "*.nothing", "a.png", "--top-k", "1"]) == 0
    assert [said.split(" holds")[0] for said in caplog.messages] == ["'docs'", "'*.nothing'"]
    assert not any("-m" in said for said in caplog.messages)


def test_clips_for_a_model_of_images__are_said(desk, capsys):
    """Half a holiday is missing from the vectors, and nobody knows."""
    (desk / "clip.mp4").write_bytes(b"x")
    write_png(desk / "b.png")
    assert main(["embed", ".", "-o", "v.npz"]) == 0
    assert "1 clips were passed over: 'hiera_nano_96' takes images" in capsys.readouterr().err
