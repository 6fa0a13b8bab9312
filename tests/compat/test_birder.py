"""`hierax.compat.birder` against birder itself: same files, same images, same numbers."""

from __future__ import annotations

import copy
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hierax.compat.birder as ours
from hierax.compat.birder.inference.classification import evaluate, infer_batch, infer_dataloader, infer_image
from hierax.compat.birder.results.classification import Results
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


# --- data loaders, descriptions, results ------------------------------------------------------------------------------


def folders(place: Path) -> Path:
    """Twelve pictures in three class folders, and one in a folder that is no class."""
    for number in range(13):
        folder = place / ("ant", "bee", "cat")[number % 3] if number < 12 else place / "unknown"
        folder.mkdir(parents=True, exist_ok=True)
        photograph(90 + number, 70).rotate(number * 20).save(folder / f"{number}.png")
    return place


def loaders(place: Path, size: tuple[int, int], transform: Any, theirs: Any) -> tuple[Any, Any]:
    """birder's data loader and ours, over the same folders."""
    from hierax.compat.birder.data.datasets.directory import class_to_idx_from_paths, make_image_dataset

    reference = peer("birder.data.datasets.directory")
    classes = class_to_idx_from_paths([str(place / "train")])
    assert classes == reference.class_to_idx_from_paths([str(place / "train")])
    want = reference.make_image_dataset([str(place / "train")], classes, theirs, reference.pil_rgb_loader)
    mine = make_image_dataset([str(place / "train")], classes, transform)
    assert len(mine) == len(want) == 13
    load = torch.utils.data.DataLoader
    return load(want, batch_size=5), load(mine, batch_size=5)


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """birder's network and ours with four classes, and a loader of each over the same pictures."""
    place = tmp_path_factory.mktemp("loaders")
    folders(place / "train")
    CASES["four"] = ("hiera_tiny", (64, 64), 4, SMALL)
    reference, info, net, mine = pair("four", place / "m")
    del CASES["four"]
    theirs = peer("birder").classification_transform((64, 64), info.rgb_stats)
    mine_transform = ours.classification_transform((64, 64), mine.rgb_stats)
    return reference, net, *loaders(place, (64, 64), mine_transform, theirs)


@pytest.mark.parametrize(
    "options", [{}, {"return_embedding": True}, {"tta": True, "return_logits": True}, {"channels_last": True}], ids=str
)
def test_infer_dataloader(options: dict[str, Any], three_classes: Any) -> None:
    """Labels in another order than the paths, or embeddings joined where birder leaves a list, would show."""
    reference, net, theirs, mine = three_classes
    want = peer("birder.inference.classification").infer_dataloader(torch.device("cpu"), reference, theirs, **options)
    heard: list[tuple[list[str], Any, Any]] = []
    got = infer_dataloader(
        torch.device("cpu"), net, mine, **options, num_samples=13, batch_callback=lambda *seen: heard.append(seen)
    )
    assert [type(part) for part in got] == [type(part) for part in want]
    assert got[0] == want[0]
    assert got[1].dtype == want[1].dtype
    assert np.abs(got[1] - want[1]).max() <= FP32 * max(1, np.abs(want[1]).max())
    assert np.array_equal(got[2], want[2])
    assert len(got[3]) == len(want[3])
    for a, b in zip(got[3], want[3], strict=True):
        assert np.abs(a - b).max() <= FP32 * max(1, np.abs(b).max())
    assert [len(paths) for paths, *_ in heard] == [5, 5, 3]


