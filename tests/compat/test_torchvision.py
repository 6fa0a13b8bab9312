"""torchvision's own detectors on our encoder.

Where torchvision's compiled half cannot be loaded, suppression of boxes is done by a few lines here, and pooling by
torchvision's own Python; everything else is its code.
"""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import Tensor

import hierax
from hierax.compat.torchvision import with_fpn

from ..peers import peer
from .loud import STAGES, WIDTHS, checkpoint, same_maps

pytestmark = pytest.mark.parity
TOP = STAGES[1:]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("torchvision"))


@pytest.fixture
def boxes(monkeypatch):
    """torchvision's module of boxes, whose suppression works here."""
    found = peer("torchvision.ops.boxes")
    if not importlib.import_module("torchvision.extension")._has_ops():
        monkeypatch.setattr(found, "nms", suppressed)
    with torch.compiler.set_stance("force_eager"):  # its Python of pooling would be compiled for half a minute
        yield found


def suppressed(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes that no better one overlaps, best first."""
    overlap = importlib.import_module("torchvision.ops.boxes").box_iou(boxes, boxes)
    kept: list[int] = []
    for index in scores.argsort(descending=True).tolist():
        if not kept or overlap[index, kept].max() <= iou_threshold:
            kept.append(index)
    return torch.tensor(kept, dtype=torch.long)


def built(kind: str, path) -> torch.nn.Module:
    """A detector of torchvision, made by its public classes."""
    detection, pyramids = peer("torchvision.models.detection"), peer("torchvision.ops.feature_pyramid_network")
    one_stage = kind in ("RetinaNet", "FCOS")
    body = hierax.backbone(path, stages=TOP if one_stage else STAGES)
    extra = pyramids.LastLevelP6P7(64, 64) if one_stage else pyramids.LastLevelMaxPool()
    backbone = with_fpn(body, pyramids.FeaturePyramidNetwork(body.channels, 64, extra_blocks=extra))
    few = {"pre": 40, "post": 10}
    options: dict = {f"rpn_{when}_nms_top_n_{mode}": n for when, n in few.items() for mode in ("train", "test")}
    options |= {"box_batch_size_per_image": 8, "box_detections_per_img": 4}
    options = {} if one_stage else options
    options |= {"min_size": 90, "max_size": 200, "image_mean": body.preprocess.mean, "image_std": [0.4] * 3}
    if kind == "RetinaNet":
        anchors = importlib.import_module("torchvision.models.detection.anchor_utils").AnchorGenerator
        options["anchor_generator"] = anchors(((16,), (32,), (64,), (128,), (256,)), ((0.5, 1.0, 2.0),) * 5)
    torch.manual_seed(0)
    return getattr(detection, kind)(backbone, num_classes=4, **options)


@pytest.mark.parametrize("kind", ["FasterRCNN", "MaskRCNN", "RetinaNet", "FCOS"])
def test_every_detector(kind, path, boxes):
    """Its transform brings every batch to another multiple of 32; a table of one size would fail, or be wrong."""
    detector = built(kind, path)
    body = detector.backbone.body
    assert detector.backbone.out_channels == 64
    assert body.channels == (WIDTHS[1:] if kind in ("RetinaNet", "FCOS") else WIDTHS)
    seen: list = []
    body.register_forward_hook(lambda _, given, output: seen.append((given[0], output)))
    for size in [(80, 100), (90, 90), (200, 60)]:
        with torch.inference_mode():
            (found,) = detector.eval()([torch.rand(3, *size)])
            (x, maps) = seen.pop()
            assert x.shape[-1] % 32 == x.shape[-2] % 32 == 0
            assert same_maps(maps, path, x, body.stages)
        assert found["boxes"].shape[1] == 4
    images = [torch.rand(3, 80, 100), torch.rand(3, 96, 64)]
    target = {"boxes": torch.tensor([[5.0, 5.0, 40.0, 50.0]]), "labels": torch.tensor([1])}
    targets = [{**target, "masks": torch.ones(1, *image.shape[1:], dtype=torch.uint8)} for image in images]
    losses = detector.train()(images, targets)
    sum(losses.values()).backward()
    assert body.encoder.patch_embed.proj.weight.grad.abs().sum() > 0


def test_levels_have_the_names_that_pooling_expects(path):
    """Under other names MultiScaleRoIAlign pools from nothing, or from the wrong level."""
    levels = built("MaskRCNN", path).backbone(torch.randn(1, 3, 96, 64))
    assert list(levels) == ["0", "1", "2", "3", "pool"]
    assert [tuple(level.shape[1:]) for level in levels.values()] == [
        (64, 24, 16), (64, 12, 8), (64, 6, 4), (64, 3, 2), (64, 2, 1)
    ]  # fmt: skip


def test_the_probe_leaves_the_pyramid_as_it_was(path):
    """Norms that had seen the probe would start from zeros' statistics."""
    pyramids = peer("torchvision.ops.feature_pyramid_network")
    fpn = pyramids.FeaturePyramidNetwork(WIDTHS, 8, norm_layer=torch.nn.BatchNorm2d)
    before = {name: tensor.clone() for name, tensor in fpn.state_dict().items()}
    assert with_fpn(hierax.backbone(path), fpn).out_channels == 8
    assert fpn.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in fpn.state_dict().items())


def test_refusals(path):
    pyramids = peer("torchvision.ops.feature_pyramid_network")
    body, fpn = hierax.backbone(path), pyramids.FeaturePyramidNetwork([8, 16, 32], 8)
    with pytest.raises(hierax.InputError, match="widths, 8, 16, 32, 64, .*fails on them"):
        with_fpn(body, fpn)
    with pytest.raises(hierax.InputError, match="widths, 8, 16, 32, 64, .*fails on them"):
        with_fpn(body, torch.nn.Conv2d(8, 8, 1))
    with pytest.raises(hierax.InputError, match="one width; this Identity gives 8, 16, 32, 64"):
        with_fpn(body, torch.nn.Identity())
    with pytest.raises(hierax.InputError, match="hierax.backbone"):
        with_fpn(hierax.load(path).encoder, fpn)  # pyright: ignore[reportArgumentType]
    for wrong in (None, pyramids.FeaturePyramidNetwork):
        with pytest.raises(hierax.InputError, match="a pyramid that is built"):
            with_fpn(body, wrong)
    with pytest.raises(hierax.UnknownNameError, match="take the rest from torchvision"):
        importlib.import_module("hierax.compat.torchvision").ops  # noqa: B018
