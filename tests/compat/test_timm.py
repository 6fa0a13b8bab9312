"""timm's own factory, and libraries that build through it, on our encoder."""

from __future__ import annotations

import sys

import pytest
import torch

import hierax
from hierax.compat import timm as ours
from hierax.weights.formats.timm import evaluated_at

from ..peers import peer
from .loud import SIZES, STAGES, WIDTHS, checkpoint, same_maps

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("timm"))


@pytest.mark.parametrize("indices", [(0, 1, 2, 3), (1, 2, 3), (-1,), (3, 0), 2])
def test_create_model(indices, path):
    """Widths of other maps than those given would be found by nobody before the first forward pass."""
    timm = peer("timm")
    body = timm.create_model(ours.register(path), features_only=True, out_indices=indices).eval()
    expected = {(0, 1, 2, 3): [0, 1, 2, 3], (1, 2, 3): [1, 2, 3], (-1,): [3], (3, 0): [0, 3], 2: [2, 3]}[indices]
    stages = [STAGES[index] for index in expected]
    info = body.feature_info
    assert info.channels() == [WIDTHS[index] for index in expected]
    assert info.reduction() == [4 * 2**index for index in expected]
    assert {*info.module_name()} <= {name for name, _ in body.named_modules()}
    for size in SIZES:
        x = torch.randn(2, 3, *size)
        with torch.inference_mode():
            assert same_maps(body(x), path, x, stages)
    body.train()
    body.set_grad_checkpointing()
    body(torch.randn(2, 3, 64, 64))[-1].square().sum().backward()
    assert body.body.encoder.patch_embed.proj.weight.grad.abs().sum() > 0


def test_feature_info_is_that_of_a_timm_network(path):
    """Code written for timm's Hiera reads these fields."""
    timm = peer("timm")
    theirs = timm.create_model("sam2_hiera_tiny", features_only=True).feature_info
    mine = ours.features(path).feature_info
    assert type(mine) is type(theirs)
    assert mine.reduction() == theirs.reduction()
    assert {*mine.get_dicts()[0]} >= {"num_chs", "reduction", "module", "index"}


def test_data_config__is_the_checkpoint_s(tmp_path):
    """timm's own defaults, ImageNet's colours at 224, are what an encoder of another origin was never trained on."""
    timm = peer("timm")
    spec = hierax.PreprocessSpec(size=(64, 96), mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1), interpolation="bilinear")
    path = checkpoint(tmp_path)
    body = timm.create_model(ours.register(path), features_only=True)
    found = timm.data.resolve_model_data_config(body)
    own = hierax.load(path).preprocess
    assert (found["mean"], found["std"]) == (list(own.mean), list(own.std))
    assert (found["input_size"], found["interpolation"]) == ([3, *own.size], own.interpolation)
    told = evaluated_at(spec, hierax.load(path).encoder.config)
    assert (told["mean"], told["interpolation"], told["crop_pct"]) == ([0.5, 0.4, 0.3], "bilinear", 0.875)


def test_who_builds_through_timm(path):
    """transformers' TimmBackbone and smp's `tu-` encoders read feature_info, and nothing else says what is inside."""
    name = ours.register(path, "hierax_loud")
    smp, transformers = peer("segmentation_models_pytorch"), peer("transformers")
    x = torch.randn(1, 3, 96, 64)
    unet = smp.Unet(f"tu-{name}", encoder_weights=None, decoder_channels=(16, 16, 8, 8, 8)).eval()
    config = transformers.TimmBackboneConfig(backbone=name, out_indices=(1, 2, 3))
    body = transformers.AutoBackbone.from_config(config).eval()
    assert unet.encoder.out_channels == [3, 0, *WIDTHS]
    assert list(body.channels) == WIDTHS[1:]
    with torch.inference_mode():
        assert unet(x).shape == (1, 1, 96, 64)
        assert same_maps(unet.encoder(x)[2:], path, x)


def test_registered_again_it_is_the_new_source(path, tmp_path):
    """A name that keeps its first meaning trains on other weights than the last that were asked for."""
    timm = peer("timm")
    other = checkpoint(tmp_path, "hiera")
    ours.register(path)
    body = timm.create_model(ours.register(other), features_only=True).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert same_maps(body(x), other, x)
    assert "hierax" not in ours.__all__


def test_refusals(path):
    timm = peer("timm")
    name = ours.register(path)
    with pytest.raises(hierax.InputError, match="features_only=True"):
        timm.create_model(name)
    with pytest.raises(hierax.InputError, match="in_chans=1"):
        timm.create_model(name, features_only=True, in_chans=1)
    with pytest.raises(hierax.InputError, match="img_size=64"):
        timm.create_model(name, features_only=True, img_size=64)
    for wrong in ((4,), (-5,), (), 0, 5, ("stage1",)):
        with pytest.raises(hierax.InputError, match="out_indices are stages"):
            ours.features(path, out_indices=wrong)
    for options in ({"norms": True}, {"out_indices": (1,)}):  # the latter is of create_model, and would be given twice
        with pytest.raises(hierax.UnknownNameError, match="Options of an encoder are frozen_until, norm"):
            ours.register(path, "another", **options)
    for taken in ("resnet18", "two words", 3):
        with pytest.raises(hierax.InputError, match="name must be a word that timm has no model by"):
            ours.register(path, taken)


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.models", None)
    with pytest.raises(hierax.MissingExtraError, match="timm"):
        ours.features()