def test_infer_dataloader__chunks(three_classes: Any) -> None:
    """A chunk that ends within a batch, or loses the last one, gives other rows than birder."""
    reference, net, theirs, mine = three_classes
    infer = peer("birder.inference.classification").infer_dataloader
    for size in (1, 5, 6, 100):
        want = [len(part[0]) for part in infer(torch.device("cpu"), reference, theirs, chunk_size=size)]
        got = [len(part[0]) for part in infer_dataloader("cpu", net, mine, chunk_size=size)]
        assert got == want
    net = copy.deepcopy(net)  # it stays in the type that it was asked in
    half, *_ = infer_dataloader(torch.device("cpu"), net, mine, model_dtype=torch.bfloat16)
    assert next(net.parameters()).dtype == torch.bfloat16
    assert len(half) == 13
    out = infer_dataloader(torch.device("cpu"), net, mine, amp=True, amp_dtype=torch.bfloat16)[1]
    assert out.dtype == np.float32
    with pytest.raises(InputError, match="at least one batch"):
        infer_dataloader(torch.device("cpu"), net, [])
    with pytest.raises(InputError, match="paths, images, labels"):
        infer_dataloader(torch.device("cpu"), net, [torch.zeros(2, 3, 64, 64)])


def test_evaluate(three_classes: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Unlabelled samples that count, classes by another number, or another mean of F1 would differ."""
    reference, net, theirs, mine = three_classes
    classes = {"ant": 0, "bee": 1, "cat": 2, "dog": 3}
    assert ours.evaluate_classification is evaluate
    want = peer("birder").evaluate_classification(torch.device("cpu"), reference, theirs, classes)
    got = evaluate(torch.device("cpu"), net, mine, classes)
    assert_same_results(got, want)
    got.pretty_print()
    assert "Accuracy" in capsys.readouterr().out
    with pytest.raises(InputError, match="class_to_idx"):
        evaluate(torch.device("cpu"), net, mine, {"ant": 0})
    with pytest.raises(InputError, match="sparse"):
        evaluate(torch.device("cpu"), net, mine, classes, sparse=True)


def assert_same_results(got: Any, want: Any) -> None:
    """Every measure of birder's results."""
    assert len(got) == len(want)
    assert repr(got) == repr(want)
    for name in ("accuracy", "top_k", "macro_f1_score"):
        assert getattr(got, name) == pytest.approx(getattr(want, name), abs=1e-9, nan_ok=True), name
    for name in ("labels", "predictions", "unique_labels", "confusion_matrix", "valid_idx"):
        assert np.array_equal(getattr(got, name), getattr(want, name)), name
    assert np.abs(got.output - want.output).max() <= FP32
    assert got.label_names == want.label_names
    assert got.prediction_names == want.prediction_names.to_list()
    assert got.missing_labels == want.missing_labels
    assert got.mistakes.height == want.mistakes.height
    for name in ("detailed_report", "to_dataframe"):
        a, b = getattr(got, name)(), getattr(want, name)()
        assert a.columns == b.columns
        for column in a.columns:
            x, y = a[column].to_list(), b[column].to_list()
            assert x == y if isinstance(x[0], str) else np.allclose(x, y, atol=FP32), column
    a, b = got.most_confused_pairs(3), want.most_confused_pairs(3)
    # Where fewer pairs are mixed up, birder fills the table with classes and themselves, at -1.
    assert sorted(a["amount"].to_list() if len(a) else []) == sorted(n for n in b["amount"].to_list() if n > 0)


@pytest.mark.parametrize("classes", [2, 4, 9])
def test_results__random(classes: int) -> None:
    """Closed forms that hold for one table only would differ on others."""
    random = np.random.default_rng(classes)
    for count in (1, 7, 60):
        output = random.dirichlet(np.ones(classes), count).astype(np.float32)
        labels = random.integers(-1 if count > 1 else 0, classes, count)
        names = [f"n{number:03d}.jpg" for number in random.permutation(count)]
        given = (names, labels, [f"class {index}" for index in range(classes)], output)
        if (labels >= 0).any():
            want = peer("birder.results.classification").Results(*given)
            got = Results(*given)
            assert_same_results(got, want)
            if count == 60:
                assert_same_results(got.filter_by_labels([0, 1]), want.filter_by_labels([0, 1]))
    with pytest.raises(AttributeError, match="pretty_print"):
        _ = got.pretty_prin
    with pytest.raises(InputError, match="indices of"):
        Results(["a"], [classes], [f"class {index}" for index in range(classes)], output[:1])


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("case", CASES)
def test_load_model_with_cfg(case: str, suffix: str, tmp_path: Path) -> None:
    """A description that is read for its name alone builds the registered network, not the described one."""
    name, size, classes, config = CASES[case]
    module = real_birder(name, classes, size, **config)
    written = {"size": size, "classes": classes, "config": config}
    if suffix == "pt":
        path = write_birder_pt(module, tmp_path, **written)
    else:
        path = write_birder_safetensors(module, tmp_path / "net.safetensors", **written)
    shape = {"inputs": [{"data_shape": [0, 3, *size]}], "outputs": [{"data_shape": [0, classes]}]}
    cfg = peer("birder.common.lib").get_network_config(module, shape, {"mean": (0, 0, 0), "std": (1, 1, 1)})
    (tmp_path / "net.json").write_text(json.dumps(cfg))
    for said in (cfg, tmp_path / "net.json", {**cfg, "registered_name": None, "name": name}):
        theirs, _ = peer("birder").load_model_with_cfg(said, path)
        net, got = ours.load_model_with_cfg(said, path)
        assert net.training
        assert got["task"] == "image_classification"
        assert_same_answers(net.eval(), theirs.eval(), size)
    untrained, _ = ours.load_model_with_cfg(cfg, None)
    assert {k: v.shape for k, v in untrained.state_dict().items()} == {k: v.shape for k, v in net.state_dict().items()}
    shape["outputs"][0]["data_shape"][1] += 1
    with pytest.raises(CheckpointError, match="classes"):
        ours.load_model_with_cfg({**cfg, "signature": shape}, path)


def test_load_model_with_cfg__refuses(tmp_path: Path) -> None:
    """A description of another network, or none, must say what is wanted."""
    shape = {"inputs": [{"data_shape": [0, 3, 64, 64]}], "outputs": [{"data_shape": [0, 5]}]}
    good = {"name": "hiera", "registered_name": "hiera_tiny", "task": "image_classification", "signature": shape}
    net, _ = ours.load_model_with_cfg(good, None)
    assert net.num_classes == 5
    with pytest.raises(InputError, match="model_config"):
        ours.load_model_with_cfg({}, None)
    with pytest.raises(UnknownNameError, match="hiera_tiny"):
        ours.load_model_with_cfg({**good, "registered_name": "hira_tiny"}, None)
    with pytest.raises(UnknownNameError, match="Hiera family"):
        ours.load_model_with_cfg({**good, "registered_name": "resnet_50"}, None)
    with pytest.raises(InputError, match="autoencoder"):
        ours.load_model_with_cfg({**good, "task": "masked_image_modeling"}, None)
    with pytest.raises(InputError, match="signature"):
        ours.load_model_with_cfg({**good, "signature": {}}, None)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(CheckpointError, match="JSON"):
        ours.load_model_with_cfg(tmp_path / "bad.json", None)


def test_helpers(tmp_path: Path) -> None:
    """Class lists in the order of the dictionary, or labels of the file's name, would name other classes."""
    from hierax.compat.birder.common import fs_ops, lib
    from hierax.compat.birder.data.transforms.classification import inference_preset

    theirs = peer("birder.common.lib")
    classes = {"b": 1, "c": 2, "a": 0}
    assert lib.class_list_from_class_to_idx(classes) == theirs.class_list_from_class_to_idx(classes) == ["a", "b", "c"]
    path = os.path.join("data", "birds", "tit", "1.jpg")
    for options in ({}, {"hierarchical": True, "root": "data"}):
        assert lib.get_label_from_path(path, **options) == theirs.get_label_from_path(path, **options)
    (tmp_path / "classes.txt").write_text("ant\nbee\n")
    assert fs_ops.read_class_file(tmp_path / "classes.txt") == {"ant": 0, "bee": 1}
    assert fs_ops.load_model_with_cfg is ours.load_model_with_cfg
    assert inference_preset is ours.classification_transform
    with pytest.raises(InputError, match="class file"):
        fs_ops.read_class_file(tmp_path / "none.txt")
