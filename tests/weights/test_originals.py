"""What we write, opened by the original packages' own loaders: nothing missing, nothing unexpected, same numbers."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hierax
from hierax.config import ARCHITECTURES, DecoderConfig, ModelConfig
from hierax.weights.card import Weights
from hierax.weights.network import to_module
from hierax.weights.understand import read_weights
from hierax.weights.write import write_weights

from ..members import MEMBERS, answer, weights_of
from ..parity.test_mae_parity import apart
from ..parity.test_mae_parity import ask_hf as masked_hf
from ..peers import (
    Reference,
    ask_birder,
    ask_hf,
    ask_hf_sam2,
    ask_meta,
    ask_timm,
    hf_config,
    loud,
    named_stages,
    peer,
)
from ..tolerance import FP32, assert_same

pytestmark = pytest.mark.parity
Ask = Callable[[nn.Module, Tensor], dict[str, Tensor]]


def noise(config: ModelConfig, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, *config.input_size, generator=torch.Generator().manual_seed(3))


def compare(module: Any, ask: Ask, weights: Weights, skip: tuple[str, ...] = ()) -> None:
    """Everything that the original package can say about an image, against our own encoder."""
    x = noise(weights.config)
    ours = to_module(weights).eval()
    with torch.no_grad():
        theirs = {key: value for key, value in ask(module.eval(), x).items() if key not in skip}
        said = {**ours.detection_features(x), "embedding": ours.embedding(x), "logits": ours(x)}
    assert_same({key: said[key] for key in theirs}, theirs, FP32)


# --- Meta ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("member", ["Hiera", "Hiera video"])
def test_meta__class(member: str, tmp_path: Path) -> None:
    """Meta's constructor takes the arguments in the file, and its strict loader the state."""
    weights = weights_of(MEMBERS[member])
    data = torch.load(write_weights(weights, tmp_path / "x.pth", to="meta"), weights_only=True)
    module = peer("hiera").Hiera(**data["config"])
    module.load_state_dict(data["model_state"], strict=True)
    compare(module, ask_meta, weights)


