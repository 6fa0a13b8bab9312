"""`hierax.compat.transformers` against transformers itself: same folders, same images, same numbers."""

from __future__ import annotations

import copy
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import hierax
import hierax.compat.transformers as ours
from hierax.errors import CheckpointError, InputError, UnknownNameError

from ..members import loud, photograph, write_photographs
from ..peer_files import HF_HIERA_PROCESSOR, write_hf_folder
from ..peers import hf_config, hf_sam2, peer
from ..tolerance import FP32, LOUD, distance
from .outputs import assert_same_output, images

pytestmark = pytest.mark.parity
DEPTHS, DIM = (1, 2, 3, 1), 16
DECODER = {"num_query_pool": 2, "decoder_hidden_size": 32, "decoder_depth": 2, "decoder_num_heads": 4}
LABELS = {"id2label": {i: f"bird {i}" for i in range(5)}, "label2id": {f"bird {i}": i for i in range(5)}}


def theirs(kind: str, size: tuple[int, int] = (64, 64), **options: Any) -> nn.Module:
    """One of transformers' classes, small and loud."""
    return loud(getattr(peer("transformers"), kind)(hf_config(size, DEPTHS, DIM, **options)))


def pair(kind: str, folder: Path, size: tuple[int, int] = (64, 64), **options: Any) -> tuple[Any, Any]:
    """Their model, and ours loaded from the folder that theirs wrote."""
    model = theirs(kind, size, **options)
    return model, getattr(ours, kind).from_pretrained(write_hf_folder(model, folder))


EVERYTHING = {"output_hidden_states": True, "output_attentions": True}


