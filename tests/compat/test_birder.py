"""`hierax.compat.birder` against birder itself: same files, same images, same numbers."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hierax.compat.birder as ours
from hierax.compat.birder.inference.classification import infer_batch, infer_image
from hierax.errors import CheckpointError, InputError, UnknownNameError

from ..members import photograph, write_photographs
from ..peer_files import real_birder, write_birder_pt, write_birder_safetensors
from ..peers import peer
from ..tolerance import FP32, LOUD, distance

pytestmark = pytest.mark.parity

SMALL = {"depths": [1, 2, 3, 1], "embed_dim": 16, "num_heads": 1}
DET = {"depths": [1, 2, 5, 2], "embed_dim": 16, "num_heads": 1, "global_att_blocks": [4, 6]}
# Network, size, its classes, what makes it small.
CASES: dict[str, tuple[str, tuple[int, int], int, dict[str, Any]]] = {
    "plain": ("hiera_tiny", (64, 64), 5, SMALL),
    "abswin": ("hiera_abswin_tiny", (96, 64), 5, SMALL),
    "attention_pool": ("hiera_abswin_base_plus_ap", (64, 64), 5, {**SMALL, "attn_pool_num_heads": 2, "num_heads": 2}),
    "hieradet": ("hieradet_tiny", (128, 128), 5, DET),
    "hieradet_d": ("hieradet_d_tiny", (96, 128), 5, DET),
    "fractional_windows": ("hieradet_tiny", (96, 96), 0, {**DET, "window_spec": [8, 4, -16, -32]}),
}


def pair(case: str, folder: Path, suffix: str = "pt", **options: Any) -> tuple[Any, Any, Any, Any]:
    """birder's network and information, ours, of one file that birder wrote."""
    name, size, classes, config = CASES[case]
    module = real_birder(name, classes, size, **config)
    written = {"size": size, "classes": classes, "config": config}
    if suffix == "pt":
        path = write_birder_pt(module, folder, **written)
    else:
        path = write_birder_safetensors(module, folder / "net.safetensors", **written)
    load = peer("birder.common.fs_ops").load_model
    settings = {"inference": True, **options}
    reference, info = load(torch.device("cpu"), name, path=path, st=suffix != "pt", **settings)
    net, mine = ours.load_pretrained_model(name, dst=path, **settings)
    return reference, info, net, mine


def images(*size: int) -> torch.Tensor:
    """Seeded input."""
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


def assert_same_answers(net: Any, reference: Any, size: tuple[int, int]) -> None:
    """Every method of the network gives what birder's gives."""
    x = images(*size)
    with torch.no_grad():
        for method in ("forward", "embedding", "forward_features"):
            got, expected = getattr(net, method)(x), getattr(reference, method)(x)
            assert distance(got, expected) <= FP32, method
        features = reference.forward_features(x)
        assert distance(net.embedding_from_features(features), reference.embedding_from_features(features)) <= FP32
        got, expected = net.detection_features(x), reference.detection_features(x)
    assert list(got) == list(expected)
    for name, value in expected.items():
        assert got[name].is_contiguous(), name
        assert distance(got[name], value) <= FP32, name


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("case", CASES)
def test_network__same_file(case: str, suffix: str, tmp_path: Path) -> None:
    """Pooling before the norm, windows of another size or a table transposed would be loud."""
    reference, info, net, mine = pair(case, tmp_path, suffix)
    assert_same_answers(net, reference, CASES[case][1])
    assert mine._asdict() == info._asdict()
    for name in ("size", "num_classes", "embedding_size", "return_channels", "return_stages", "max_stride", "task"):
        assert getattr(net, name) == getattr(reference, name), name
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("case", CASES)
def test_state_dict__their_names(case: str, tmp_path: Path) -> None:
    """A state dict under other names or layouts could not be exchanged with birder."""
    reference, _, net, _ = pair(case, tmp_path)
    theirs = reference.state_dict()
    mine = net.state_dict()
    assert set(mine) == set(theirs)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    net.load_state_dict({name: tensor + 1 for name, tensor in theirs.items()})
    assert all(torch.equal(net.state_dict()[name], theirs[name] + 1) for name in theirs)


@pytest.mark.parametrize("size", [(160, 160), (96, 160)])
@pytest.mark.parametrize("case", CASES)
def test_adjust_size(case: str, size: tuple[int, int], tmp_path: Path) -> None:
    """Abswin tables are resized twice; one resize moves the maps by more than 100 tolerances."""
    reference, _, net, _ = pair(case, tmp_path / "a")
    _, _, other, _ = pair(case, tmp_path / "b", new_size=size)
    reference.adjust_size(size)
    net.adjust_size(size)
    assert net.size == reference.size == other.size == size
    assert_same_answers(net, reference, size)
    assert_same_answers(other, reference, size)


