"""segmentation_models_pytorch on our encoder: its own decoders, our weights."""

from __future__ import annotations

import sys

import pytest
import torch

import hierax
from hierax.compat import smp as ours

from ..peers import peer
from .loud import SIZES, STAGES, WIDTHS, checkpoint, same_maps

pytestmark = pytest.mark.parity
MODELS = {
    "Unet": {"decoder_channels": (16, 16, 8, 8, 8)},
    "UnetPlusPlus": {"decoder_channels": (16, 16, 8, 8, 8)},
    "MAnet": {"decoder_channels": (16, 16, 8, 8, 8), "decoder_pab_channels": 8},
    "Linknet": {},
    "FPN": {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32},
    "UPerNet": {"decoder_channels": 16},
    "Segformer": {"decoder_segmentation_channels": 16},
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("smp"))


@pytest.mark.parametrize("kind", MODELS)
def test_every_model(kind, path):
    """An encoder that smp built fresh, or a stage off by one, segments something else."""
    smp = peer("segmentation_models_pytorch")
    model = getattr(smp, kind)(ours.register(path), encoder_weights=None, classes=3, **MODELS[kind]).eval()
    assert model.encoder.out_channels == [3, 0, *WIDTHS]
    seen: list = []
    model.encoder.register_forward_hook(lambda _, __, output: seen.append(output))
    for size in SIZES:
        x = torch.randn(2, 3, *size)
        with torch.inference_mode():
            assert model(x).shape == (2, 3, *size)
        image, empty, *maps = seen.pop()
        assert torch.equal(image, x)
        assert empty.shape == (2, 0, size[0] // 2, size[1] // 2)
        assert same_maps(maps, path, x)
    model.train()(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert all(p.grad is not None for p in model.encoder.parameters() if p.requires_grad)
    assert model.encoder.body.encoder.patch_embed.proj.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("depth", [3, 4])
def test_depth(depth, path):
    smp = peer("segmentation_models_pytorch")
    name = ours.register(path, "shallow", frozen_until="stage1")
    model = smp.PSPNet(name, encoder_weights=None, encoder_depth=depth).eval()
    assert model.encoder.out_channels == [3, 0, *WIDTHS[: depth - 1]]
    x = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        model(x)
        assert same_maps(model.encoder(x)[2:], path, x, STAGES[: depth - 1])
    assert not model.encoder.body.encoder.patch_embed.proj.weight.requires_grad


def test_saved_and_loaded(path, tmp_path):
    """smp's file names the encoder; what was trained in it must come back."""
    smp = peer("segmentation_models_pytorch")
    model = smp.FPN(ours.register(path), encoder_weights=None, **MODELS["FPN"]).eval()
    with torch.no_grad():
        model.encoder.body.encoder.patch_embed.proj.weight.add_(0.1)
    model.save_pretrained(tmp_path)
    again = smp.from_pretrained(tmp_path).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(model(x), again(x))
        assert not same_maps(again.encoder(x)[2:], path, x)


def test_refusals(path):
    """Each would otherwise end in the middle of smp, or in an encoder of random weights."""
    smp = peer("segmentation_models_pytorch")
    name = ours.register(path)
    with pytest.raises(hierax.InputError, match="encoder_output_stride must be 32; got 8"):
        smp.DeepLabV3(name, encoder_weights=None)
    with pytest.raises(hierax.InputError, match="in_channels=1"):
        smp.Unet(name, encoder_weights=None, in_channels=1)
    with pytest.raises(hierax.InputError, match="encoder_depth must be 2 to 5"):
        smp.PSPNet(name, encoder_weights=None, encoder_depth=1)
    with pytest.raises(hierax.InputError, match="multiple"):
        smp.Unet(name, encoder_weights=None)(torch.randn(1, 3, 50, 64))
    for taken in ("resnet18", "tu-hierax", "", 3):
        with pytest.raises(hierax.InputError, match="name must be one that smp does not have"):
            ours.register(path, taken)
    with pytest.raises(hierax.UnknownNameError, match="frozen_until"):
        ours.register(path, frozen_until="stage9")
    with pytest.raises(hierax.UnknownNameError, match="no_such_model"):
        ours.register("no_such_model")


def test_without_smp(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch.encoders", None)
    with pytest.raises(hierax.MissingExtraError, match="segmentation_models_pytorch"):
        ours.register()