def test_meta__hub_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`hiera_tiny_224(pretrained=True)`, fed our file instead of a download."""
    weights = weights_of(dataclasses.replace(ARCHITECTURES["hiera_tiny_224"], num_classes=4))
    path = write_weights(weights, tmp_path, to="meta")
    hiera = peer("hiera")
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: torch.load(path, weights_only=True))
    compare(hiera.hiera_tiny_224(pretrained=True), ask_meta, weights)


def test_meta__mixin_folder(tmp_path: Path) -> None:
    """`Hiera.from_pretrained(folder)` reads model.safetensors with the arguments in config.json."""
    weights = weights_of(MEMBERS["Hiera"])
    write_weights(weights, tmp_path / "model.safetensors", to="meta")
    compare(peer("hiera").Hiera.from_pretrained(str(tmp_path)), ask_meta, weights)


@pytest.mark.parametrize("member", ["Hiera MAE", "Hiera video MAE"])
def test_meta__autoencoder(member: str, tmp_path: Path) -> None:
    """The decoder arrives whole: the loss on one mask is the same."""
    config = MEMBERS[member]
    weights = weights_of(config)
    data = torch.load(write_weights(weights, tmp_path / "x.pth", to="meta"), weights_only=True)
    module = peer("hiera").MaskedAutoencoderHiera(**data["config"]).eval()
    module.load_state_dict(data["model_state"], strict=True)
    x, ours = noise(config), to_module(weights).eval()
    visible = torch.tensor([[0, 2]])
    mask = torch.zeros(1, ours.num_units(config.input_size), dtype=torch.bool).scatter(1, visible, True)
    with torch.no_grad():
        loss, prediction, *_ = module(x, mask=mask)
        said = ours(x, visible=visible)
    assert_same(
        {"loss": said.loss, "prediction": said.prediction.flatten(0, 1)}, {"loss": loss, "prediction": prediction}
    )


# --- timm ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "member",
    [
        "Hiera",
        "Hiera without classes",
        "timm abswin",
        "timm small abswin",
        "birder abswin",
        "timm HieraDet",
        "timm SAM 2 (trained norm)",
        "SAM 2 trunk",
    ],
)
def test_timm__local_folder(member: str, tmp_path: Path) -> None:
    """timm builds the network from config.json alone and loads it strictly."""
    peer("timm")
    import timm

    weights = weights_of(MEMBERS[member])
    folder = write_weights(weights, tmp_path / "timm", to="timm")
    module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    skip = ("embedding",) if member == "SAM 2 trunk" else ()
    compare(module, ask_timm, weights, skip)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_timm__load_checkpoint(suffix: str, tmp_path: Path) -> None:
    """`timm.models.load_checkpoint` takes the bare file; the settings beside it name the network."""
    peer("timm")
    import json

    import timm
    from timm.models import load_checkpoint

    weights = weights_of(MEMBERS["Hiera"])
    path = write_weights(weights, tmp_path / f"x.{suffix}", to="timm")
    data = json.loads(path.with_suffix(".json").read_text())
    module = timm.create_model(data["architecture"], num_classes=data["num_classes"], **data["model_args"])
    load_checkpoint(module, str(path), strict=True)
    compare(module, ask_timm, weights)


def test_timm__preprocess(tmp_path: Path) -> None:
    """The recipe goes along: timm would otherwise crop and colour by its own defaults."""
    peer("timm")
    import timm

    folder = write_weights(weights_of(MEMBERS["Hiera"]), tmp_path / "timm", to="timm")
    module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    recipe = timm.data.resolve_model_data_config(module)
    assert tuple(recipe["mean"]) == (0.1, 0.2, 0.3)
    assert tuple(recipe["std"]) == (0.4, 0.5, 0.6)
    assert recipe["crop_pct"] == 0.8
    assert tuple(recipe["input_size"]) == (3, 64, 64)


# --- transformers -------------------------------------------------------------------------------------------------


def from_pretrained(name: str, folder: Path) -> Any:
    """A transformers model, refusing anything missing, unexpected or mismatched."""
    transformers = peer("transformers")
    kind = getattr(transformers, name, None) or getattr(peer("transformers.models.sam2.modeling_sam2"), name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return module.eval()


def test_transformers__classifier(tmp_path: Path) -> None:
    """Names, labels and the pooled norm."""
    weights = weights_of(MEMBERS["Hiera"])
    module = from_pretrained("HieraForImageClassification", write_weights(weights, tmp_path / "hf", to="transformers"))
    assert module.config.id2label == {0: "bird 0", 1: "bird 1", 2: "bird 2"}
    compare(module, ask_hf, weights)


def test_transformers__model(tmp_path: Path) -> None:
    """Without classes the folder is a HieraModel, and AutoModel finds it."""
    weights = weights_of(MEMBERS["Hiera without classes"])
    folder = write_weights(weights, tmp_path / "hf", to="transformers")
    module = from_pretrained("HieraModel", folder)
    assert type(peer("transformers").AutoModel.from_pretrained(folder)).__name__ == "HieraModel"

    def ask(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
        out = model(x, output_hidden_states=True)
        maps = [m.permute(0, 3, 1, 2) for m in out.reshaped_hidden_states[1:]]
        return {**named_stages(maps), "embedding": out.pooler_output}

    compare(module, ask, weights)


def test_transformers__autoencoder(tmp_path: Path) -> None:
    """The decoder arrives whole: predictions on one mask are the same."""
    config = MEMBERS["Hiera MAE"]
    weights = weights_of(config)
    module = from_pretrained("HieraForPreTraining", write_weights(weights, tmp_path / "hf", to="transformers"))
    x = noise(config)
    visible = torch.tensor([[0, 2]])
    with torch.no_grad():
        theirs = masked_hf(Reference(module, config, ask_hf, str), x, visible, 4)
        said = to_module(weights).eval()(x, visible=visible)
    assert max(apart(theirs, said).values()) <= FP32


def test_transformers__trunk(tmp_path: Path) -> None:
    """SAM 2's trunk as a Sam2HieraDetModel."""
    weights = weights_of(MEMBERS["SAM 2 trunk"])
    folder = write_weights(weights, tmp_path / "hf", to="transformers")
    compare(from_pretrained("Sam2HieraDetModel", folder), ask_hf_sam2, weights)


def test_transformers__backbone_comes_back(tmp_path: Path) -> None:
    """A HieraBackbone folder keeps its stage norms through us, for they are trained in detectors."""
    transformers = peer("transformers")
    config = hf_config((64, 64), (1, 2, 3, 1), 8, out_features=["stage1", "stage2", "stage3", "stage4"])
    module = loud(transformers.HieraBackbone(config))
    module.save_pretrained(tmp_path / "a")
    predictor = hierax.load(tmp_path / "a")
    again = from_pretrained("HieraBackbone", predictor.save(tmp_path / "b", format="transformers"))
    theirs = module.state_dict()
    assert all(torch.equal(theirs[key], value) for key, value in again.state_dict().items())


@pytest.mark.parametrize(
    ("member", "processor"), [("Hiera", "BitImageProcessor"), ("SAM 2 trunk", "Sam2ImageProcessor")]
)
def test_transformers__processor(member: str, processor: str, tmp_path: Path) -> None:
    """AutoImageProcessor opens the folder and has our statistics."""
    folder = write_weights(weights_of(MEMBERS[member]), tmp_path / "hf", to="transformers")
    found = peer("transformers").AutoImageProcessor.from_pretrained(folder)
    assert type(found).__name__.startswith(processor)
    assert list(found.image_mean) == [0.1, 0.2, 0.3]