def test_copy__keeps_its_own_state(tmp_path: Path) -> None:
    """Names bound to the original would spell a copy's tables with the original's size."""
    _, _, net, _ = pair("abswin", tmp_path)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        twin.adjust_size((128, 128))
        assert twin.state_dict()["pos_embed"].shape[2:] == (8, 8)
        assert net.state_dict()["pos_embed"].shape[2:] == (6, 4)


def test_adjust_size__is_needed(tmp_path: Path) -> None:
    """Hiera at another size without adjusting gives numbers that birder never gives."""
    _, _, net, _ = pair("abswin", tmp_path)
    with pytest.raises(InputError, match="adjust_size"):
        net(images(128, 128))
    with pytest.raises(InputError, match="multiple of 32"):
        net.adjust_size((100, 100))
    encoder = net.encoder
    with torch.no_grad():
        direct = encoder.embedding(images(128, 128))
        net.adjust_size((128, 128))
        assert distance(net.embedding(images(128, 128)), direct) > LOUD * FP32


# --- transform and inference ----------------------------------------------------------------------------------------

STATS = {"mean": (0.51, 0.53, 0.49), "std": (0.23, 0.24, 0.26)}


@pytest.mark.parametrize(
    "options", [{}, {"center_crop": 0.875}, {"simple_crop": True}, {"center_crop": 0.9, "simple_crop": True}]
)
@pytest.mark.parametrize("size", [(224, 224), (256, 160)])
def test_transform__jpegs(size: tuple[int, int], options: dict[str, Any], tmp_path: Path) -> None:
    """Keeping the aspect ratio where birder squashes, or a crop rounded otherwise, is off by grey levels."""
    theirs = peer("birder.data.transforms.classification").inference_preset(size, STATS, **options)
    mine = ours.classification_transform(size, rgv_values=STATS, **options)
    for path in write_photographs(tmp_path):
        image = Image.open(path)
        assert distance(mine(image), theirs(image)) <= FP32, path.name


def test_transform__modes() -> None:
    """birder broadcasts grey and refuses alpha; here every mode gives what its RGB version gives."""
    theirs = peer("birder.data.transforms.classification").inference_preset((64, 96), STATS)
    mine = ours.classification_transform((64, 96), STATS)
    image = photograph(120, 90)
    grey = image.convert("L")
    assert distance(mine(grey), theirs(grey)) <= FP32
    opaque = image.copy()
    opaque.putalpha(255)
    assert torch.equal(mine(opaque), mine(image))
    for mode in ("LA", "P", "1", "CMYK", "I;16", "F", "YCbCr"):
        assert mine(image.convert("L").convert(mode) if mode in ("I;16", "F", "LA") else image.convert(mode)).shape == (
            3,
            64,
            96,
        )
    turned = image.copy()
    turned.getexif()[0x0112] = 6
    turned.info["exif"] = turned.getexif().tobytes()
    assert distance(mine(turned), theirs(turned)) <= FP32
    with pytest.raises(InputError, match="PIL image"):
        mine(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError):
        ours.classification_transform(224, STATS)


