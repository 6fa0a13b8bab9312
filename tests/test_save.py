"""A network that was trained by hand: saved, and loaded back; or loaded from nothing but its state dict."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import hierax

from .members import loud, write_png

NAMES = ["hiera_nano_96", "hieradet_d_tiny", "hiera_abswin_tiny", "mae_hiera_tiny_224", "hiera_base_16x224"]


def equal(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


def test_save__after_training_by_hand(tmp_path):
    """create() and then training by hand ended nowhere."""
    model = hierax.create("hiera_nano_96", num_classes=2, input_size=(64, 96))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(torch.randn(2, 3, 64, 96)).square().sum().backward()
    optimizer.step()
    preprocess = hierax.PreprocessSpec(size=(64, 96), resize="squash", crop_ratio=1.0)
    path = hierax.save(model, tmp_path / "own", labels=["cat", "dog"], preprocess=preprocess)
    predictor = hierax.load(path)
    assert equal(predictor.model, model)
    assert predictor.labels == ["cat", "dog"]
    assert predictor.preprocess == preprocess
    assert predictor.encoder.input_size == (64, 96)
    assert {guess.label for guess in predictor.classify(write_png(tmp_path / "a.png"))[0]} == {"cat", "dog"}


def test_save__claims_nothing(tmp_path):
    """Random weights under the licence of published ones are somebody else's claim."""
    card = hierax.load(hierax.save(hierax.create("hiera_tiny_224"), tmp_path / "own")).card
    assert (card.license, card.dataset, card.base_model, card.sha256) == (None, None, None, None)


@pytest.mark.parametrize("form", ["birder", "meta"])
def test_save__in_other_formats(tmp_path, form):
    """The obstacle of a format is a reason, and what has none is written."""
    model = loud(hierax.create("hiera_tiny_224", num_classes=3))
    path = hierax.save(model, tmp_path / "own", format=form)
    assert equal(hierax.load(path, name="hiera_tiny_224").model, model)


def test_save__of_what_is_wrapped(tmp_path):
    """DataParallel puts `module.` before every name, and a compiled network `_orig_mod.`."""
    model = hierax.create("hiera_nano_96")
    for number, wrapped in enumerate((nn.DataParallel(model), torch.compile(model))):
        assert equal(hierax.load(hierax.save(wrapped, tmp_path / str(number))).model, model)


@pytest.mark.parametrize(
    ("module", "labels", "words"),
    [
        (nn.Linear(2, 2), None, "takes a network of hierax; got Linear"),
        (None, None, "got NoneType"),
        ("hiera_nano_96", ["cat"], "each of 2 classes"),
        ("hiera_nano_96", "ab", "each of 2 classes"),
        ("hiera_nano_96", [1, 2], "each of 2 classes"),
    ],
)
def test_save__refuses(tmp_path, module, labels, words):
    """Half a model on disk is found when it is needed."""
    module = hierax.create(module, num_classes=2) if isinstance(module, str) else module
    with pytest.raises(hierax.InputError, match=words):
        hierax.save(module, tmp_path / "own", labels=labels)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_load__plain_state_dict(tmp_path, name):
    """What everybody writes first: torch.save(model.state_dict()). Nothing of the published weights is claimed."""
    model = loud(hierax.create(name))
    torch.save(model.state_dict(), tmp_path / "own.pt")
    predictor = hierax.load(tmp_path / "own.pt", name=name)
    assert equal(predictor.model, model)
    assert predictor.model.config == model.config
    assert predictor.card.license is None
    assert predictor.card.sha256 is None


def test_load__plain_state_dict_of_another_size(tmp_path):
    """Our tables keep their height and width; a square root of the tokens would be another shape."""
    model = loud(hierax.create("hiera_tiny_224", input_size=(96, 256), num_classes=5))
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, tmp_path / "own.pt")
    predictor = hierax.load(tmp_path / "own.pt", name="hiera_tiny_224")
    assert predictor.encoder.input_size == (96, 256)
    assert equal(predictor.model, model)


def test_load__plain_state_dict_without_a_name(tmp_path):
    """Windows leave no trace in a state dict: candidates are named, and a single one is taken."""
    torch.save(hierax.create("hieradet_d_tiny").state_dict(), tmp_path / "own.pt")
    with pytest.raises(hierax.CheckpointError, match=r"hieradet_d_tiny.*name="):
        hierax.load(tmp_path / "own.pt")
    torch.save(hierax.create("hiera_nano_96").state_dict(), tmp_path / "nano.pt")
    assert hierax.load(tmp_path / "nano.pt").encoder.config.name == "hiera_nano_96"
