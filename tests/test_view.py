"""`hierax.view` and its command: what goes in, what is refused before any work, and what is left alone."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import hierax
from hierax.cli import main
from hierax.errors import InputError, UnknownNameError

from .members import noise, save_video_learner, write_png


@pytest.fixture
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_png("a.png", 1)
    write_png("b.png", 2)
    return tmp_path


@pytest.fixture(scope="module")
def predictor():
    return hierax.load()


def data(page) -> dict:
    """What lies in a page."""
    return json.loads(re.search(r'id="data">(.*?)</script>', Path(page).read_text(), re.S)[1])


def test_view__whatever_is_an_image(desk, predictor):
    """Paths, folders, pictures and arrays, alone and mixed."""
    array = noise(40, 50)
    mixed = data(hierax.view(predictor, ["a.png", Image.fromarray(array), array, desk / "b.png"], "mixed.html"))
    assert [image["name"] for image in mixed["images"]] == ["a.png", "image 2", "image 3", "b.png"]
    assert mixed["images"][1]["picture"] == mixed["images"][2]["picture"]
    assert [image["name"] for image in data(hierax.view(predictor, ".", "folder.html"))["images"]] == ["a.png", "b.png"]
    assert len(data(hierax.view(predictor, np.stack([array, array]), "stack.html"))["images"]) == 2
    assert hierax.view(None, "a.png", "text.html", stages="stage2") == Path("text.html")
    assert [stage["name"] for stage in data("text.html")["stages"]] == ["stage2"]
    assert data("text.html")["about"]["license"] == predictor.card.license


def test_view__leaves_what_is_there(desk, predictor):
    """A page that somebody wrote notes into is not ours to replace; half a page is worse than none."""
    Path("mine.html").write_text("mine")
    with pytest.raises(InputError, match=r"already exists and was left as it is"):
        hierax.view(predictor, "a.png", "mine.html")
    with pytest.raises(InputError, match="none of 1 can"):
        hierax.view(predictor, bad(), "mine.html", overwrite=True)
    assert Path("mine.html").read_text() == "mine"
    hierax.view(predictor, "a.png", "mine.html", overwrite=True)
    assert data("mine.html")["images"]
    assert sorted(path.name for path in Path().iterdir()) == ["a.png", "b.png", "bad.png", "mine.html"]


def bad() -> str:
    Path("bad.png").write_bytes(b"nothing")
    return "bad.png"


@pytest.mark.parametrize(
    ("images", "options", "error"),
    [
        ([], {}, InputError),
        (b"bytes", {}, InputError),
        ([3], {}, InputError),
        (None, {}, InputError),
        ("missing.png", {}, InputError),
        ("a.png", {"stages": ["stage5"]}, UnknownNameError),
        ("a.png", {"stages": []}, InputError),
        ("a.png", {"basis": "b.npz"}, InputError),
        ("a.png", {"basis": "a.png"}, InputError),
    ],
)
def test_view__refuses(desk, predictor, images, options, error):
    """Each with a reason, and no page."""
    with pytest.raises(error):
        hierax.view(predictor, images, "out.html", **options)
    assert not Path("out.html").exists()


def test_view__too_many(desk, predictor, monkeypatch):
    """A page of gigabytes is written for an hour and opened by nothing; the number that fits is told."""
    monkeypatch.setattr(sys.modules["hierax.view"], "MOST_BYTES", 50_000)
    with pytest.raises(InputError, match=r"those of 2 images .* at most 1 images"):
        hierax.view(predictor, ["a.png", "b.png"], "out.html")
    hierax.view(predictor, ["a.png", "b.png"], "out.html", stages=["stage4"])


def test_command__broken_among_good(desk, capsys):
    """One broken file must neither hide the others nor pass unnoticed."""
    bad()
    assert main(["view", "a.png", "bad.png", "missing.png", "b.png", "-o", "out.html"]) == 3
    said = capsys.readouterr().err
    assert "out.html: 2 images" in said
    assert "bad.png: An image must be one of" in said
    assert "2 of 4 files could not be read" in said
    found = data("out.html")
    assert [image["name"] for image in found["images"]] == ["a.png", "b.png"]
    assert [each["name"] for each in found["missing"]] == ["bad.png", "missing.png"]
    assert main(["view", "a.png", "-o", "out.html"]) == 1
    assert "Pass --overwrite" in capsys.readouterr().err


def test_command__of_clips(desk, capsys):
    """A network of clips has maps with a time axis, which the page has no place for."""
    save_video_learner(Path("video"))
    Path("clip.mp4").write_bytes(b"x")
    assert main(["view", "clip.mp4", "-m", "video", "-o", "out.html"]) == 1
    assert "takes clips. Load a model of images." in capsys.readouterr().err


def test_command__basis_of_one_page_for_another(desk, capsys):
    """Colours of the second page must be those of the first; a basis fitted anew is said."""
    assert main(["view", "a.png", "b.png", "-o", "one.html", "--basis", "kept.safetensors"]) == 0
    assert "kept.safetensors: the basis, fitted here" in capsys.readouterr().err
    assert main(["view", "b.png", "-o", "two.html", "--basis", "kept.safetensors"]) == 0
    assert "fitted here" not in capsys.readouterr().err
    one, two = data("one.html"), data("two.html")
    for first, second in zip(one["stages"], two["stages"], strict=True):
        assert first["colours"][1] == second["colours"][0]
        assert first["explained"] == second["explained"]
    assert one["colours_from"] == "fitted to 2 images, those drawn here"
    assert two["colours_from"] == "fitted to 2 images, from kept.safetensors"


def test_view__zero_maps(desk, predictor, tmp_path):
    """A collapsed network gives one vector everywhere, or none: the page says so instead of failing."""
    folder = predictor.save(tmp_path / "dead")
    dead = hierax.load(folder)
    with torch.no_grad():
        for parameter in dead.encoder.parameters():
            parameter.zero_()
    found = data(hierax.view(dead, "a.png", "dead.html"))
    assert [stage["norm_range"] for stage in found["stages"]] == [[0.0, 0.0]] * 4