@pytest.mark.parametrize("case", ["plain", "hieradet_d", "fractional_windows"])
@pytest.mark.parametrize(
    "options", [{}, {"return_embedding": True}, {"tta": True}, {"return_logits": True, "tta": True}]
)
def test_infer_image__jpegs(case: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Logits for probabilities, an embedding nobody asked for, or crops in another place would show."""
    reference, info, net, mine = pair(case, tmp_path / "m")
    theirs = peer("birder.inference.classification")
    size = ours.get_size_from_signature(mine.signature)
    assert size == peer("birder").get_size_from_signature(info.signature)
    assert ours.get_channels_from_signature(mine.signature) == 3
    expected_transform = peer("birder").classification_transform(size, info.rgb_stats)
    transform = ours.classification_transform(size, mine.rgb_stats)
    for path in write_photographs(tmp_path)[:2]:
        expected, expected_embedding = theirs.infer_image(reference, str(path), expected_transform, **options)
        for sample in (str(path), Image.open(path), path):
            out, embedding = infer_image(net, sample, transform, **options)
            assert out.dtype == np.float32
            assert out.shape == expected.shape
            assert np.abs(out - expected).max() <= FP32 * max(1, np.abs(expected).max())
            assert (embedding is None) == (expected_embedding is None)
            if embedding is not None:
                assert embedding.dtype == np.float32
                assert np.abs(embedding - expected_embedding).max() <= FP32 * max(1, np.abs(expected_embedding).max())


def test_infer_batch__precision_and_gradients(tmp_path: Path) -> None:
    """A network in bfloat16, or with gradients on, answers too."""
    _, _, net, _ = pair("plain", tmp_path)
    expected, _ = infer_batch(net, images(64, 64))
    assert expected.shape == (2, 5)
    assert np.allclose(expected.sum(1), 1, atol=1e-6)
    net.requires_grad_(True)
    assert np.array_equal(infer_batch(net, images(64, 64))[0], expected)
    out, embedding = infer_batch(net.to(torch.bfloat16), images(64, 64), return_embedding=True)
    assert out.dtype == embedding.dtype == np.float32
    assert np.abs(out - expected).max() < 0.1


def test_infer_image__refuses(tmp_path: Path) -> None:
    """A missing or broken file must not become a vector, nor a traceback of Pillow."""
    _, _, net, _ = pair("plain", tmp_path / "m")
    transform = ours.classification_transform((64, 64), STATS)
    (tmp_path / "text.jpg").write_text("no image")
    whole = write_photographs(tmp_path)[0]
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[:3000])
    for sample in (
        tmp_path / "none.jpg",
        tmp_path / "text.jpg",
        tmp_path / "cut.jpg",
        3,
        Image.open(tmp_path / "cut.jpg"),
    ):
        with pytest.raises(InputError):
            infer_image(net, sample, transform)


# --- loading --------------------------------------------------------------------------------------------------------


def test_load__training_mode_and_options(tmp_path: Path) -> None:
    """Without inference=True birder's network trains; dtype and window overrides are honoured."""
    reference, _, net, _ = pair("hieradet", tmp_path, inference=False)
    assert net.training
    assert reference.training
    assert all(p.requires_grad for p in net.parameters())
    _, _, half, _ = pair("plain", tmp_path / "h", dtype=torch.bfloat16)
    assert next(half.parameters()).dtype == torch.bfloat16
    name, size, classes, config = CASES["hieradet"]
    path = write_birder_pt(
        real_birder(name, classes, size, **config), tmp_path / "w", size=size, classes=classes, config=config
    )
    spec = {"window_spec": [8, 4, 16, 8]}
    theirs, _ = peer("birder.common.fs_ops").load_model(
        torch.device("cpu"), name, path=path, config=spec, inference=True
    )
    mine, _ = ours.load_pretrained_model(name, dst=path, custom_config=spec, inference=True)
    assert_same_answers(mine, theirs, size)
    with pytest.raises(UnknownNameError, match="window_spec"):
        ours.load_pretrained_model(name, dst=path, custom_config={"windows": [8, 4, 16, 8]})


def test_load__folder_and_both_names(tmp_path: Path) -> None:
    """The old name of the renamed weights means dynamic windows: with fixed ones 256 pixels differ by 0.2."""
    old, new = "hieradet_small_dino-v2-imagenet12k", "hieradet_d_small_dino-v2-imagenet12k"
    config = {**DET, "window_spec": [8, 4, 0, 0]}
    module = real_birder("hieradet_d_small", 7, (256, 256), **DET)
    written = write_birder_pt(module, tmp_path / "w", size=(256, 256), classes=7, config=config)
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "other.pt").write_bytes(b"x")
    (folder / f"{new}.pt").write_bytes(written.read_bytes())
    x = images(256, 256)
    with torch.no_grad():
        expected = module(x)
        for name in (old, new):
            net, info = ours.load_pretrained_model(name, dst=folder, inference=True, progress_bar=False)
            assert distance(net(x), expected) <= FP32
            assert info.class_to_idx["bird 3"] == 3
            assert info.signature["outputs"][0]["data_shape"] == [0, 7]
    net, info, transform = ours.load_pretrained_model_and_transform(
        new, dst=folder, classification_kwargs={"center_crop": 0.9}
    )
    assert transform(photograph(90, 70)).shape == (3, 256, 256)
    assert not net.training


def test_load__refuses(tmp_path: Path) -> None:
    """A wrong name, place or format must say what would be right."""
    with pytest.raises(UnknownNameError, match="hieradet_small_sam2_1"):
        ours.load_pretrained_model("hieradet_smal_sam2_1")
    with pytest.raises(CheckpointError, match="does not exist"):
        ours.load_pretrained_model("hieradet_small_sam2_1", dst=tmp_path / "none.pt")
    with pytest.raises(UnknownNameError, match="never runs code"):
        ours.load_pretrained_model("hieradet_small_sam2_1", file_format="pts")
    with pytest.raises(UnknownNameError, match="'pt' only"):
        ours.load_pretrained_model("hieradet_small_sam2_1", file_format="safetensors")
    with pytest.raises(UnknownNameError, match="no birder model"):
        ours.load_pretrained_model("hiera_base_224")
    with pytest.raises(InputError, match="signature"):
        ours.get_size_from_signature({"inputs": []})


def test_list__names_that_load() -> None:
    """A listed name that nobody knows, or a network of another family, would not load."""
    names = ours.list_pretrained_models()
    assert names == sorted(names)
    assert "hieradet_small_sam2_1" in names
    assert ours.list_pretrained_models("hieradet_*imagenet12k") == [
        "hieradet_d_small_dino-v2-imagenet12k",
        "hieradet_small_dino-v2-imagenet12k",
    ]
