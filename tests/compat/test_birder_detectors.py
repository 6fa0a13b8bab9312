"""birder's own detectors on our encoder."""

from __future__ import annotations

import copy
import importlib
import sys

import pytest
import torch

import hierax
from hierax.compat.birder import detector as ours
from hierax.compat.birder import detector_backbone

from ..peers import peer
from .loud import SIZES, STAGES, WIDTHS, checkpoint, same_maps
from .test_torchvision import suppressed

pytestmark = pytest.mark.parity
SHALLOW = {"num_decoder_layers": 2, "num_queries": 30, "num_denoising": 0}
# birder's name, module, how many of the last stages it takes, settings that make it small.
DETECTORS = {
    "retinanet": ("retinanet", 3, {"fpn_width": 64}),
    "fcos": ("fcos", 3, {"fpn_width": 64}),
    "detr": ("detr", 4, {"num_encoder_layers": 1, "num_decoder_layers": 1, "num_queries": 40}),
    "deformable_detr": ("deformable_detr", 4, {"num_encoder_layers": 1, "num_decoder_layers": 1, "num_queries": 40}),
    "rt_detr_v1": ("rt_detr_v1", 3, SHALLOW),
    "rt_detr_v2_s": ("rt_detr_v2", 3, SHALLOW),
    "d_fine_s": ("d_fine", 3, SHALLOW),
    "faster_rcnn": ("faster_rcnn", 4, None),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("birder"))


@pytest.fixture
def registry(monkeypatch):
    """birder's registry, with what torchvision's compiled half would do."""
    found, boxes = peer("birder.model_registry").registry, peer("torchvision.ops.boxes")
    if not importlib.import_module("torchvision.extension")._has_ops():
        monkeypatch.setattr(boxes, "nms", suppressed)
    with torch.compiler.set_stance("force_eager"):
        yield found


def built(registry, kind: str, path, **options):
    module, count, config = DETECTORS[kind]
    peer(f"birder.net.detection.{module}")
    body = detector_backbone(path, size=(96, 96), **options)
    return registry.detection_net_factory(kind, 3, body, config=config, size=(96, 96)), body, count


@pytest.mark.parametrize(
    "kind", [kind if DETECTORS[kind][2] else pytest.param(kind, marks=pytest.mark.nightly) for kind in DETECTORS]
)
def test_every_detector(kind, path, registry):
    """A detector cuts the lists of stages and widths after it was given them; maps that did not follow would fail."""
    net, body, count = built(registry, kind, path)
    assert isinstance(body, peer("birder.net.base").DetectorBackbone)
    assert (body.return_stages, body.return_channels) == (list(STAGES[-count:]), WIDTHS[-count:])
    for size in SIZES:
        x = torch.randn(2, 3, *size)
        with torch.no_grad():
            (found, _), maps = net.eval()(x), body.detection_features(x)
        assert list(maps) == body.return_stages
        assert same_maps(list(maps.values()), path, x, body.return_stages)
        assert found[0]["boxes"].shape[1] == 4
    target = {"boxes": torch.tensor([[5.0, 5.0, 40.0, 50.0]]), "labels": torch.tensor([1])}
    losses = net.train()(torch.randn(2, 3, 96, 96), [copy.deepcopy(target), copy.deepcopy(target)])[1]
    sum(loss for loss in losses.values()).backward()
    assert body.body.encoder.patch_embed.proj.weight.grad.abs().sum() > 0


def test_what_the_training_script_calls(path, registry):
    """Freezing, checkpointing, another size and another number of classes, as birder's scripts do it."""
    net, body, _ = built(registry, "fcos", path)
    body.freeze_stages(up_to_stage=2)
    still = [p.requires_grad for p in body.body.encoder.blocks[body.body.encoder.stage_ends[1]].parameters()]
    trained = [p.requires_grad for p in body.body.encoder.blocks[body.body.encoder.stage_ends[1] + 1].parameters()]
    assert not any(still)
    assert all(trained)
    body.set_grad_checkpointing(True, segments=2)
    assert body.body.encoder.checkpoint_blocks
    net.adjust_size((128, 160))
    assert body.size == (128, 160) == tuple(body.body.encoder.input_size)
    net.set_dynamic_size()
    x = torch.randn(1, 3, 128, 160)
    with torch.no_grad():
        assert same_maps(list(body.detection_features(x).values()), path, x, STAGES[-3:])
    with pytest.raises(hierax.InputError, match="up_to_stage is 1 to 4; got 9"):
        body.freeze_stages(9)
    with pytest.raises(hierax.InputError, match="32"):
        net.adjust_size((50, 50))


def test_adjust_size__tables_follow(tmp_path, registry):
    """A plain Hiera has a table of one size."""
    path = checkpoint(tmp_path, "hiera")
    body = detector_backbone(path)
    assert body.size == (64, 64)
    body.adjust_size((96, 128))
    x = torch.randn(1, 3, 96, 128)
    resized = hierax.load(path, input_size=(96, 128)).encoder
    with torch.no_grad():
        maps = zip(body.detection_features(x).values(), resized.detection_features(x).values(), strict=True)
        assert all(torch.allclose(*pair, atol=1e-4) for pair in maps)


def test_copies_and_states(path, registry, tmp_path):
    """birder averages and saves whole detectors."""
    net, body, _ = built(registry, "fcos", path, frozen_until="stage1")
    twin = copy.deepcopy(net)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    twin.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    assert not body.body.encoder.patch_embed.proj.weight.requires_grad
    assert type(body) is ours.HieraxDetectorBackbone


def test_refusals(path, monkeypatch):
    with pytest.raises(hierax.InputError, match="32"):
        detector_backbone(path, size=(50, 50))
    with pytest.raises(hierax.UnknownNameError, match="stage9"):
        detector_backbone(path, stages=["stage9"])
    with pytest.raises(hierax.InputError, match="height, width"):
        detector_backbone(path).adjust_size(64)
    ours._class.cache_clear()
    monkeypatch.setitem(sys.modules, "birder.net.base", None)
    with pytest.raises(hierax.MissingExtraError, match="birder"):
        detector_backbone(path)
