"""An encoder as detectors and segmenters want it: maps as a list, widths beforehand, freezing, rates by depth."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch

import hierax
from hierax.backbones import Backbone
from hierax.config import STAGE_NAMES

from .members import FAMILIES, SMALL, tiny_mae, weights_of

IMAGES = [name for name in FAMILIES if name != "hiera_video"]


@pytest.fixture(params=IMAGES)
def weights(request):
    return weights_of(hierax.ModelConfig(**{**SMALL, **FAMILIES[request.param]}))


@pytest.fixture
def det():
    """A HieraDet whose windows of 14 tokens need padding at almost every size."""
    return weights_of(hierax.ModelConfig(**{**SMALL, **FAMILIES["hieradet"], "drop_path": 0.5}))


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (224, 32)])
def test_maps_equal_detection_features(weights, size):
    """Whoever swaps stages, norms a map or leaves it channels-last trains a detector on something else."""
    body = Backbone(weights).eval()
    x = torch.randn(2, 3, *size)
    maps = body(x)
    expected = body.encoder.detection_features(x)
    assert list(expected) == list(body.stages) == list(STAGE_NAMES)
    for found, wanted, width, stride in zip(maps, expected.values(), body.channels, body.strides, strict=True):
        assert torch.equal(found, wanted)
        assert found.is_contiguous()
        assert found.shape == (2, width, size[0] // stride, size[1] // stride)


def test_stages__chosen_in_any_order_come_finest_first(det):
    """FPN code takes the first map as the finest, whatever order a person named them in."""
    body = Backbone(det, ["stage4", "stage2"]).eval()
    assert (body.stages, body.channels, body.strides) == (("stage2", "stage4"), [16, 64], [8, 32])
    x = torch.randn(1, 3, 64, 96)
    every = Backbone(det).eval()(x)
    assert all(torch.equal(found, wanted) for found, wanted in zip(body(x), (every[1], every[3]), strict=True))


def test_stages__later_blocks_are_neither_run_nor_trained(det):
    """DistributedDataParallel stops at the first parameter that gets no gradient."""
    body = Backbone(det, "stage2")
    ran = []
    for index, block in enumerate(body.encoder.blocks):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    body(torch.randn(1, 3, 64, 64))[0].square().mean().backward()
    assert ran == list(range(body.encoder.stage_ends[1] + 1))
    assert all((p.grad is not None) == p.requires_grad for p in body.parameters())
    assert any(p.requires_grad for p in body.encoder.blocks[ran[-1]].parameters())


@pytest.mark.parametrize("until", [None, *STAGE_NAMES])
def test_frozen_until(det, until):
    """One block too few or too many is trained with nobody seeing it."""
    body = Backbone(det, frozen_until=until)
    end = -1 if until is None else body.encoder.stage_ends[STAGE_NAMES.index(until)]
    trained = [all(p.requires_grad for p in block.parameters()) for block in body.encoder.blocks]
    some = [any(p.requires_grad for p in block.parameters()) for block in body.encoder.blocks]
    assert trained == some == [index > end for index in range(len(trained))]
    assert body.encoder.pos_embed.requires_grad == body.encoder.patch_embed.proj.weight.requires_grad == (until is None)
    assert [block.training for block in body.train().encoder.blocks] == trained


def test_frozen_until__drops_no_paths(det):
    """A frozen stage that drops paths at random feeds the head noise for good."""
    body = Backbone(det, "stage3", frozen_until="stage3")
    x = torch.randn(4, 3, 64, 64)
    assert torch.equal(body(x)[0], body(x)[0])
    assert not torch.equal(Backbone(det, "stage3")(x)[0], body(x)[0])


def test_parameter_groups__rates_by_depth(det):
    """Layer decay the wrong way round ruins what was learnt first."""
    body = Backbone(det, "stage3", norm=True)
    groups = body.parameter_groups(1.0, 0.5, weight_decay=0.1)
    rates = {name: (group["lr"], group["weight_decay"]) for group in groups for name in group["names"]}
    assert set(rates) == {name for name, p in body.named_parameters() if p.requires_grad}
    assert sum(len(group["params"]) for group in groups) == len(rates)
    blocks = body.encoder.stage_ends[2] + 1
    assert rates["norms.stage3.weight"] == (1.0, 0)
    assert rates[f"encoder.blocks.{blocks - 1}.mlp.fc1.weight"] == (0.5, 0.1)
    assert rates[f"encoder.blocks.{blocks - 1}.mlp.fc1.bias"] == (0.5, 0)
    assert rates["encoder.patch_embed.proj.weight"] == (0.5 ** (blocks + 1), 0.1)
    assert rates["encoder.pos_embed"] == (0.5 ** (blocks + 1), 0)
    torch.optim.AdamW(groups).step()  # extra keys of a group are an optimiser's to ignore


def test_norm__starts_as_a_plain_layer_norm(det):
    x = torch.randn(2, 3, 64, 64)
    plain, normed = (Backbone(det, "stage3", norm=norm).eval()(x)[0] for norm in (False, True))
    expected = torch.nn.functional.layer_norm(plain.movedim(1, -1), (32,), eps=1e-6).movedim(-1, 1)
    assert torch.allclose(normed, expected, atol=1e-5)
    assert normed.is_contiguous()


@pytest.mark.parametrize("size", [(50, 70), (64, 65), (33, 31), (64, 64)])
def test_pad__maps_cover_the_image_and_no_more(det, size):
    """Padding on another side moves every box; cropping one cell too few leaves a strip of it."""
    x = torch.randn(1, 3, *size)
    body = Backbone(det, pad=True).eval()
    whole = torch.zeros(1, 3, *(-(-n // 32) * 32 for n in size))
    whole[..., : size[0], : size[1]] = x
    for found, wanted, stride in zip(
        body(x), body.encoder.detection_features(whole).values(), body.strides, strict=True
    ):
        h, w = (-(-n // stride) for n in size)
        assert torch.equal(found, wanted[..., :h, :w])
        assert found.is_contiguous()


def test_checkpoint_blocks__same_gradients(det):
    """Activation checkpointing that forgets the random state gives other gradients."""
    grads = []
    for checkpoint in (False, True):
        torch.manual_seed(1)
        body = Backbone(det, "stage4")
        body.checkpoint_blocks = checkpoint
        x = torch.randn(2, 3, 64, 64)
        body(x)[0].square().sum().backward()
        grads.append(body.encoder.patch_embed.proj.weight.grad)
    assert torch.allclose(*grads, rtol=1e-5)


def test_save__encoder_apart_from_the_head(det, tmp_path):
    """What was trained inside a detector must come out as a checkpoint that everything else reads."""
    body = Backbone(det, "stage2")
    with torch.no_grad():
        body.encoder.patch_embed.proj.weight.add_(1)
    path = body.save(tmp_path / "body")
    again = hierax.backbone(path, stages="stage2")
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(again.eval()(x)[0], body.eval()(x)[0])
    assert len(hierax.load(path).encoder.blocks) == len(body.encoder.blocks)


def test_a_file_of_a_whole_detector_says_where_the_backbone_is(det, tmp_path):
    """Somebody who has trained a detector names its file to `load` first."""
    model = torch.nn.ModuleDict(
        {"backbone": torch.nn.ModuleDict({"body": Backbone(det)}), "head": torch.nn.Linear(2, 2)}
    )
    torch.save(model.state_dict(), tmp_path / "detector.pth")
    for ask in (hierax.load, hierax.describe, hierax.backbone):
        with pytest.raises(hierax.CheckpointError, match=r"inside \(backbone.body\): read the file with the library"):
            ask(tmp_path / "detector.pth")


def test_state_dict_and_copies(det):
    """Every detection framework saves, copies and pickles its model with the backbone inside."""
    body = Backbone(det, norm=True).eval()
    x = torch.randn(1, 3, 64, 64)
    twin = copy.deepcopy(body)
    file = io.BytesIO()
    torch.save(body.state_dict(), file)
    file.seek(0)
    other = Backbone(weights_of(det.config, seed=5), norm=True).eval()
    assert not torch.equal(other(x)[0], body(x)[0])
    other.load_state_dict(torch.load(file, weights_only=True))
    for same in (twin, other):
        assert all(torch.equal(a, b) for a, b in zip(same(x), body(x), strict=True))


def test_source__a_predictor_keeps_its_own_weights():
    """Training a detector must not change what the predictor answers."""
    predictor = hierax.load()
    x = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        before = predictor.model.embedding(x)
    body = hierax.backbone(predictor)
    assert torch.equal(body.eval()(x)[3], predictor.encoder.detection_features(x)["stage4"])
    with torch.no_grad():
        for parameter in body.parameters():
            parameter.zero_()
    with torch.inference_mode():
        assert torch.equal(predictor.model.embedding(x), before)


def test_source__a_masked_autoencoder_gives_its_encoder(tmp_path):
    """Pretrained weights are what most people start from; while masked, the last stage is not pooled, after it is."""
    path = hierax.save(tiny_mae(), tmp_path / "mae")
    x = torch.randn(1, 3, 64, 96)
    masked = hierax.load(path).model.encoder.detection_features(x)
    maps = hierax.backbone(path).eval()(x)
    assert all(torch.equal(*pair) for pair in zip(maps[:3], list(masked.values())[:3], strict=True))
    assert maps[3].shape == (1, 128, 2, 3)


def test_source__facts_come_along():
    """Whoever ships a detector needs the licence of the weights in it."""
    body = hierax.backbone(None, input_size=(64, 128), drop_path=0.3)
    assert body.card.license == hierax.load().card.license
    assert body.encoder.input_size == (64, 128)
    assert body.encoder.config.drop_path == 0.3
    assert body.preprocess.mean == hierax.load().preprocess.mean
    assert body.training


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"stages": ["stage5"]}, hierax.UnknownNameError, "stage1, stage2, stage3, stage4; got 'stage5'"),
        ({"stages": 3}, hierax.UnknownNameError, "got 3"),
        ({"stages": []}, hierax.InputError, "a stage at least"),
        ({"frozen_until": "stage0"}, hierax.UnknownNameError, "frozen_until is one of"),
        ({"input_size": 50}, hierax.InputError, "32"),
        ({"drop_path": 1.5}, hierax.HieraxError, "drop_path"),
    ],
)
def test_bad_options(options, error, words):
    with pytest.raises(error, match=words):
        hierax.backbone(None, **options)


@pytest.mark.parametrize(
    "rates",
    [
        {"lr": 0},
        {"lr": float("nan")},
        {"lr": "1e-3"},
        {"lr": 1, "layer_decay": 0},
        {"lr": 1, "layer_decay": 2},
        {"lr": 1, "layer_decay": None},
        {"lr": 1, "weight_decay": -1},
        {"lr": 1, "weight_decay": "0.05"},
    ],
)
def test_bad_rates(rates):
    """A decay above 1 trains the first layers fastest; a weight decay below 0 lets weights grow without an end."""
    with pytest.raises(hierax.InputError, match="lr|layer_decay|weight_decay"):
        hierax.backbone(None).parameter_groups(**rates)


def test_bad_input(det):
    with pytest.raises(hierax.InputError, match="multiple"):
        Backbone(det)(torch.randn(1, 3, 50, 64))
    with pytest.raises(hierax.InputError, match="3, h, w"):
        Backbone(det)(torch.randn(1, 1, 64, 64))
    for wrong, name in ((torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "uint8"), (np.zeros((1, 3, 64, 64)), "ndarray")):
        with pytest.raises(hierax.InputError, match=f"tensor of floats.* got .*{name}"):
            Backbone(det)(wrong)
    clips = weights_of(hierax.ModelConfig(**{**SMALL, **FAMILIES["hiera_video"]}))
    with pytest.raises(hierax.InputError, match="takes clips"):
        Backbone(clips)