# --- birder -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize(
    ("member", "network"),
    [
        ("Hiera", "hiera_tiny"),
        ("Hiera without classes", "hiera_tiny"),
        ("birder abswin", "hiera_abswin_tiny"),
        ("birder abswin, attention pool", "hiera_abswin_base_plus_ap"),
        ("birder HieraDet", "hieradet_tiny"),
        ("birder HieraDet, global stages", "hieradet_d_tiny"),
        ("SAM 2 trunk", "hieradet_tiny"),
    ],
)
def test_birder__load_model(member: str, network: str, suffix: str, tmp_path: Path) -> None:
    """birder's own loader builds the network from the file's config and signature, strictly."""
    weights = weights_of(MEMBERS[member])
    path = write_weights(weights, tmp_path / f"net.{suffix}", to="birder")
    peer("birder.net.hiera"), peer("birder.net.hieradet")
    module, info = peer("birder.common.fs_ops").load_model(
        torch.device("cpu"), network, path=path, inference=True, st=suffix == "safetensors"
    )
    assert list(info.rgb_stats["mean"]) == [0.1, 0.2, 0.3]
    assert len(info.class_to_idx) == weights.config.num_classes
    compare(module, ask_birder, weights, ("embedding",) if member == "SAM 2 trunk" else ())


def test_birder__pretrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`load_pretrained_model(name, dst=file)` of a released name, on a file of ours."""
    weights = weights_of(dataclasses.replace(ARCHITECTURES["hieradet_d_small"], num_classes=5, input_size=(64, 64)))
    path = write_weights(weights, tmp_path / "net.pt", to="birder")
    assert "config" not in torch.load(path, weights_only=True)  # a registered network needs none
    fs_ops = peer("birder.common.fs_ops")
    peer("birder.net.hieradet")
    monkeypatch.setattr(fs_ops, "download_model_by_weights", lambda *_, **__: None)
    module, _ = fs_ops.load_pretrained_model("hieradet_d_small_dino-v2-inat21", dst=path, inference=True)
    compare(module, ask_birder, weights)


def test_birder__autoencoder(tmp_path: Path) -> None:
    """birder's MAE loads our file strictly and is ours again on the way back."""
    weights = weights_of(MEMBERS["birder MAE"])
    path = write_weights(weights, tmp_path / "net.pt", to="birder")
    data = torch.load(path, weights_only=True)
    peer("birder.net.hiera")
    registry = peer("birder.model_registry").registry
    encoder = registry.net_factory("hiera_tiny", 0, config=data["encoder_config"], size=(64, 64))
    module = peer("birder.net.mim.mae_hiera").MAE_Hiera(encoder, size=(64, 64))
    module.load_state_dict(data["state"], strict=True)
    torch.save({**data, "state": module.state_dict()}, tmp_path / "back.pt")
    expected = answer(weights)
    assert_same(answer(read_weights(tmp_path / "back.pt")), expected, 0)


# --- SAM 2 --------------------------------------------------------------------------------------------------------


def build_sam2(path: Path | None) -> Any:
    return peer("sam2.build_sam").build_sam2("configs/sam2.1/sam2.1_hiera_t.yaml", path and str(path), device="cpu")


def test_sam2__trunk_swapped(tmp_path: Path) -> None:
    """A tuned trunk goes back into the whole file: SAM 2's strict loader takes it, and all else is bit for bit there."""
    pytest.importorskip("hydra")
    whole = build_sam2(None)
    file = tmp_path / "sam2.1_hiera_tiny.pt"
    torch.save({"model": whole.state_dict()}, file)
    before = file.read_bytes()
    predictor = hierax.load(file)
    with torch.no_grad():
        for parameter in predictor.model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape))
    tuned = predictor.save(tmp_path / "tuned")
    assert hierax.convert(tuned, file, to="sam2") == file
    swapped = build_sam2(file).eval()
    old, new = whole.state_dict(), swapped.state_dict()
    trunk = "image_encoder.trunk."
    assert list(torch.load(file, weights_only=True)["model"]) == list(old)
    assert all(torch.equal(old[key], new[key]) for key in old if not key.startswith(trunk))
    assert not any(torch.equal(old[key], new[key]) for key in old if key.startswith(trunk))
    assert file.with_name("sam2.1_hiera_tiny.pt.bak").read_bytes() == before
    x = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        maps = named_stages(swapped.image_encoder.trunk(x))
        assert_same(predictor.model.detection_features(x), maps, FP32)
    # What was loaded from the whole file writes the whole file, too.
    kept = torch.load(predictor.save(tmp_path / "again.pt", format="sam2"), weights_only=True)["model"]
    assert all(torch.equal(old[key], kept[key]) for key in old if not key.startswith(trunk))


def test_decoder_heads__unknown_to_shapes() -> None:
    """The member list must keep a decoder whose heads are not the default, or nothing would notice losing them."""
    assert MEMBERS["Hiera MAE"].decoder != DecoderConfig()
