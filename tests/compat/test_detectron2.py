"""detectron2's own pyramid on our encoder, where detectron2 is installed."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch

import hierax
from hierax.compat.detectron2 import bottom_up

from .loud import SIZES, STAGES, WIDTHS, checkpoint, same_maps


def test_contract(tmp_path):
    """`FPN` reads widths and strides of `output_shape` before any forward pass."""
    modeling = pytest.importorskip("detectron2.modeling")
    path = checkpoint(tmp_path)
    body = bottom_up(path)
    assert isinstance(body, modeling.Backbone)
    shapes = body.output_shape()
    assert [shapes[name].channels for name in STAGES] == WIDTHS
    assert [shapes[name].stride for name in STAGES] == [4, 8, 16, 32]
    pyramid = importlib.import_module("detectron2.modeling.backbone").FPN(body, list(STAGES), 16)
    for size in SIZES:
        x = torch.randn(1, 3, *size)
        assert same_maps([each.detach() for each in body(x).values()], path, x)
        pyramid(x)["p5"].sum().backward()
    assert body.body.encoder.patch_embed.proj.weight.grad.abs().sum() > 0


def test_without_detectron2(monkeypatch):
    monkeypatch.setitem(sys.modules, "detectron2.modeling", None)
    with pytest.raises(hierax.HieraxError, match="needs detectron2"):
        bottom_up()
