"""Files of the original packages in their less common forms: old layouts, sidecars, resized, partial, renamed."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import hierax
from hierax.errors import CheckpointError, HieraxError
from hierax.weights import files
from hierax.weights.understand import read_weights, understand
from hierax.weights.write import write_weights

from ..members import MEMBERS, weights_of, written
from ..peer_files import write_birder_mae, write_birder_pt, write_hf_folder, write_meta_folder, write_timm_folder
from ..peers import (
    Reference,
    birder_abswin,
    birder_ap,
    birder_det,
    birder_mae,
    hf_config,
    hf_sam2,
    loud,
    meta,
    meta_mae,
    ours,
    peer,
    timm_base_abswin,
    timm_plain,
    timm_sam2,
    timm_small_abswin,
)
from ..tolerance import FP32, assert_same

pytestmark = pytest.mark.parity
BIRDER = {"depths": [1, 2, 3, 1], "embed_dim": 16, "num_heads": 1, "drop_path_rate": 0.0}


def same(reference: Reference, path: Path, size: tuple[int, ...] | None = None, **options: Any) -> hierax.Predictor:
    """The file's network says what the reference says, at its own size."""
    predictor = hierax.load(path, **options)
    x = torch.randn(1, 3, *(size or predictor.model.input_size))
    with torch.no_grad():
        theirs = reference.answers(x)
        assert_same(ours(predictor.model, x, list(theirs)), theirs, FP32)
    return predictor


def edited(path: Path, **changes: Any) -> Path:
    """A torch file with other entries; None takes one out."""
    data = {**torch.load(path, weights_only=True), **changes}
    torch.save({key: value for key, value in data.items() if value is not None}, path)
    return path


# --- birder -------------------------------------------------------------------------------------------------------


def small_birder(reference: Reference, folder: Path, size: tuple[int, int] = (64, 64), **config: Any) -> Path:
    classes = reference.config.num_classes
    return write_birder_pt(reference.module, folder, size=size, classes=classes, config={**BIRDER, **config})


def test_birder__old_norm_layout(tmp_path: Path) -> None:
    """Before September 2025 the norm of a Hiera was features.0, where HieraDet has it to this day."""
    reference = birder_abswin()
    path = small_birder(reference, tmp_path, abs_win_pos_embed=True)
    state = torch.load(path, weights_only=True)["state"]
    old = {key.replace("features.1.", "features.0."): tensor for key, tensor in state.items()}
    predictor = same(reference, edited(path, state=old))
    assert predictor.model.config.family == "hiera_abswin"
    # Without its config, only a name can tell it from a HieraDet.
    edited(path, config=None)
    with pytest.raises(CheckpointError):
        hierax.load(path)


def test_birder__sidecar_json(tmp_path: Path) -> None:
    """birder's own sidecar names the network and its config; the weights beside it are bare."""
    reference = birder_det((8, 4, 0, 0), (64, 64))
    path = small_birder(reference, tmp_path)
    data = torch.load(path, weights_only=True)
    peer("birder.net.hieradet")
    config = peer("birder.common.lib").get_network_config(reference.module, data["signature"], data["rgb_stats"])
    bare = tmp_path / "bird.safetensors"
    save_file(data["state"], bare)
    with pytest.raises(CheckpointError):
        hierax.load(bare)
    (tmp_path / "bird.json").write_text(json.dumps(config))
    predictor = same(reference, bare)
    assert predictor.preprocess.mean == (0.51, 0.53, 0.49)


def test_birder__ambiguous(tmp_path: Path) -> None:
    """A released HieraDet file fits networks that compute different numbers: load asks, describe shows each."""
    from hierax.config import ARCHITECTURES

    path = write_weights(weights_of(ARCHITECTURES["hieradet_d_tiny"]), tmp_path / "x.pt", to="birder")
    with pytest.raises(CheckpointError, match=r"hieradet_tiny, hieradet_d_tiny.*name="):
        hierax.load(path)
    card = hierax.describe(path)
    assert card.candidates == ("hieradet_tiny", "hieradet_d_tiny")
    text = str(card)
    assert "if it is 'hieradet_tiny'" in text
    assert "if it is 'hieradet_d_tiny'" in text
    assert "14x14" in text
    assert hierax.load(path, name="hieradet_d_tiny").model.config.windows[2] is None


