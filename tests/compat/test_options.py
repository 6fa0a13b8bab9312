"""What transformers' users pass to `from_pretrained` without thinking: honoured or refused, never ignored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from torch import nn

import hierax
import hierax.compat.transformers as ours
from hierax.errors import CheckpointError, HieraxError, InputError, UnknownNameError

from ..members import loud
from ..net.server import COMMIT, Hub
from .outputs import images

SMALL = {"depths": [1, 2, 3, 1], "embed_dim": 16, "num_heads": [1, 2, 4, 8], "image_size": [64, 64]}
LABELS = {0: "ant", 1: "bee", 2: "cat"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier with its image processor, as a hub repository holds it."""
    place = tmp_path_factory.mktemp("classifier")
    loud(ours.HieraForImageClassification(ours.HieraConfig(**SMALL, id2label=LABELS))).save_pretrained(place)
    ours.BitImageProcessor(size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64}).save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def sam2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SAM 2's trunk and neck."""
    place = tmp_path_factory.mktemp("sam2")
    trunk = {"hidden_size": 16, "blocks_per_stage": [1, 2, 5, 2], "global_attention_blocks": [4, 6]}
    loud(ours.Sam2VisionModel(ours.Sam2VisionConfig(backbone_config=trunk))).save_pretrained(place)
    return place


