"""One translation of transformers' configs: what their own class builds loads by both doors, or is refused by both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import hierax
import hierax.compat.transformers as ours
from hierax.config import PreprocessSpec
from hierax.errors import CheckpointError, InputError
from hierax.weights.formats.transformers_processor import processor_json, read_processor
from hierax.weights.write import write_weights

from ..members import MEMBERS, loud, photograph, weights_of
from ..peer_files import write_hf_folder
from ..peers import hf_sam2, peer
from ..tolerance import FP32, distance
from .test_transformers import EVERYTHING, assert_same_output

pytestmark = pytest.mark.parity

T, F = True, False
SMALL = {"depths": [1, 2, 3, 2], "embed_dim": 16, "num_heads": [1, 2, 4, 8], "image_size": [64, 64]}
# Configs that transformers runs and that no published file has.
ODD: dict[str, dict[str, Any]] = {
    "local_after_global": {"masked_unit_attention": [T, F, T, F]},
    "local_last": {"masked_unit_attention": [T, T, T, T]},
    "global_first": {"masked_unit_attention": [F, T, F, T]},
    "all_global": {"masked_unit_attention": [F, F, F, F]},
    "all_global_other_unit": {"masked_unit_attention": [F, F, F, F], "masked_unit_size": [16, 16]},
    "two_pools_local_last": {"num_query_pool": 2, "masked_unit_attention": [T, T, F, T]},
    "two_pools_one_block": {"num_query_pool": 2, "depths": [1, 2, 1, 2], "masked_unit_attention": [T, T, T, F]},
    "one_pool": {"num_query_pool": 1, "masked_unit_attention": [T, F, F, F]},
    "no_pool": {"num_query_pool": 0, "depths": [1, 1, 1, 2], "masked_unit_attention": [F, T, F, F]},
    "three_stages_of_four_entries": {"depths": [1, 2, 2], "num_query_pool": 2, "masked_unit_size": [4, 4]},
    "strides_differ": {"query_stride": [2, 1], "masked_unit_size": [8, 1], "masked_unit_attention": [T, F, T, F]},
    "wide_stride": {"depths": [1, 2], "num_query_pool": 1, "query_stride": [4, 4], "masked_unit_size": [4, 4]},
    "patches": {"patch_size": [3, 3], "patch_stride": [2, 2], "patch_padding": [1, 1], "image_size": [32, 48]},
    "grey_and_thin": {"num_channels": 1, "mlp_ratio": 2.0, "layer_norm_eps": 1e-3, "drop_path_rate": 0.3},
    "tall": {"image_size": [96, 64], "num_heads": [2, 4, 8, 16]},
}
# Configs that transformers runs and that are no network of ours, with what both doors say.
BEYOND: dict[str, tuple[dict[str, Any], str]] = {
    "heads": ({"num_heads": [2, 2, 2, 2]}, "double from stage to stage"),
    "width": ({"embed_dim_multiplier": 3.0, "num_heads": [1, 1, 1, 1]}, "double from stage to stage"),
    "activation": ({"hidden_act": "relu"}, "'gelu'"),
    "unit": ({"masked_unit_size": [16, 16]}, "query_stride"),
    "two_windows": ({"num_query_pool": 2, "masked_unit_attention": [T, T, T, F]}, "only one"),
}


def options(changes: dict[str, Any]) -> dict[str, Any]:
    """A small config, changed."""
    return {**SMALL, "id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}, **changes}


@pytest.mark.parametrize("case", ODD)
def test_odd_config__both_doors(case: str, tmp_path: Path) -> None:
    """A window of another size, in any block, or a block that attends globally, moves the loud logits by far."""
    transformers = peer("transformers")
    model = loud(transformers.HieraForImageClassification(transformers.HieraConfig(**options(ODD[case]))))
    folder = write_hf_folder(model, tmp_path / "m")
    height, width = model.config.image_size
    x = torch.randn(2, model.config.num_channels, height, width, generator=torch.Generator().manual_seed(1))
    mine = ours.HieraForImageClassification.from_pretrained(folder)
    again = hierax.convert(folder, tmp_path / "again", to="transformers")
    with torch.no_grad():
        expected = model(x, **EVERYTHING)
        assert distance(hierax.load(folder).model(x), expected.logits) <= FP32
        assert_same_output(mine(x, **EVERYTHING), expected)
        back = transformers.HieraForImageClassification.from_pretrained(again).eval()
        assert distance(back(x).logits, expected.logits) <= FP32


@pytest.mark.parametrize("changes", [{}, {"masked_unit_attention": [T, F, T, F], "num_query_pool": 3}], ids=str)
def test_odd_config__autoencoder(changes: dict[str, Any], tmp_path: Path) -> None:
    """A masked pass must see the same windows, and the decoder its own sizes."""
    transformers = peer("transformers")
    decoder = {"num_query_pool": 2, "decoder_hidden_size": 24, "decoder_depth": 2, "decoder_num_heads": 3}
    model = loud(transformers.HieraForPreTraining(transformers.HieraConfig(**options({**decoder, **changes}))))
    folder = write_hf_folder(model, tmp_path / "m")
    x, noise = torch.randn(2, 3, 64, 64), torch.rand(2, 4)
    mine, plain = ours.HieraForPreTraining.from_pretrained(folder), hierax.load(folder).model
    with torch.no_grad():
        expected = model(x, noise=noise)
        assert_same_output(mine(x, noise=noise), expected)
        kept = noise.argsort(1)[:, :1]  # one of four units at the ratio of 0.6
        assert abs(plain(x, visible=kept).loss - expected.loss) <= FP32 * max(1, expected.loss)


@pytest.mark.parametrize("case", BEYOND)
def test_beyond__refused_by_both_alike(case: str, tmp_path: Path) -> None:
    """Before, one door refused and the other computed something else in silence."""
    transformers = peer("transformers")
    changes, said = BEYOND[case]
    model = transformers.HieraModel(transformers.HieraConfig(**options(changes)))
    folder = write_hf_folder(model, tmp_path / "m")
    messages = []
    for load in (hierax.load, ours.HieraModel.from_pretrained):
        with pytest.raises(CheckpointError, match=said) as caught:
            load(folder)
        messages.append(str(caught.value))
    with pytest.raises(InputError, match=said) as refused:
        ours.HieraModel(ours.HieraConfig.from_dict(json.loads((folder / "config.json").read_text())))
    # A file's refusal also names the file.
    assert all(message.endswith(str(refused.value)) for message in messages)


RECIPES: list[dict[str, Any]] = [
    {},
    {"size": 72, "crop_size": 64},
    {"size": {"height": 80, "width": 72}, "do_center_crop": False},
    {"size": {"height": 80, "width": 80}, "crop_size": {"height": 64, "width": 64}},
    {"do_normalize": False},
    {"do_rescale": False},
    {"rescale_factor": 1 / 127.5, "image_mean": 1.0, "image_std": 1.0},
    {"image_mean": [0.4, 0.5, 0.6]},
]


@pytest.mark.parametrize("changes", RECIPES, ids=str)
def test_recipe__same_pixels_by_both_doors(changes: dict[str, Any], tmp_path: Path) -> None:
    """Statistics of another class where the file is silent, or a scale that is forgotten, would be grey levels off."""
    from hierax.data.preprocess import preprocess

    text = {"image_processor_type": "BitImageProcessor", **changes}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(text))
    image = photograph(301, 217)
    processor = ours.AutoImageProcessor.from_pretrained(tmp_path)
    expected = processor(image, return_tensors="pt").pixel_values[0]
    spec = read_processor(text)
    assert tuple(expected.shape[1:]) == spec.size
    assert distance(preprocess(image, spec), expected) <= FP32 * max(1, expected.abs().max().item())
    assert read_processor(processor_json(spec)).mean == pytest.approx(spec.mean)


def test_recipe__what_it_cannot_say_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """An option that is dropped in silence gives other pixels than the file's own package."""
    for changes, word in (({"do_resize": False}, "do_resize"), ({"do_center_crop": False}, "do_center_crop")):
        caplog.clear()
        read_processor({"image_processor_type": "BitImageProcessor", **changes})
        assert word in caplog.text
    assert isinstance(read_processor({}), PreprocessSpec)