@pytest.mark.parametrize("size", [(96, 96), (64, 128)])
def test_birder__saved_at_another_size(size: tuple[int, int], tmp_path: Path) -> None:
    """adjust_size resizes the stored table: a file saved at 384 has another one than the registered network."""
    reference = birder_abswin()
    reference.module.adjust_size(size)
    predictor = same(reference, small_birder(reference, tmp_path, size, abs_win_pos_embed=True))
    assert predictor.model.input_size == size
    assert predictor.preprocess.size == size


def test_birder__attention_pool(tmp_path: Path) -> None:
    """The pool's heads are in the config alone."""
    extra = {"abs_win_pos_embed": True, "attn_pool_head": True, "attn_pool_num_heads": 16}
    reference = birder_ap()
    same(reference, small_birder(reference, tmp_path, **{**extra, "num_heads": 2}))


def test_birder__custom_windows(tmp_path: Path) -> None:
    """A config in the file overrides what the name stands for."""
    reference = birder_det((8, 4, -16, -32), (64, 96))
    spec = {
        "window_spec": [8, 4, -16, -32],
        "global_att_blocks": [4, 6],
        "global_pos_size": [7, 7],
        "depths": [1, 2, 5, 2],
    }
    same(reference, small_birder(reference, tmp_path, (64, 96), **spec))


@pytest.mark.parametrize("q_pool", [2, 3])
def test_birder__autoencoder_to_classifier(q_pool: int, tmp_path: Path) -> None:
    """The encoder out of a masked autoencoder is the encoder that birder would take out."""
    reference = birder_mae(q_pool)
    path = write_birder_mae(reference.module, tmp_path / "mae.pt", (64, 64))
    edited(path, encoder_config={**BIRDER, "abs_win_pos_embed": False, "q_pool": q_pool})
    model = hierax.load(path, num_classes=4).model
    encoder = reference.module.encoder
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        theirs = encoder.detection_features(x)
        said = model.detection_features(x)
    first = {key: theirs[key] for key in ("stage1", "stage2", "stage3")}
    assert_same({key: said[key] for key in first}, first, FP32)


# --- Meta ---------------------------------------------------------------------------------------------------------


def test_meta__autoencoder_to_classifier(tmp_path: Path) -> None:
    """Meta's loader takes the encoder and leaves norm and head as they were initialised; so do we, and say it."""
    reference = meta_mae()
    path = write_meta_folder(reference.module, tmp_path / "mae")
    predictor = hierax.load(path, num_classes=5)
    plain = meta()
    missing, unexpected = plain.module.load_state_dict(reference.module.state_dict(), strict=False)
    assert set(predictor.report.fresh) == set(missing)
    assert set(predictor.report.left_over) == set(unexpected)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps = {key: value for key, value in plain.answers(x).items() if key.startswith("stage")}
        assert_same(predictor.model.detection_features(x), maps, FP32)


# --- transformers -------------------------------------------------------------------------------------------------


def test_transformers__backbone(tmp_path: Path) -> None:
    """A backbone has stage norms that an encoder has no place for: read past, and reported."""
    module = loud(peer("transformers").HieraBackbone(hf_config((64, 64), (1, 2, 3, 1), 8)))
    predictor = hierax.load(write_hf_folder(module, tmp_path / "hf"))
    assert predictor.report.left_over == {
        f"hidden_states_norms.stage4.{part}": "stage norms of transformers' HieraBackbone"
        for part in ("weight", "bias")
    }
    assert predictor.model.config.head == "pool"
    assert not predictor.report.fresh


def test_transformers__video_sam2(tmp_path: Path) -> None:
    """The hub's SAM 2 folders are of type sam2_video; the trunk lies three levels down in weights and config."""
    transformers = peer("transformers")
    reference = hf_sam2((8, 4, 16, 8))
    vision = transformers.Sam2VisionConfig(
        backbone_config=reference.module.config, backbone_channel_list=[128, 64, 32, 16]
    )
    small = {"memory_attention_num_layers": 1, "memory_encoder_hidden_size": 256}
    whole = transformers.Sam2VideoModel(transformers.Sam2VideoConfig(vision_config=vision, **small))
    whole.vision_encoder.backbone.load_state_dict(reference.module.state_dict())
    predictor = same(reference, write_hf_folder(whole, tmp_path / "hf"), (224, 160))
    assert set(predictor.report.left_over.values()) == {"part of SAM 2 beside the image encoder"}