@pytest.mark.parametrize("size", [(64, 64), (96, 64)])
@pytest.mark.parametrize("pools", [3, 2])
def test_model__every_field(size: tuple[int, int], pools: int, tmp_path: Path) -> None:
    """Raster order in hidden_states, a map of the wrong stage, or attention in grid order would be loud."""
    model, mine = pair("HieraModel", tmp_path / "m", size, num_query_pool=pools)
    x = images(*size)
    with torch.no_grad():
        reference = model(x, **EVERYTHING)
        said = mine(x, **EVERYTHING)
        assert_same_output(said, reference)
        assert_same_output(mine(x), model(x))
        as_tuple = mine(x, **EVERYTHING, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert len(as_tuple) == len(reference)
    unrolled = reference.hidden_states[1]
    raster = reference.reshaped_hidden_states[1].flatten(1, 2)
    assert distance(raster, unrolled) > LOUD * FP32


@pytest.mark.parametrize("size", [(128, 128), (96, 160)])
def test_model__interpolates(size: tuple[int, int], tmp_path: Path) -> None:
    """An antialiased resize of the position table moves the result by more than the tolerance."""
    model, mine = pair("HieraModel", tmp_path / "m")
    x = images(*size)
    with torch.no_grad():
        assert_same_output(mine(x, interpolate_pos_encoding=True), model(x, interpolate_pos_encoding=True))
        maps = mine(x, interpolate_pos_encoding=True, output_hidden_states=True).reshaped_hidden_states
        assert [tuple(m.shape[1:3]) for m in maps[1:]] == [(size[0] // s, size[1] // s) for s in (4, 8, 16, 32)]
    with pytest.raises(InputError, match="interpolate_pos_encoding=True"):
        mine(x)
    with pytest.raises(InputError, match="multiple of 32"):
        mine(images(72, 64), interpolate_pos_encoding=True)


def test_model__one_sizes_checkpoint_as_another_class(tmp_path: Path) -> None:
    """Prefixes are not told apart, or a missing pooler takes another initialisation than transformers'."""
    classifier = theirs("HieraForImageClassification", **LABELS)
    folder = write_hf_folder(classifier, tmp_path / "c")
    x = images(64, 64)
    with torch.no_grad():
        assert_same_output(ours.HieraModel.from_pretrained(folder)(x), classifier.hiera(x))
        folder = write_hf_folder(theirs("HieraForPreTraining", **DECODER), tmp_path / "mae")
        reference = peer("transformers").HieraModel.from_pretrained(folder)(x, output_hidden_states=True)
        said = ours.HieraModel.from_pretrained(folder)(x, output_hidden_states=True)
    assert said.last_hidden_state.shape == (2, 16, 128)
    assert_same_output(said, reference)


def test_model__is_mae_and_without_pooler(tmp_path: Path) -> None:
    """A masked pass through the plain model drops other units, or forgets ids_restore."""
    config = hf_config((64, 64), DEPTHS, DIM)
    model = loud(peer("transformers").HieraModel(config, add_pooling_layer=False, is_mae=True))
    mine = ours.HieraModel(ours.HieraConfig.from_dict(config.to_dict()), add_pooling_layer=False, is_mae=True)
    mine.load_state_dict(model.state_dict())
    x, noise = images(64, 64), torch.rand(2, 4)
    with torch.no_grad():
        assert_same_output(mine.eval()(x, noise=noise, **EVERYTHING), model(x, noise=noise, **EVERYTHING))


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (torch.tensor([1, 4]), None),
        (torch.rand(2, 5), None),
        (torch.rand(2, 5), "regression"),
    ],
)
def test_classification(labels: torch.Tensor, problem: str | None, tmp_path: Path) -> None:
    """Softmaxed logits, a lost label or another loss would differ."""
    model, mine = pair("HieraForImageClassification", tmp_path / "m", problem_type=problem, **LABELS)
    assert mine.config.id2label == model.config.id2label
    assert mine.num_labels == 5
    x = images(64, 64)
    with torch.no_grad():
        assert_same_output(mine(x, labels=labels, **EVERYTHING), model(x, labels=labels, **EVERYTHING))
        assert "loss" not in mine(x)
        assert mine(x).loss is None
        assert mine(x)[0] is not None


@pytest.mark.parametrize("size", [(64, 64), (96, 64)])
def test_pretraining__same_noise(size: tuple[int, int], tmp_path: Path) -> None:
    """A mask at unit level, logits of masked tokens only, or a biased variance in the targets would differ."""
    model, mine = pair("HieraForPreTraining", tmp_path / "m", size, **DECODER, normalize_pixel_loss=size[0] == 64)
    x = images(*size)
    noise = torch.rand(2, size[0] * size[1] // 1024, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        reference = model(x, noise=noise)
        said = mine(x, noise=noise)
        assert_same_output(said, reference)
        assert_same_output(mine(x, noise=noise, **EVERYTHING), model(x, noise=noise, **EVERYTHING))
        torch.manual_seed(2)
        drawn = model(x).loss
        torch.manual_seed(2)
        assert abs(mine(x).loss - drawn) <= FP32 * max(1, drawn)
    assert said.bool_masked_pos.shape == said.logits.shape[:2]
    assert said.bool_masked_pos.dtype == torch.bool
    with pytest.raises(InputError, match="one number per mask unit"):
        mine(x, noise=noise[:, :-1])


STAGES = ["stem", "stage1", "stage2", "stage3", "stage4"]


def test_backbone__maps_of_the_model(tmp_path: Path) -> None:
    """Tokens in raster order would scramble the maps; a norm would move them."""
    model = theirs("HieraModel")
    folder = write_hf_folder(model, tmp_path / "m")
    backbone = ours.HieraBackbone.from_pretrained(folder, out_features=STAGES[1:])
    x = images(64, 64)
    with torch.no_grad():
        maps = model(x, output_hidden_states=True).reshaped_hidden_states
        said = backbone(x, output_hidden_states=True)
        other = backbone(images(96, 160)).feature_maps
    assert list(said.keys()) == ["feature_maps", "hidden_states"]
    assert len(said.feature_maps) == 4
    for got, expected in zip(said.feature_maps, maps[1:], strict=True):
        assert got.is_contiguous()
        assert distance(got, expected.permute(0, 3, 1, 2)) <= FP32
    assert [tuple(m.shape[1:]) for m in other] == [(16, 24, 40), (32, 12, 20), (64, 6, 10), (128, 3, 5)]
    assert backbone.channels == [16, 32, 64, 128]
    assert backbone.out_indices == [1, 2, 3, 4]
    assert ours.HieraBackbone.from_pretrained(folder).out_features == ["stage4"]
    by_index = ours.HieraBackbone.from_pretrained(folder, out_indices=[0, 3])
    assert by_index.out_features == ["stem", "stage3"]
    assert len(by_index(x).feature_maps) == 2


@pytest.mark.parametrize("size", [(64, 64), (96, 64)])
def test_backbone__matching_transformers(size: tuple[int, int], tmp_path: Path) -> None:
    """Their scrambled maps to the last digit: token order, stage norms, their epsilon."""
    model = theirs("HieraBackbone", size, out_features=STAGES)
    folder = write_hf_folder(model, tmp_path / "b")
    x = images(*size)
    mine = ours.HieraBackbone.from_pretrained(folder, match_transformers=True)
    with torch.no_grad():
        assert_same_output(mine(x), model(x))
        assert_same_output(mine(x, **EVERYTHING), model(x, **EVERYTHING))
        correct = ours.HieraBackbone.from_pretrained(folder)(x).feature_maps[-1]
        assert distance(correct, model(x).feature_maps[-1]) > LOUD * FP32
    plain = write_hf_folder(theirs("HieraModel", size), tmp_path / "m")
    fresh = peer("transformers").HieraBackbone.from_pretrained(plain, out_features=STAGES[1:])
    mine = ours.HieraBackbone.from_pretrained(plain, out_features=STAGES[1:], match_transformers=True)
    with torch.no_grad():
        assert_same_output(mine(x), fresh(x))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("HieraModel", {}),
        ("HieraForImageClassification", LABELS),
        ("HieraForPreTraining", DECODER),
        ("HieraBackbone", {"out_features": ["stage2", "stage4"]}),
    ],
)
def test_save__transformers_loads_the_same_numbers(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    """A misspelt tensor would be freshly initialised by transformers, with only a report."""
    config = hf_config((64, 64), DEPTHS, DIM, **options)
    extra = {"match_transformers": True} if kind == "HieraBackbone" else {}
    mine = loud(getattr(ours, kind)(ours.HieraConfig.from_dict(config.to_dict()), **extra))
    mine.save_pretrained(tmp_path / "saved")
    model, report = getattr(peer("transformers"), kind).from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    x = images(64, 64)
    noise = {"noise": torch.rand(2, 4)} if kind == "HieraForPreTraining" else {}
    with torch.no_grad():
        reference = model.eval()(x, **noise)
        assert_same_output(mine(x, **noise), reference)
        again = getattr(ours, kind).from_pretrained(tmp_path / "saved", **extra)
        assert_same_output(again(x, **noise), reference)
    assert model.config.id2label == mine.config.id2label
    assert list(mine.state_dict())
    assert set(mine.state_dict()) == set(model.state_dict())
    mine.load_state_dict(model.state_dict())


def test_config__defaults_and_labels() -> None:
    """Defaults that drift from transformers' would build another network."""
    reference = peer("transformers").HieraConfig().to_dict()
    mine = ours.HieraConfig().to_dict()
    for name, value in mine.items():
        expected = reference[name] if name != "id2label" else {str(k): v for k, v in reference[name].items()}
        assert value == (list(expected) if isinstance(expected, tuple) else expected), name
    assert ours.HieraConfig(num_labels=7).num_labels == 7
    assert ours.HieraConfig(out_indices=[1, 4]).out_features == ["stage1", "stage4"]
    with pytest.raises(UnknownNameError, match="stage4"):
        ours.HieraConfig(out_features=["stage5"])
    with pytest.raises(InputError, match="order"):
        ours.HieraConfig(out_features=["stage2", "stage1"])


def test_constructor__is_random_and_trains() -> None:
    """A constructor that leaves parameters empty or frozen could not be trained."""
    config = ours.HieraConfig.from_dict(hf_config((64, 64), DEPTHS, DIM).to_dict(), num_labels=3)
    model = ours.HieraForImageClassification(config)
    model(images(64, 64), labels=torch.tensor([0, 2])).loss.backward()
    assert all(p.grad is not None and torch.isfinite(p).all() for p in model.parameters())
    with pytest.raises(InputError, match="decoder_hidden_size"):
        ours.HieraForPreTraining(config)


def test_options(tmp_path: Path) -> None:
    """An option that is silently ignored gives another model than the caller asked for."""
    folder = write_hf_folder(theirs("HieraForImageClassification", **LABELS), tmp_path / "m")
    half = ours.HieraModel.from_pretrained(folder, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert not half.training
    with pytest.raises(CheckpointError, match="ignore_mismatched_sizes"):
        ours.HieraForImageClassification.from_pretrained(folder, num_labels=9)
    fresh = ours.HieraForImageClassification.from_pretrained(folder, num_labels=9, ignore_mismatched_sizes=True)
    assert fresh(images(64, 64)).logits.shape == (2, 9)
    with pytest.raises(UnknownNameError, match="output_hidden_states"):
        ours.HieraModel.from_pretrained(folder, output_hidden_state=True)
    with pytest.raises(InputError, match="HTTPS_PROXY"):
        ours.HieraModel.from_pretrained(folder, proxies={"https": "x"})
    with pytest.raises(UnknownNameError):
        ours.HieraModel.from_pretrained("facebook/hiera-tinny-224-hf-not-there/x")
    states = ours.HieraModel.from_pretrained(folder, output_hidden_states=True)(images(64, 64))
    assert len(states.hidden_states) == 5


def test_other_origins(tmp_path: Path) -> None:
    """A checkpoint of another format is the same network; one that is no plain Hiera is refused."""
    model = theirs("HieraForImageClassification", **LABELS)
    folder = write_hf_folder(model, tmp_path / "m")
    x = images(64, 64)
    for to in ("hierax", "meta"):
        other = hierax.convert(folder, tmp_path / to, to=to)
        mine = ours.HieraForImageClassification.from_pretrained(other)
        with torch.no_grad():
            assert distance(mine(x).logits, model(x).logits) <= FP32
        assert ours.AutoImageProcessor.from_pretrained(tmp_path / "hierax").size == {"shortest_edge": 73}
    assert mine.config.num_labels == 5
    twin = pickle.loads(pickle.dumps(copy.deepcopy(mine)))
    assert set(twin.state_dict()) == set(model.state_dict())
    with pytest.raises(CheckpointError, match="plain Hiera only"):
        ours.HieraModel.from_pretrained(write_hf_folder(hf_sam2().module, tmp_path / "sam2"))


# --- the image processor --------------------------------------------------------------------------------------------


def processors(folder: Path, text: str = HF_HIERA_PROCESSOR) -> tuple[Any, Any]:
    """transformers' processor and ours, of one preprocessor_config.json."""
    (folder / "preprocessor_config.json").write_text(text)
    (folder / "config.json").write_text('{"model_type": "hiera"}')
    return peer("transformers").AutoImageProcessor.from_pretrained(folder), ours.AutoImageProcessor.from_pretrained(
        folder
    )


OPTIONS: list[dict[str, Any]] = [
    {},
    {"size": {"shortest_edge": 288}, "crop_size": {"height": 256, "width": 224}},
    {"size": {"height": 200, "width": 260}, "do_center_crop": False},
    {"do_resize": False},
    {"do_normalize": False},
    {"do_rescale": False, "do_normalize": False},
    {"resample": 2},
    {"do_rescale": False},
    {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.25, 0.5]},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_processor__jpegs(options: dict[str, Any], tmp_path: Path) -> None:
    """Pillow's resize, a rounded crop, or statistics in the wrong order would be off by a grey level or more."""
    reference, mine = processors(tmp_path)
    for path in write_photographs(tmp_path):
        image = Image.open(path)
        expected = reference(images=image, return_tensors="pt", **options).pixel_values
        got = mine(images=image, return_tensors="pt", **options)
        assert got.pixel_values.shape == expected.shape
        assert got.pixel_values.dtype == expected.dtype
        scale = max(1.0, expected.abs().max().item())
        assert (got["pixel_values"].float() - expected.float()).abs().max() <= FP32 * scale, path.name


def test_processor__pil_backend(tmp_path: Path) -> None:
    """The slow processor resizes with Pillow and pads on the other side."""
    _, mine = processors(tmp_path)
    bit = peer("transformers.models.bit.image_processing_pil_bit").BitImageProcessorPil.from_pretrained(tmp_path)
    slow = ours.AutoImageProcessor.from_pretrained(tmp_path, use_fast=False)
    for path in write_photographs(tmp_path):
        image = Image.open(path)
        expected = bit(images=image, return_tensors="pt").pixel_values
        assert distance(slow(images=image, return_tensors="pt").pixel_values, expected) <= FP32
    assert distance(mine(images=image, return_tensors="pt").pixel_values, expected) > LOUD * FP32


def test_processor__inputs(tmp_path: Path) -> None:
    """Lists, arrays, modes and channel orders that transformers takes must come out as from transformers."""
    reference, mine = processors(tmp_path)
    image = photograph(300, 260)
    array = np.array(image)
    for given in (
        [image, image.rotate(90)],
        array,
        array.transpose(2, 0, 1),
        torch.from_numpy(array.transpose(2, 0, 1).copy()),
        [array, array[:, ::-1].copy()],
        np.stack([array, array]),
        image.convert("L"),
        image.convert("CMYK"),
    ):
        expected = reference(images=given, return_tensors="pt").pixel_values
        got = mine(images=given, return_tensors="pt").pixel_values
        assert got.shape == expected.shape
        assert distance(got, expected) <= FP32
    if sys.version_info >= (
        3,
        11,
    ):  # the transformers that Python 3.10 can have drops alpha, later ones lay it on white
        alpha = image.copy()
        alpha.putalpha(Image.linear_gradient("L").resize(image.size))
        expected = reference(images=alpha, return_tensors="pt").pixel_values
        assert distance(mine(images=alpha, return_tensors="pt").pixel_values, expected) <= FP32
    path = tmp_path / "a.png"
    image.save(path)
    same = mine(images=image, return_tensors="pt").pixel_values
    assert torch.equal(mine(images=str(path), return_tensors="pt").pixel_values, same)
    assert torch.equal(mine([path], return_tensors="pt").pixel_values, same)
    assert isinstance(mine(image, return_tensors="np")["pixel_values"], np.ndarray)
    moved = mine(image, return_tensors="pt").to(torch.float16)
    assert moved.pixel_values.dtype == torch.float16
    assert list(moved) == ["pixel_values"]


def test_processor__saved_and_defaults(tmp_path: Path) -> None:
    """A processor that forgets an option on the way would preprocess otherwise after reloading."""
    _, mine = processors(tmp_path, '{"image_processor_type": "BitImageProcessor", "size": 232}')
    assert mine.size == {"shortest_edge": 232}
    assert mine.image_mean[0] == pytest.approx(0.4815, abs=1e-4)
    mine.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_text('{"model_type": "hiera"}')
    image = photograph(343, 256)
    expected = peer("transformers").AutoImageProcessor.from_pretrained(tmp_path / "saved")(image, return_tensors="pt")
    assert distance(mine(image, return_tensors="pt").pixel_values, expected.pixel_values) <= FP32
    published = ours.AutoImageProcessor.from_pretrained("facebook/hiera-base-plus-224-hf")
    assert published.size == {"shortest_edge": 256}
    assert published.image_mean == (0.485, 0.456, 0.406)


def test_processor__refuses(tmp_path: Path) -> None:
    """A misspelt option or a broken image must say so, not change the numbers."""
    _, mine = processors(tmp_path)
    with pytest.raises(UnknownNameError, match="do_center_crop"):
        mine(photograph(64, 64), do_centre_crop=True)
    with pytest.raises(InputError, match="several|alike"):
        mine([photograph(64, 64), photograph(64, 80)], do_resize=False, do_center_crop=False, return_tensors="pt")
    with pytest.raises(InputError):
        mine(object())
    (tmp_path / "bad.jpg").write_text("no image")
    with pytest.raises(InputError):
        mine(str(tmp_path / "bad.jpg"))


def test_end_to_end__jpeg_to_logits(tmp_path: Path) -> None:
    """Preprocess and network together, as the card's snippet runs them."""
    options = {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}}
    model, mine = pair("HieraForImageClassification", tmp_path / "m", **LABELS)
    reference, processor = processors(tmp_path)
    for path in write_photographs(tmp_path):
        image = Image.open(path)
        with torch.no_grad():
            expected = model(**reference(images=image, return_tensors="pt", **options)).logits
            assert distance(mine(**processor(images=image, return_tensors="pt", **options)).logits, expected) <= FP32


@pytest.mark.parametrize("kind", ["HieraModel", "HieraBackbone", "HieraForImageClassification", "HieraForPreTraining"])
def test_constructor__refuses_unknown_options(kind: str) -> None:
    """An option that is swallowed on its way to the network gives another model than the caller asked for."""
    config = ours.HieraConfig.from_dict(hf_config((64, 64), DEPTHS, DIM, **DECODER).to_dict())
    with pytest.raises(TypeError, match="nonsense"):
        getattr(ours, kind)(config, nonsense=True)
