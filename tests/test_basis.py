"""A basis is fitted once: later pictures have its colours, and no other weights, stages or files do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import hierax
from hierax.basis import BasisFile
from hierax.cli import main
from hierax.errors import InputError
from hierax.visualize.maps import SIGN_RULE, colour_maps
from hierax.weights.safetensors_files import read_metadata, read_safetensors, save_safetensors

from .members import save_learner, write_png

FILE = Path("basis.safetensors")


@pytest.fixture
def predictor(tmp_path, monkeypatch):
    """In a folder with two pictures, and a basis of one of them."""
    monkeypatch.chdir(tmp_path)
    write_png("a.png", 1)
    write_png("b.png", 2)
    found = hierax.load()
    BasisFile(FILE, found, ["stage3"]).of(found.features("a.png", stages=["stage3"]))
    return found


def rewritten(tensors=None, **metadata):
    kept, known = read_safetensors(FILE)
    save_safetensors(FILE, {**kept, **(tensors or {})}, {**known, **metadata})


def test_basis__says_whose_it_is(predictor):
    """Without them nobody could tell next year what the colours stand for."""
    about, (tensors, _) = read_metadata(FILE), read_safetensors(FILE)
    assert about["model"] == predictor.card.name
    assert len(about["sha256"]) == 64
    assert about["sign_rule"] == SIGN_RULE
    assert about["images"] == "1"
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        "stage3.mean": (128,),
        "stage3.components": (3, 128),
        **{f"stage3.{name}": (3,) for name in ("explained", "low", "high")},
    }
    components = tensors["stage3.components"].numpy()
    np.testing.assert_allclose(components @ components.T, np.eye(3), atol=1e-9)
    assert (components[np.arange(3), np.abs(components).argmax(1)] > 0).all()
    explained = tensors["stage3.explained"].numpy()
    assert 1 >= explained.sum() > 0
    assert (np.diff(explained) <= 0).all()


def test_basis__is_reused_as_it_is(predictor):
    """Colours fitted to the new image would make equal features other colours; so would a range of its own."""
    maps = predictor.features("b.png", stages=["stage3"])
    bytes_before = FILE.read_bytes()
    used = BasisFile(FILE, predictor, ["stage3"])
    assert not used.is_new
    again = colour_maps("stage3", maps["stage3"], used.of(maps)["stage3"])
    both = np.concatenate([maps["stage3"], predictor.features("a.png", stages=["stage3"])["stage3"]])
    in_a_batch = colour_maps("stage3", both, used.of({"stage3": both})["stage3"])
    np.testing.assert_array_equal(again[0], in_a_batch[0])
    own = BasisFile(None, predictor, ["stage3"]).of(maps)["stage3"]
    assert (colour_maps("stage3", maps["stage3"], own) != again).mean() > 0.5
    assert FILE.read_bytes() == bytes_before


def test_basis__of_other_weights(predictor):
    """The same shape from other weights has other directions: the picture would look right and mean nothing."""
    save_learner(Path("other"))
    with pytest.raises(InputError, match="belongs to the weights"):
        BasisFile(FILE, hierax.load("other"), ["stage3"])
    with torch.no_grad():
        predictor.save("twin")
        twin = hierax.load("twin")
        twin.encoder.patch_embed.proj.weight[0, 0, 0, 0] += 1
        twin.save("changed")
    with pytest.raises(InputError, match="belongs to the weights"):
        BasisFile(FILE, hierax.load("changed"), ["stage3"])


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda: FILE.write_bytes(FILE.read_bytes()[:-9]), "whole"),
        (lambda: FILE.write_bytes(b"{}"), "whole"),
        (lambda: FILE.write_bytes(b""), "whole|empty"),
        (lambda: rewritten(format="other"), "is none, and was left"),
        (lambda: rewritten({"stage3.mean": torch.full((128,), torch.nan, dtype=torch.float64)}), "finite float64"),
        (lambda: rewritten({"stage3.low": torch.zeros(4, dtype=torch.float64)}), "stage3.low"),
        (lambda: rewritten({"stage3.components": torch.zeros(3, 128)}), "float64 stage3.components"),
        (lambda: (FILE.unlink(), FILE.mkdir()), "basis"),
        (lambda: (FILE.unlink(), FILE.symlink_to("/dev/zero")), "regular file"),
    ],
)
def test_basis__broken(predictor, spoil, match):
    """A file that is no basis is refused and stays; NaN would paint a whole map in one colour."""
    spoil()
    with pytest.raises(InputError, match=match):
        BasisFile(FILE, predictor, ["stage3"])


def test_basis__weights_are_none(predictor):
    """A checkpoint named by mistake must neither be read for minutes nor written over."""
    predictor.save("model")
    weights = next(Path("model").glob("*.safetensors"))
    before = weights.read_bytes()
    with pytest.raises(InputError, match="is none, and was left as it is"):
        BasisFile(weights, predictor, ["stage3"])
    assert weights.read_bytes() == before


def test_basis__a_stage_it_lacks(predictor):
    """Fitting the missing stage in silence would give a page two origins of colours."""
    with pytest.raises(InputError, match=r"basis of stage3; stage4 was asked for. Pass --stages stage3"):
        BasisFile(FILE, predictor, ["stage3", "stage4"])


def test_plot__one_basis_for_two_pictures(predictor, capsys):
    """Fit once on some, apply to later ones: the same image must be drawn in the same colours both times."""
    common = ["--stages", "stage3", "--basis", "new.safetensors"]
    assert main(["features", "a.png", "b.png", "-o", "ab.npz", "--plot", "ab.png", *common]) == 0
    assert "new.safetensors: the basis, fitted here" in capsys.readouterr().err
    kept = Path("new.safetensors").read_bytes()
    assert main(["features", "b.png", "-o", "b.npz", "--plot", "b_only.png", *common]) == 0
    assert "fitted here" not in capsys.readouterr().err
    assert Path("new.safetensors").read_bytes() == kept
    with Image.open("ab.png") as both, Image.open("b_only.png") as alone:
        first, second = np.asarray(alone), np.asarray(both)[288:]  # the second row of both
        np.testing.assert_array_equal(first[12:236, 484:708], second[12:236, 484:708])
        assert first[12:236, 484:708].std() > 20


def test_plot__basis_needs_a_picture(predictor, capsys):
    """An option that does nothing is refused."""
    assert main(["features", "a.png", "-o", "a.npz", "--basis", "new.safetensors"]) == 1
    assert "--basis is for the colours of --plot" in capsys.readouterr().err
    assert not Path("a.npz").exists()
    assert main(["features", "a.png", "-o", "a.npz", "--plot", "a2.png", "--basis", "x.npz"]) == 1
    assert "ends with .safetensors" in capsys.readouterr().err
    assert not Path("a.npz").exists()
