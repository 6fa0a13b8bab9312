"""SAM 2's image encoder, trunk and neck, against transformers' and SAM 2's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import hierax
import hierax.compat.transformers as ours
from hierax.errors import CheckpointError, HieraxError, InputError
from hierax.model.necks import FeaturePyramidNeck

from ..compat.outputs import assert_same_output, images
from ..members import loud, photograph, write_photographs
from ..peer_files import sam2_image_encoder, write_hf_folder, write_sam2_pt
from ..peers import birder_det, hf_sam2, peer, timm_sam2
from ..tolerance import FP32, LOUD, distance

pytestmark = pytest.mark.parity
WINDOWS = [(8, 4, 14, 7), (8, 4, 16, 8)]
SIZES = [(64, 64), (224, 224), (96, 160)]


def vision(windows: tuple[int, ...] = (8, 4, 14, 7), **options: Any) -> nn.Module:
    """transformers' image encoder, small and loud."""
    transformers = peer("transformers")
    settings = {"fpn_hidden_size": 32, **options}
    config = transformers.Sam2VisionConfig(
        backbone_config=hf_sam2(windows).module.config, backbone_channel_list=[128, 64, 32, 16], **settings
    )
    return loud(transformers.Sam2VisionModel(config), seed=1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("windows", WINDOWS)
def test_trunk__every_field(windows: tuple[int, ...], size: tuple[int, int], tmp_path: Path) -> None:
    """Padding other than SAM 2's, states of stages instead of blocks, or a norm at the end would be loud."""
    model = hf_sam2(windows).module
    mine = ours.Sam2HieraDetModel.from_pretrained(write_hf_folder(model, tmp_path / "m"))
    x = images(*size)
    with torch.no_grad():
        assert_same_output(mine(x), model(x))
        assert_same_output(mine(x, output_hidden_states=True), model(x, output_hidden_states=True))
        as_tuple, theirs = mine(x, return_dict=False), model(x, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert len(as_tuple) == len(theirs) == 2
    assert distance(as_tuple[0], theirs[0]) <= FP32


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "options", [{}, {"fpn_top_down_levels": [1, 2, 3]}, {"num_feature_levels": 4}, {"fpn_hidden_size": 64}], ids=str
)
def test_vision__every_field(options: dict[str, Any], size: tuple[int, int], tmp_path: Path) -> None:
    """Projections in the order of the stages, a top-down sum at every level, or positions from 0 would be loud."""
    model = vision(**options)
    mine = ours.Sam2VisionModel.from_pretrained(write_hf_folder(model, tmp_path / "m"))
    x = images(*size)
    with torch.no_grad():
        reference, said = model(x), mine(x)
        assert_same_output(said, reference)
        assert_same_output(mine(x, output_hidden_states=True), model(x, output_hidden_states=True))
        assert len(mine(x, return_dict=False)) == len(model(x, return_dict=False))
    assert said.pooler_output is None
    assert said["fpn_hidden_states"] is said.fpn_hidden_states is said[1]
    finest, next_finest = said.fpn_hidden_states[:2]
    assert finest.shape[-1] == 2 * next_finest.shape[-1]


def test_neck__levels_are_loud(tmp_path: Path) -> None:
    """The parity above would not see a top-down sum that does nothing."""
    mine = ours.Sam2VisionModel.from_pretrained(write_hf_folder(vision(), tmp_path / "m"))
    with torch.no_grad():
        before = mine(images(64, 64)).fpn_hidden_states
        mine.neck.top_down = (1, 2, 3)
        after = mine(images(64, 64)).fpn_hidden_states
    assert distance(after[1], before[1]) > LOUD * FP32
    assert torch.equal(after[2], before[2])


@pytest.mark.slow
def test_neck__sam2_itself(tmp_path: Path) -> None:
    """SAM 2's own file, whose projections have one more level in their names, and its own code."""
    encoder = sam2_image_encoder()
    mine = ours.AutoModel.from_pretrained(write_sam2_pt(encoder, tmp_path / "sam2.pt"))
    assert type(mine) is ours.Sam2VisionModel
    x = images(224, 224, batch=1)
    with torch.no_grad():
        reference, said = encoder(x), mine(x)
    assert len(said.fpn_hidden_states) == len(reference["backbone_fpn"]) == 3
    for got, expected in zip(said.fpn_hidden_states, reference["backbone_fpn"], strict=True):
        assert distance(got, expected) <= FP32
    for got, expected in zip(said.fpn_position_encoding, reference["vision_pos_enc"], strict=True):
        assert distance(got, expected) <= FP32


def test_whole_sam2__is_found_inside(tmp_path: Path) -> None:
    """transformers itself finds no parameter of these classes in a whole SAM 2, and goes on with random ones."""
    transformers = peer("transformers")
    inner = vision().config
    whole = loud(transformers.Sam2Model(transformers.Sam2Config(vision_config=inner.to_dict())), seed=2)
    folder = write_hf_folder(whole, tmp_path / "whole")
    x = images(64, 96)
    with torch.no_grad():
        for kind in (ours.AutoModel, ours.Sam2VisionModel):
            mine, report = kind.from_pretrained(folder, output_loading_info=True)
            assert_same_output(mine(x), whole.vision_encoder(x))
            assert not report["missing_keys"]
        trunk = ours.Sam2HieraDetModel.from_pretrained(folder)
        assert_same_output(trunk(x), whole.vision_encoder.backbone(x))
    assert ours.AutoConfig.from_pretrained(folder).fpn_hidden_size == 32


@pytest.mark.parametrize("kind", ["Sam2VisionModel", "Sam2HieraDetModel"])
def test_save__transformers_loads_the_same_numbers(kind: str, tmp_path: Path) -> None:
    """A misspelt tensor would be freshly initialised by transformers, with only a report."""
    model = vision() if kind == "Sam2VisionModel" else hf_sam2().module
    mine = getattr(ours, kind).from_pretrained(write_hf_folder(model, tmp_path / "a"))
    mine.save_pretrained(tmp_path / "b", safe_serialization=True, max_shard_size="5GB")
    again, report = getattr(peer("transformers"), kind).from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    x = images(64, 64)
    with torch.no_grad():
        assert_same_output(mine(x), again.eval()(x))
        assert_same_output(ours.AutoModel.from_pretrained(tmp_path / "b")(x), again(x))
    assert set(mine.state_dict()) == set(model.state_dict())
    mine.load_state_dict(model.state_dict())
    assert hierax.load(tmp_path / "b").model(x).shape == (2, 128)


def test_config__defaults() -> None:
    """Defaults that drift from transformers' would build another network."""
    transformers = peer("transformers")
    for name in ("Sam2HieraDetConfig", "Sam2VisionConfig"):
        reference, mine = getattr(transformers, name)().to_dict(), getattr(ours, name)().to_dict()
        reference["backbone_config"] = mine["backbone_config"] = None
        for field, value in mine.items():
            assert value == reference[field], field
    config = ours.Sam2VisionConfig(backbone_config={"hidden_size": 16})
    assert config.backbone_config.embed_dim_per_stage == [16, 32, 64, 128]
    again = ours.Sam2VisionConfig.from_dict(config.to_dict(), fpn_hidden_size=64)
    assert (again.fpn_hidden_size, again.backbone_channel_list) == (64, [128, 64, 32, 16])
    with pytest.raises(InputError, match="double"):
        ours.Sam2HieraDetConfig(hidden_size=16, embed_dim_per_stage=[16, 32, 64, 100])
    with pytest.raises(InputError, match="deepest first"):
        ours.Sam2VisionConfig(backbone_channel_list=[96, 192, 384, 768])
    with pytest.raises(AttributeError, match="fpn_hidden_size"):
        _ = config.fpn_hidden_siz


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("fpn_hidden_size", 1 << 40),
        ("fpn_hidden_size", 30),
        ("fpn_hidden_size", "256"),
        ("fpn_kernel_size", 3),
        ("fpn_stride", 0),
        ("fpn_top_down_levels", "23"),
        ("fpn_top_down_levels", [0] * 10**6),
        ("num_feature_levels", 0),
        ("num_feature_levels", 1.5),
        ("backbone_channel_list", {"a": 1}),
        ("backbone_config", [1]),
        ("backbone_config", {"hidden_size": 1 << 40}),
        ("backbone_config", {"blocks_per_stage": [10**9, 1, 1, 1]}),
        ("backbone_config", {"window_size_per_stage": None, "hidden_act": "relu"}),
    ],
    ids=str,
)
def test_config__hostile(field: str, value: Any, tmp_path: Path) -> None:
    """A number in a file that asks for a terabyte, or a list where a number should be, must be refused by name."""
    folder = write_hf_folder(vision(), tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    changed = {**config[field], **value} if isinstance(value, dict) and field == "backbone_config" else value
    (folder / "config.json").write_text(json.dumps({**config, field: changed}))
    for kind in (ours.AutoModel, ours.Sam2VisionModel, ours.AutoConfig):
        with pytest.raises(HieraxError):
            kind.from_pretrained(folder)


def test_other_origins__trunks_without_a_neck(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A neck that is random must be said; a trunk of timm or birder is the same trunk."""
    for reference, to in ((timm_sam2(), "timm"), (birder_det(), "birder")):
        encoder = reference.encoder()
        path = hierax.save(encoder, tmp_path / to)
        mine, report = ours.AutoModel.from_pretrained(path, output_loading_info=True)
        assert type(mine) is ours.Sam2HieraDetModel
        assert {"norm.weight", "norm.bias"} <= report["unexpected_keys"]
        x = images(224, 224)
        with torch.no_grad():
            for got, expected in zip(mine(x).intermediate_hidden_states, encoder.stages(x), strict=True):
                assert torch.equal(got, expected)
        caplog.clear()
        fresh, report = ours.Sam2VisionModel.from_pretrained(path, output_loading_info=True)
        assert "neck is freshly initialised" in caplog.text
        assert "neck.convs.0.weight" in report["missing_keys"]
        assert len(fresh(x).fpn_hidden_states) == 3
    with pytest.raises(CheckpointError, match="global in whole stages"):
        ours.Sam2HieraDetModel.from_pretrained(
            hierax.save(hierax.create("hieradet_d_tiny", num_classes=0), tmp_path / "d")
        )
    with pytest.raises(CheckpointError, match="SAM 2's trunk is a HieraDet"):
        ours.Sam2VisionModel.from_pretrained(hierax.save(hierax.create("hiera_nano_96"), tmp_path / "h"))


def test_refused(tmp_path: Path) -> None:
    """What transformers calls attentions here are none; a size that no window tiles has no answer."""
    mine = ours.Sam2VisionModel(
        ours.Sam2VisionConfig(backbone_config=hf_sam2().module.config.to_dict(), fpn_hidden_size=32)
    )
    with pytest.raises(InputError, match="not probabilities"):
        mine(images(64, 64), output_attentions=True)
    with pytest.raises(InputError, match="multiple of 32"):
        mine(images(72, 64))
    with pytest.raises(InputError, match="pixel_values"):
        mine()
    folder = write_hf_folder(vision(), tmp_path / "m")
    with pytest.raises(CheckpointError, match="neck"):
        ours.Sam2VisionModel.from_pretrained(folder, fpn_hidden_size=64)
    loose = ours.Sam2VisionModel.from_pretrained(folder, fpn_hidden_size=64, ignore_mismatched_sizes=True)
    assert loose(images(64, 64)).fpn_hidden_states[0].shape == (2, 64, 16, 16)


def test_trains() -> None:
    """A fresh model whose neck or trunk has no gradients could not be trained."""
    mine = ours.AutoModel.from_config(
        ours.Sam2VisionConfig(backbone_config=hf_sam2().module.config.to_dict(), num_feature_levels=4)
    )
    sum(level.square().mean() for level in mine(images(64, 64)).fpn_hidden_states).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in mine.parameters())


def test_fast_trunk__same_numbers(tmp_path: Path) -> None:
    """An optimised model that lost its neck or its names would not be a drop-in."""
    mine = ours.Sam2VisionModel.from_pretrained(write_hf_folder(vision(), tmp_path / "m"))
    x = images(224, 224)
    with torch.no_grad():
        expected = mine(x)
        assert_same_output(hierax.optimize(mine, engine="torch")(x), expected)


def test_neck__half_precision() -> None:
    """A sum in another type than the maps would raise or change the type of what follows."""
    neck = FeaturePyramidNeck((8, 16), 16, top_down=(0,)).to(torch.bfloat16)
    features, places = neck([torch.randn(1, 8, 4, 6).bfloat16(), torch.randn(1, 16, 2, 3).bfloat16()])
    assert {map_.dtype for map_ in (*features, *places)} == {torch.bfloat16}
    assert [tuple(map_.shape) for map_ in features] == [(1, 16, 4, 6), (1, 16, 2, 3)]


@pytest.mark.parametrize("options", [{}, {"size": {"height": 256, "width": 320}}, {"do_normalize": False}], ids=str)
def test_processor(options: dict[str, Any], tmp_path: Path) -> None:
    """Cubic resampling, a crop, or a size after the resize instead of before would show."""
    (tmp_path / "config.json").write_text('{"model_type": "sam2_video"}')
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "Sam2ImageProcessorFast"}')
    reference = peer("transformers").Sam2ImageProcessor()
    mine = ours.AutoImageProcessor.from_pretrained(tmp_path)
    assert type(mine) is ours.Sam2ImageProcessor
    photos = [*write_photographs(tmp_path)[:1]]
    from PIL import Image

    for image in (*map(Image.open, photos), photograph(90, 70)):
        expected = reference(images=image, return_tensors="pt", **options)
        got = mine(images=image, return_tensors="pt", **options)
        assert list(got) == list(expected)
        assert torch.equal(got.original_sizes, expected.original_sizes)
        assert distance(got.pixel_values, expected.pixel_values) <= FP32
    assert isinstance(mine(photograph(64, 64), return_tensors="np").original_sizes, np.ndarray)
    mine.save_pretrained(tmp_path / "again")
    assert ours.AutoImageProcessor.from_pretrained(tmp_path / "again").to_dict() == mine.to_dict()