@pytest.fixture
def hub(web: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The classifier on a hub of our own, with an empty cache."""
    web.repos["org/bees"] = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(constants, "ENDPOINT", web.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    return web


def same(a: nn.Module, b: nn.Module) -> bool:
    """Whether two models have the same parameters."""
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# --- the hub ----------------------------------------------------------------------------------------------------------


def test_processor__fetches_no_weights(hub: Hub) -> None:
    """Of a repository that nobody catalogued, the whole checkpoint was fetched for one small file."""
    processor = ours.AutoImageProcessor.from_pretrained("org/bees")
    assert processor.size == {"shortest_edge": 72}
    assert hub.count("GET", "preprocessor_config.json") == 1
    assert {path.rpartition("/")[2] for _, path, _ in hub.log} == {"preprocessor_config.json"}
    hub.repos["org/bees"].pop("preprocessor_config.json")
    with pytest.raises(CheckpointError, match=r"preprocessor_config.json|processor_config.json"):
        ours.AutoImageProcessor.from_pretrained("org/bees", revision=COMMIT, force_download=True)
    assert not hub.count("GET", "model.safetensors")
    hub.repos["org/bees"]["processor_config.json"] = json.dumps({"image_processor": processor.to_dict()}).encode()
    assert ours.AutoImageProcessor.from_pretrained("org/bees", force_download=True).size == {"shortest_edge": 72}


def test_config__fetches_no_weights(hub: Hub) -> None:
    """A config of a repository is one small file too."""
    for kind in (ours.AutoConfig, ours.HieraConfig):
        config = kind.from_pretrained("org/bees")
        assert config.id2label == LABELS
    assert not hub.count("GET", "model.safetensors")
    before = len(hub.log)
    for name in ("hiera_tiny_224", "facebook/hiera-tiny-224-in1k-hf"):  # which the catalogue knows
        assert ours.AutoConfig.from_pretrained(name).id2label[0] == "tench, Tinca tinca"
    assert ours.AutoConfig.from_pretrained("facebook/hiera-tiny-224-mae-hf").decoder_hidden_size == 512
    assert len(hub.log) == before
    with pytest.raises(HieraxError):  # a revision is asked for at the hub, which has no such repository
        ours.AutoConfig.from_pretrained("facebook/hiera-tiny-224-in1k-hf", revision="main")
    assert len(hub.log) > before


def test_cache_dir(hub: Hub, tmp_path: Path) -> None:
    """A cache elsewhere that still fills the home folder fills the disk it was meant to spare."""
    home = tmp_path / "home"
    model = ours.AutoModelForImageClassification.from_pretrained("org/bees", cache_dir=tmp_path / "mine")
    ours.AutoImageProcessor.from_pretrained("org/bees", cache_dir=str(tmp_path / "mine"))
    snapshot = tmp_path / "mine" / "models--org--bees" / "snapshots" / COMMIT
    assert sorted(path.name for path in snapshot.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    assert not [path for path in home.rglob("*") if path.is_file()]
    assert hub.count("GET", "model.safetensors") == 1
    again = ours.AutoModelForImageClassification.from_pretrained("org/bees", cache_dir=tmp_path / "mine")
    assert hub.count("GET", "model.safetensors") == 1
    assert same(model, again)


def test_local_files_only(hub: Hub) -> None:
    """A job without a network that still asks for one hangs; what is cached needs nobody."""
    with pytest.raises(HieraxError, match="local_files_only"):
        ours.HieraModel.from_pretrained("org/bees", local_files_only=True)
    assert hub.log == []
    ours.HieraModel.from_pretrained("org/bees")
    before = len(hub.log)
    ours.HieraModel.from_pretrained("org/bees", local_files_only=True)
    ours.AutoConfig.from_pretrained("org/bees", local_files_only=True)
    assert len(hub.log) == before
    ours.HieraModel.from_pretrained("org/bees")
    assert len(hub.log) > before  # of that call only


def test_revision_and_force_download(hub: Hub) -> None:
    """A revision that is not asked for gives other weights; a forced download that takes the cache repairs nothing."""
    with pytest.raises(UnknownNameError, match="revision"):
        ours.HieraModel.from_pretrained("org/bees", revision="v9")
    with pytest.raises(UnknownNameError, match="revision"):
        ours.AutoImageProcessor.from_pretrained("org/bees", revision="v9")
    ours.HieraModel.from_pretrained("org/bees", revision=COMMIT)
    ours.HieraModel.from_pretrained("org/bees", revision="main")
    assert hub.count("GET", "model.safetensors") == 1
    ours.HieraModel.from_pretrained("org/bees", revision="main", force_download=True)
    assert hub.count("GET", "model.safetensors") == 2


@pytest.mark.parametrize(("given", "sent"), [("hf_mine", "Bearer hf_mine"), (False, None), (True, "Bearer hf_stored")])
def test_token(hub: Hub, given: Any, sent: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A private repository needs the caller's token; False must send none."""
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_stored")
    ours.AutoConfig.from_pretrained("org/bees", token=given)
    assert {headers.get("Authorization") for _, _, headers in hub.log} == {sent}


@pytest.mark.parametrize("text", ["[]", "{", '{"image_processor": [1]}', '{"size": {"shortest_edge": 1e12}}', "null"])
def test_processor__damaged_file(text: str, tmp_path: Path) -> None:
    """A file that is no processor's must not end in a traceback, nor in an image of a terabyte."""
    (tmp_path / "preprocessor_config.json").write_text(text)
    try:
        processor = ours.AutoImageProcessor.from_pretrained(tmp_path)
    except HieraxError:
        return
    assert processor.size == {"shortest_edge": 224}


# --- dtype, device and files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_dtype(name: str, folder: Path) -> None:
    """Half precision that is ignored takes twice the memory."""
    for value in (torch.bfloat16, "bfloat16"):
        model = ours.AutoModel.from_pretrained(folder, **{name: value})
        assert model.dtype == torch.bfloat16
        assert model.config.to_dict()["dtype"] == "bfloat16"
    assert ours.AutoModel.from_pretrained(folder, **{name: "auto"}).dtype == torch.float32
    with pytest.raises(InputError, match="dtype must be"):
        ours.AutoModel.from_pretrained(folder, **{name: "int3"})


def test_device_map(folder: Path) -> None:
    """A device map that is ignored computes on another device than the caller thinks."""
    for given in ("cpu", "auto", "balanced", {"": "cpu"}, {"hiera": "cpu", "classifier": torch.device("cpu")}, None):
        assert ours.AutoModel.from_pretrained(folder, device_map=given).device.type in ("cpu", "cuda")
    with pytest.raises(InputError, match="one device"):
        ours.AutoModel.from_pretrained(folder, device_map={"hiera": "cpu", "classifier": 1})
    with pytest.raises(InputError, match="cannot be used here"):
        ours.AutoModel.from_pretrained(folder, device_map="xpu:7")


def test_use_safetensors(folder: Path, tmp_path: Path) -> None:
    """A caller who allows safetensors alone must not be given a pickle."""
    ours.AutoModel.from_pretrained(folder, use_safetensors=True)
    with pytest.raises(CheckpointError, match="use_safetensors=False"):
        ours.AutoModel.from_pretrained(folder, use_safetensors=False)
    torch.save(ours.AutoModel.from_pretrained(folder).state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match="use_safetensors=True"):
        ours.AutoModel.from_pretrained(tmp_path, use_safetensors=True)
    ours.AutoModel.from_pretrained(tmp_path, use_safetensors=False)


def test_without_effect(folder: Path) -> None:
    """What changes no number must not stop a script that passes it."""
    harmless = {"trust_remote_code": True, "low_cpu_mem_usage": True, "weights_only": True, "resume_download": True}
    default = {"attn_implementation": "sdpa", "subfolder": "", "variant": None, "quantization_config": None}
    model = ours.AutoModel.from_pretrained(folder, **harmless, **default)
    assert same(model, ours.AutoModel.from_pretrained(folder))
    ours.AutoImageProcessor.from_pretrained(folder, trust_remote_code=True, use_fast=True, local_files_only=True)


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ({"load_in_8bit": True}, "int8"),
        ({"quantization_config": object()}, "int8"),
        ({"attn_implementation": "flash_attention_2"}, "sdpa"),
        ({"subfolder": "inner"}, "folder"),
        ({"variant": "fp16"}, "file"),
        ({"state_dict": {}}, "load_state_dict"),
        ({"max_memory": {0: "1GB"}}, "one device"),
        ({"from_tf": True}, "torch"),
        ({"proxies": {"https": "x"}}, "HTTPS_PROXY"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_refused(option: dict[str, Any], remedy: str, folder: Path) -> None:
    """An option that is silently ignored gives another model than the caller asked for."""
    for kind in (ours.AutoModel, ours.HieraModel, ours.AutoConfig):
        with pytest.raises(InputError, match=remedy):
            kind.from_pretrained(folder, **option)


def test_misspelt(folder: Path) -> None:
    """A misspelt option is no field of the config."""
    for kind in (ours.AutoModel, ours.HieraModel, ours.AutoConfig, ours.HieraConfig, ours.AutoImageProcessor):
        with pytest.raises(UnknownNameError, match="'cache_dir'"):
            kind.from_pretrained(folder, cach_dir="x")
    with pytest.raises(UnknownNameError, match="Unknown option 'is_mae'"):
        ours.AutoModelForImageClassification.from_pretrained(folder, is_mae=True)


# --- config fields ----------------------------------------------------------------------------------------------------


def test_labels(folder: Path) -> None:
    """New classes need a new head, which is asked for; names alone do not."""
    names = {0: "x", 1: "y", 2: "z"}
    model = ours.AutoModelForImageClassification.from_pretrained(folder, id2label=names)
    assert model.config.id2label == names
    assert model.config.label2id == {"x": 0, "y": 1, "z": 2}
    with pytest.raises(CheckpointError, match="ignore_mismatched_sizes"):
        ours.AutoModelForImageClassification.from_pretrained(folder, num_labels=7)
    model, report = ours.AutoModelForImageClassification.from_pretrained(
        folder, num_labels=7, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert model(images(64, 64)).logits.shape == (2, 7)
    assert {name for name, *_ in report["mismatched_keys"]} == {"classifier.weight", "classifier.bias"}
    assert report["missing_keys"] == set()


def test_config_given(folder: Path) -> None:
    """A config object, its dictionary or its place mean the same."""
    config = ours.AutoConfig.from_pretrained(folder, output_hidden_states=True)
    for given in (config, config.to_dict()):
        model = ours.AutoModel.from_pretrained(folder, config=given)
        assert len(model(images(64, 64)).hidden_states) == 5
    assert ours.AutoModel.from_pretrained(folder, config=str(folder)).config.id2label == LABELS
    config, unused = ours.AutoConfig.from_pretrained(folder, return_unused_kwargs=True, num_labels=2, colour="red")
    assert (config.num_labels, unused) == (2, {"colour": "red"})
    assert type(ours.AutoConfig.for_model("hiera")) is ours.HieraConfig
    with pytest.raises(UnknownNameError, match="hiera"):
        ours.AutoConfig.for_model("vit")


@pytest.mark.parametrize(
    ("options", "channels"),
    [
        ({}, [128]),
        ({"out_features": ["stage1", "stage3"]}, [16, 64]),
        ({"out_indices": [1, 2, 3, 4]}, [16, 32, 64, 128]),
        ({"out_indices": (-1,)}, [128]),
    ],
    ids=str,
)
def test_backbone(options: dict[str, Any], channels: list[int], folder: Path) -> None:
    """Stages of the config's default would be fed into a detector that expects others."""
    backbone = ours.AutoBackbone.from_pretrained(folder, **options)
    assert type(backbone) is ours.HieraBackbone
    assert backbone.channels == channels
    assert [m.shape[1] for m in backbone(images(64, 64)).feature_maps] == channels
    maps = backbone(images(64, 64), return_dict=False)
    assert isinstance(maps, tuple)


def test_outputs_on_request(folder: Path) -> None:
    """`output_hidden_states` of the config holds for every call, `return_dict=False` gives a tuple."""
    model = ours.AutoModelForImageClassification.from_pretrained(folder, output_hidden_states=True, return_dict=False)
    said = model(images(64, 64))
    assert isinstance(said, tuple)
    assert len(said) == 3
    assert "hidden_states" not in model(images(64, 64), output_hidden_states=False, return_dict=True)


def test_auto__kinds(folder: Path, sam2: Path) -> None:
    """An Auto class that picks by its own name alone would give a network that the weights do not fit."""
    assert type(ours.AutoModel.from_pretrained(folder)) is ours.HieraModel
    assert type(ours.AutoModel.from_pretrained(sam2)) is ours.Sam2VisionModel
    assert type(ours.AutoConfig.from_pretrained(sam2)) is ours.Sam2VisionConfig
    assert type(ours.AutoModel.from_config(ours.HieraConfig(**SMALL), is_mae=True)) is ours.HieraModel
    assert type(ours.AutoModel.from_pretrained(folder, add_pooling_layer=False)) is ours.HieraModel
    for kind in (ours.AutoModelForImageClassification, ours.AutoBackbone, ours.AutoModelForPreTraining):
        with pytest.raises(CheckpointError, match="sam2_vision_model"):
            kind.from_pretrained(sam2)
    with pytest.raises(UnknownNameError, match="from_pretrained"):
        ours.AutoModel()
    decoder = {"decoder_hidden_size": 32, "decoder_depth": 1, "decoder_num_heads": 4, "num_query_pool": 2}
    model = ours.AutoModelForPreTraining.from_config(ours.HieraConfig(**SMALL, **decoder))
    assert model(images(64, 64)).loss > 0


def test_save_options(folder: Path, tmp_path: Path) -> None:
    """What cannot be done on the way out must not be left out."""
    model = ours.AutoModel.from_pretrained(folder)
    model.save_pretrained(tmp_path / "a", is_main_process=False)
    assert not (tmp_path / "a").exists()
    for options in ({"safe_serialization": False}, {"push_to_hub": True}, {"max_shard_size": "100KB"}):
        with pytest.raises(InputError):
            model.save_pretrained(tmp_path / "a", **options)
    model.save_pretrained(save_directory=tmp_path / "a", safe_serialization=True, max_shard_size="1GB")
    assert same(model, ours.AutoModel.from_pretrained(pretrained_model_name_or_path=tmp_path / "a"))


def test_licence_stays(folder: Path, tmp_path: Path) -> None:
    """The licence of the weights is lost where a config of the caller's goes over the file's."""
    shutil.copytree(folder, tmp_path / "nc")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "nc" / "config.json").write_text(json.dumps({**config, "hierax": {"license": "cc-by-nc-4.0"}}))
    model = ours.AutoModel.from_pretrained(tmp_path / "nc", config=ours.HieraConfig(**SMALL))
    model.save_pretrained(tmp_path / "again")
    assert hierax.describe(tmp_path / "again").license == "cc-by-nc-4.0"
