"""Files that the reference packages write, loaded by `hierax.load`, against the networks they came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import hierax
from hierax.model.encoder import Encoder
from hierax.model.mae import MaskedAutoencoder

from ..members import loud
from ..peer_files import (
    FILES,
    FileCase,
    real_meta,
    write_birder_mae,
    write_hf_folder,
    write_meta_folder,
    write_meta_pth,
)
from ..peers import birder_mae, hf_mae, meta, meta_mae, ours, peer
from ..tolerance import FP32, MAE_FP32, assert_same
from .test_encoder_parity import noise
from .test_mae_parity import Answer, apart, ask_birder, ask_hf, ask_meta, some_units

pytestmark = pytest.mark.parity

# Small enough for two cores; HieraDet pads at all of them, abswin and plain tables are resized. One is not square.
OTHER_SIZES = ((256, 256), (160, 96))


def encoder_of(case: FileCase, **options: Any) -> Encoder:
    """What `hierax.load` makes of a written file."""
    model = hierax.load(case.path, **case.options, **options).model
    assert isinstance(model, Encoder)
    return model


def fits_native(case: FileCase, model: Encoder) -> tuple[int, ...]:
    """The size to compare at: the file's own, smaller where that is SAM 2's 1024."""
    size = model.input_size
    return size if size[-1] < 512 else (*size[:-2], 224, 224)


@pytest.mark.parametrize("name", FILES)
def test_load__equals_reference(name: str, tmp_path: Path) -> None:
    """A tensor put in the wrong place, a table transposed, or a config misread would be loud here."""
    case = FILES[name](tmp_path)
    model = encoder_of(case)
    x = noise(1, 3, *fits_native(case, model))
    with torch.no_grad():
        theirs = case.reference.answers(x)
        assert_same(ours(model, x, list(theirs)), theirs, FP32)


@pytest.mark.parametrize("size", OTHER_SIZES)
@pytest.mark.parametrize(
    "name",
    [
        "sam2_pt",
        "transformers_classification",
        "transformers_sam2_vision",
        "timm_hieradet_folder",
        "birder_plain_pt",
        "birder_abswin_safetensors",
        "birder_large_windows_pt",
        "birder_hieradet_d_safetensors",
        "birder_ap_pt",
    ],
)
def test_load__other_size(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    """Each origin resizes its tables by its own rule; the wrong rule moves maps by a tenth and more."""
    case = FILES[name](tmp_path)
    model = encoder_of(case, input_size=size)
    assert model.input_size == size
    if hasattr(case.reference.module, "adjust_size"):
        case.reference.module.adjust_size(size)
    x = noise(1, 3, *size)
    with torch.no_grad():
        theirs = case.reference.answers(x)
        said = ours(model, x, list(theirs))
    assert_same({key: said[key] for key in theirs}, theirs, FP32)


@pytest.mark.parametrize("size", [96, (64, 160)])
def test_load__meta_resized(size: int | tuple[int, int], tmp_path: Path) -> None:
    """Meta cannot resize; its network built at the new size with the table resized bicubically is the truth."""
    reference = meta()
    model = hierax.load(write_meta_folder(reference.module, tmp_path / "hub"), input_size=size).model
    pixels = (size, size) if isinstance(size, int) else size
    bigger = meta(pixels)
    state = reference.module.state_dict()
    table = state["pos_embed"].reshape(1, 16, 16, -1).permute(0, 3, 1, 2)
    table = torch.nn.functional.interpolate(table, size=[p // 4 for p in pixels], mode="bicubic")
    bigger.module.load_state_dict({**state, "pos_embed": table.flatten(2).transpose(1, 2)})
    x = noise(1, 3, *pixels)
    with torch.no_grad():
        theirs = bigger.answers(x)
        assert_same(ours(model, x, list(theirs)), theirs, FP32)


def test_load__num_classes(tmp_path: Path) -> None:
    """A head that is dropped must leave the embedding alone; a new one must have the asked size."""
    case = FILES["birder_abswin_safetensors"](tmp_path)
    x = noise(1, 3, 256, 192)
    with torch.no_grad():
        kept, none, other = (encoder_of(case, **o) for o in ({}, {"num_classes": 0}, {"num_classes": 9}))
        assert kept(x).shape == (1, 6)
        assert other(x).shape == (1, 9)
        assert torch.equal(none(x), kept.embedding(x))


def test_load__birder_statistics_and_labels(tmp_path: Path) -> None:
    """The statistics and class names come from the file; defaults would be silently wrong."""
    predictor = hierax.load(FILES["birder_hieradet_d_safetensors"](tmp_path).path, name="hieradet_d_tiny")
    assert predictor.labels == [f"bird {i}" for i in range(6)]
    assert predictor.preprocess.mean == (0.51, 0.53, 0.49)
    assert predictor.preprocess.size == (256, 256)
    assert predictor.preprocess.resize == "squash"


def autoencoder(path: Path, **options: Any) -> MaskedAutoencoder:
    """What `hierax.load` makes of a masked autoencoder's file."""
    model = hierax.load(path, **options).model
    assert isinstance(model, MaskedAutoencoder)
    return model


@pytest.mark.parametrize("kind", ["meta", "meta_video", "transformers"])
def test_load__mae(kind: str, tmp_path: Path) -> None:
    """A decoder whose fusion heads or head count were guessed wrong would be loud."""
    if kind == "transformers":
        reference, ask, units = hf_mae(), ask_hf, 4
        path = write_hf_folder(reference.module, tmp_path / "hf")
    else:
        reference = meta_mae((4, 64, 64) if kind == "meta_video" else (64, 64))
        ask, units = ask_meta, 8 if kind == "meta_video" else 4
        path = write_meta_folder(reference.module, tmp_path / "hub")
    model = autoencoder(path)
    x = noise(2, 3, *model.config.input_size)
    visible = some_units(units, units // 2)
    with torch.no_grad():
        theirs: Answer = ask(reference, x, visible, units)
        said = model(x, visible=visible)
    assert max(apart(theirs, said).values()) <= MAE_FP32


def test_load__mae_real_size(tmp_path: Path) -> None:
    """Meta's mae_hiera_tiny_224 as a bare .pth: everything must follow from the shapes."""
    module = real_meta("mae_hiera_tiny_224")
    model = autoencoder(write_meta_pth(module, tmp_path / "x.pth"))
    x, visible = noise(1, 3, 224, 224), some_units(49, 19, batch=1)
    with torch.no_grad():
        mask = torch.zeros(1, 49, dtype=torch.bool).scatter(1, visible, True)
        loss, prediction, label, _ = module(x, mask=mask)
        said = model(x, visible=visible)
    assert max(apart(Answer(loss, prediction, label), said).values()) <= FP32


def test_load__mae_birder(tmp_path: Path) -> None:
    """birder's masked autoencoder over abswin tiny, three query pools."""
    net = peer("birder.model_registry").registry
    peer("birder.net.hiera")
    encoder = net.net_factory("hiera_abswin_tiny", 0, size=(224, 224))
    reference = birder_mae()
    reference.module = loud(peer("birder.net.mim.mae_hiera").MAE_Hiera(encoder, size=(224, 224)))
    path = write_birder_mae(reference.module, tmp_path / "mae.pt")
    model = autoencoder(path, name="mae_hiera_hiera_abswin_tiny")
    x, visible = noise(1, 3, 224, 224), some_units(49, 19, batch=1)
    with torch.no_grad():
        theirs = ask_birder(reference, x, visible, 49)
        said = model(x, visible=visible)
    assert max(apart(theirs, said).values()) <= FP32