# --- timm ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [timm_plain, timm_small_abswin, timm_base_abswin, timm_sam2])
def test_timm__small_folders(build: Any, tmp_path: Path) -> None:
    """timm writes the arguments that its member was changed by; each of them changes the numbers."""
    reference = build()
    path = write_timm_folder(reference.module, tmp_path / "timm")
    size = reference.config.input_size
    same(reference, path, size if len(size) == 2 and size[0] < 512 else (224, 160))


@pytest.mark.parametrize("legacy", [False, True])
def test_timm__file_alone(legacy: bool, tmp_path: Path) -> None:
    """A bare state dict of a public member needs nothing beside it, and neither does one with the older name."""
    from hierax.config import ARCHITECTURES

    weights = weights_of(ARCHITECTURES["hiera_tiny_224"])
    path = write_weights(weights, tmp_path / "x.safetensors", to="timm")
    path.with_suffix(".json").unlink()
    if legacy:
        from safetensors.torch import load_file

        state = load_file(path)
        state["pos_embed_abs"] = state.pop("pos_embed")
        save_file(state, path)
    again = read_weights(path)
    assert again.config.name == "hiera_tiny_224"
    assert all(torch.equal(again.tensors[key], tensor) for key, tensor in weights.tensors.items())


# --- everything ---------------------------------------------------------------------------------------------------


def test_sidecar__of_another_file(tmp_path: Path) -> None:
    """A config.json that belongs to another file in the folder must not be put on this one."""
    write_weights(weights_of(MEMBERS["Hiera"]), tmp_path / "all", to="hierax")
    path = write_weights(weights_of(MEMBERS["Hiera video"]), tmp_path / "all" / "clip.pth", to="meta")
    assert hierax.load(path).model.config.is_video


def test_licence__from_the_card(tmp_path: Path) -> None:
    """Hub folders state their licence in the README; a copy in our format must carry it on."""
    folder = write_weights(weights_of(MEMBERS["Hiera"]), tmp_path / "hf", to="transformers")
    (folder / "README.md").write_text("---\ntags: [x]\nlicense: cc-by-nc-4.0\n---\n# A model\nlicense: mit\n")
    copy = hierax.convert(folder, tmp_path / "copy", to="hierax")
    for path in (folder, copy):
        card = hierax.describe(path)
        assert card.license == "cc-by-nc-4.0"
        assert card.commercial is False
    assert "license: cc-by-nc-4.0" in (copy / "README.md").read_text()
    assert "no commercial use" in (copy / "README.md").read_text()


@pytest.mark.parametrize("origin", ["transformers", "timm", "birder", "meta"])
def test_understand__tensors_without_a_file(origin: str, tmp_path: Path) -> None:
    """A live network of another package has a state dict, and a config or a name that somebody gives."""
    path = written(MEMBERS["Hiera"], tmp_path / "x", origin)
    raw, whole = files.read(path), read_weights(path)
    told = understand(raw.tensors, named=MEMBERS["Hiera"])
    stated = understand(files.RawCheckpoint(Path("live"), raw.tensors, container=raw.container, config=raw.config))
    for found in (told, stated):
        assert found.config.windows == whole.config.windows
        assert found.tensors.keys() == whole.tensors.keys()
        assert all(torch.equal(found.tensors[key], whole.tensors[key]) for key in whole.tensors)
    with pytest.raises(CheckpointError):
        understand({"a": torch.zeros(1)})


@pytest.mark.parametrize("origin", ["hierax", "transformers", "timm"])
@pytest.mark.parametrize("wrong", [3, "text", [1, "a"], {"a": []}, None, True, -1, 1e400])
def test_sidecar__of_the_wrong_type(origin: str, wrong: object, tmp_path: Path) -> None:
    """Whatever stands in a JSON file, the answer is a network or an error of ours: never a traceback from inside."""
    folder = written(MEMBERS["Hiera"], tmp_path / "x", origin)
    for file in ("config.json", "preprocessor_config.json"):
        path = folder / file
        if not path.is_file():
            continue
        content = json.loads(path.read_text())
        for place, key in _places(content):
            kept, place[key] = place[key], wrong
            path.write_text(json.dumps(content))
            with contextlib.suppress(HieraxError):
                hierax.load(folder)
            place[key] = kept
        path.write_text(json.dumps(content))
    assert hierax.load(folder).labels == ["bird 0", "bird 1", "bird 2"]


def _places(content: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Every key of a document, also in inner tables."""
    inner = [found for value in content.values() if isinstance(value, dict) for found in _places(value)]
    return [*((content, key) for key in content), *inner]