@pytest.mark.parametrize(
    ("changes", "said"), [({"num_attention_heads_per_stage": [2, 2, 4, 8]}, "double"), ({"hidden_act": "relu"}, "gelu")]
)
def test_sam2__beyond_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    """Heads that were read from a field which transformers does not use split the channels elsewhere."""
    sam2 = hf_sam2()
    folder = write_hf_folder(sam2.module, tmp_path / "m")
    data = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**data, "num_attention_heads": 7}))
    with torch.no_grad():
        x = torch.randn(1, 3, 64, 64)
        maps, expected = hierax.load(folder).model.detection_features(x), sam2.answers(x)
    assert distance(maps["stage4"], expected["stage4"]) <= FP32
    (folder / "config.json").write_text(json.dumps({**data, **changes}))
    with pytest.raises(CheckpointError, match=said):
        hierax.load(folder)


# --- what is known of the weights -----------------------------------------------------------------------------------

KNOWN = {"license": "cc-by-nc-4.0", "commercial": False, "dataset": "Birds", "base_model": "org/parent"}


def test_facts__survive_every_door(tmp_path: Path) -> None:
    """Weights that lose their licence on the way look free to use."""
    source = write_weights(weights_of(MEMBERS["Hiera"]).with_card(**KNOWN), tmp_path / "source", to="hierax")
    converted = hierax.convert(source, tmp_path / "converted", to="transformers")
    folders = [converted]
    for start in (source, converted):
        folders.append(tmp_path / f"saved {start.name}")
        ours.HieraForImageClassification.from_pretrained(start).save_pretrained(folders[-1])
    folders.append(tmp_path / "theirs")
    peer("transformers").HieraForImageClassification.from_pretrained(folders[-2]).save_pretrained(folders[-1])
    folders.append(hierax.convert(folders[-1], tmp_path / "back", to="hierax"))
    for folder in folders:
        card = hierax.describe(folder)
        assert {key: getattr(card, key) for key in KNOWN} == KNOWN, folder.name


def test_facts__of_a_card(tmp_path: Path) -> None:
    """A folder of the hub states its licence in the README alone, which a saved copy does not have."""
    folder = write_weights(weights_of(MEMBERS["Hiera"]), tmp_path / "hub", to="transformers")
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    ours.HieraModel.from_pretrained(folder, config=ours.HieraConfig.from_pretrained(folder)).save_pretrained(tmp_path)
    assert hierax.describe(tmp_path).license == "cc-by-nc-4.0"
    assert hierax.describe(tmp_path).commercial is False
