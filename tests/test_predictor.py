"""The predictor: every kind of image in, arrays out, and errors that name the remedy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import hierax
from hierax.data.video import preprocess_clip, read_clip

from . import members


@pytest.fixture(scope="module")
def nano():
    """The embedded model."""
    return hierax.load()


@pytest.fixture
def picture():
    """An 8-bit image."""
    return members.picture((150, 110))


def test_every_kind_of_image_gives_the_same_vector(nano, picture, tmp_path):
    """A kind that skipped the preprocess, or swapped channels, would differ."""
    picture.save(tmp_path / "a.png")
    tensor = nano.prepare(picture)
    kinds = [tmp_path / "a.png", str(tmp_path / "a.png"), picture, np.asarray(picture), tensor, tensor[None]]
    vectors = [nano.embed(kind) for kind in kinds]
    for vector in vectors:
        assert vector.shape == (1, 256)
        assert vector.dtype == np.float32
        np.testing.assert_allclose(vector, vectors[0], atol=1e-6)
    many = nano.embed([tmp_path / "a.png", picture, tensor], batch_size=2)
    np.testing.assert_allclose(many, np.repeat(vectors[0], 3, 0), atol=1e-5)


def test_classify__sorted_probabilities(nano, picture):
    """Raw logits, or softmax over the top k only, would not sum below one in order."""
    (row,) = nano.classify(picture, top_k=3)
    scores = [guess.score for guess in row]
    assert scores == sorted(scores, reverse=True)
    (everything,) = nano.classify(picture, top_k=10_000)
    assert len(everything) == len(nano.labels)
    assert sum(guess.score for guess in everything) == pytest.approx(1.0, abs=1e-6)
    assert row[0].label == nano.labels[row[0].index]


def test_features__shapes_and_selection(nano, picture):
    """Maps must be NCHW float32 of exactly the stages asked for."""
    maps = nano.features([picture, picture], stages=("stage2", "stage4"))
    assert {stage: value.shape for stage, value in maps.items()} == {
        "stage2": (2, 64, 12, 12),
        "stage4": (2, 256, 3, 3),
    }
    with pytest.raises(hierax.UnknownNameError, match="stage2"):
        nano.features(picture, stages=("stage_2",))


def test_normalize(nano, picture):
    """Cosine search relies on length one."""
    assert np.linalg.norm(nano.embed(picture, normalize=True)) == pytest.approx(1.0, abs=1e-6)


def test_empty_input(nano):
    """A company's empty folder is an empty array, not a crash in torch.cat."""
    assert nano.embed([]).shape == (0, 256)
    assert nano.classify([]) == []
    assert nano.features([])["stage1"].shape[:2] == (0, 32)


@pytest.mark.parametrize(
    "bad", [b"bytes", 3, {"a": 1}, [3], np.zeros((4, 4)), torch.zeros(3, 96, 96, dtype=torch.uint8), None]
)
def test_wrong_types(nano, bad):
    """Every wrong type must be an InputError that says what is right."""
    with pytest.raises(hierax.InputError):
        nano.embed(bad)


@pytest.mark.parametrize("method", ["embed", "classify", "features"])
@pytest.mark.parametrize("shape", [(3, 96, 96), (2, 3, 96, 96)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_tensors_of_whole_numbers_are_refused(nano, method, shape, dtype):
    """A batch of 8-bit pixels ran through the network unscaled and gave garbage; one such image was refused."""
    with pytest.raises(hierax.InputError, match="floating-point"):
        getattr(nano, method)(torch.ones(shape, dtype=dtype))


@pytest.mark.parametrize("shape", [(1, 96, 96), (96, 96, 3), (2, 4, 96, 96), (2, 96, 96, 3)])
def test_tensors_of_other_channels_are_refused(nano, shape):
    """Channels last, or an alpha channel, must be named as such."""
    for images in (torch.zeros(shape), [torch.zeros(shape[-3:])]):
        with pytest.raises(hierax.InputError, match=r"channels first; got \("):
            nano.embed(images)


@pytest.mark.parametrize("views", [0, True, 2.0, 3])
def test_views__of_images(nano, picture, views):
    """An image has one view; a setting that does nothing must be refused."""
    with pytest.raises(hierax.InputError, match="views"):
        nano.embed(picture, views=views)
    np.testing.assert_array_equal(nano.embed(picture, views=1), nano.embed(picture))


def test_set_num_classes__old_labels_are_forgotten(picture, tmp_path):
    """The names of the old head's first classes would be shown, and saved, as those of a head that never saw them."""
    predictor = hierax.load()
    predictor.model.set_num_classes(3)
    assert predictor.labels is None
    assert predictor.classify(picture)[0][0].label.startswith("class_")
    again = hierax.load(predictor.save(tmp_path / "three"))
    assert (again.labels, again.model.num_classes) == (None, 3)
    predictor.labels = ["a", "b", "c"]
    assert {guess.label for guess in predictor.classify(picture)[0]} == {"a", "b", "c"}
    assert hierax.load(predictor.save(tmp_path / "named")).labels == ["a", "b", "c"]


def test_wrong_tensor_size__names_the_nearest(nano):
    """ "shape '[16, 3, 2]' is invalid" tells nobody what to do."""
    with pytest.raises(hierax.InputError, match=r"96x96 or 128x128|Nearest legal"):
        nano.embed(torch.zeros(1, 3, 100, 100))


@pytest.mark.parametrize("options", [{"top_k": 0}, {"batch_size": 0}, {"batch_size": True}])
def test_wrong_numbers(nano, picture, options):
    """Zero would silently give nothing."""
    with pytest.raises(hierax.InputError):
        nano.classify(picture, **options)


def test_save_and_load_again(nano, picture, tmp_path):
    """What was saved must be what is loaded: numbers, labels, preprocess, licence."""
    path = nano.save(tmp_path / "copy")
    again = hierax.load(path)
    np.testing.assert_array_equal(nano.embed(picture), again.embed(picture))
    assert again.labels == nano.labels
    assert again.preprocess == nano.preprocess
    assert again.card.license == nano.card.license


def test_save__present_parameters(nano, picture, tmp_path):
    """Saving the weights that were loaded, not the present ones, would lose a fine-tune."""
    changed = hierax.load()
    with torch.no_grad():
        changed.model.norm.bias.add_(1.0)
    again = hierax.load(changed.save(tmp_path / "copy"))
    np.testing.assert_allclose(again.embed(picture), nano.embed(picture) + 1.0, atol=1e-5)


def test_num_classes(picture, caplog):
    """0 must remove the head, another number replace it and say so."""
    headless = hierax.load(num_classes=0)
    assert headless.model.num_classes == 0
    assert "removed" in caplog.text
    with pytest.raises(hierax.InputError, match="head"):
        headless.classify(picture)
    caplog.clear()
    fresh = hierax.load(num_classes=5)
    assert len(fresh.classify(picture, top_k=9)[0]) == 5
    assert fresh.labels is None
    assert fresh.classify(picture)[0][0].label.startswith("class_")
    assert "fresh" in caplog.text
    caplog.clear()
    assert hierax.load(num_classes=len(hierax.load().labels)).labels is not None


@pytest.mark.parametrize("size", [64, (96, 160), (224, 96)])
def test_input_size(picture, size):
    """Tables and preprocess must follow the size, square or not."""
    predictor = hierax.load(input_size=size)
    height, width = (size, size) if isinstance(size, int) else size
    assert predictor.preprocess.size == (height, width)
    assert predictor.features(picture)["stage1"].shape == (1, 32, height // 4, width // 4)


@pytest.mark.parametrize("size", [100, (96, 100), 0, -32, (96,), "96", 96.0, True])
def test_input_size__illegal(size):
    """An illegal size must be refused before the network sees it."""
    with pytest.raises(hierax.InputError):
        hierax.load(input_size=size)


def test_dtype_and_device(picture):
    """bfloat16 must run, return float32, and stay near; nonsense must be refused."""
    half = hierax.load(dtype="bfloat16")
    assert next(half.model.parameters()).dtype == torch.bfloat16
    vector = half.embed(picture)
    assert vector.dtype == np.float32
    full = hierax.load().embed(picture)
    cosine = (vector * full).sum() / np.linalg.norm(vector) / np.linalg.norm(full)
    assert cosine > 0.99
    for options in ({"dtype": "bf17"}, {"device": "gpu"}, {"dtype": "int8"}):
        with pytest.raises(hierax.InputError):
            hierax.load(**options)


def test_create():
    """Overrides must reach the config; unknown ones must not vanish."""
    model = hierax.create("hieradet_tiny", num_classes=3, input_size=(64, 96), drop_path=0.5)
    assert model.config.drop_path == 0.5
    assert model(torch.zeros(1, 3, 64, 96)).shape == (1, 3)
    assert model.strides == (4, 8, 16, 32)
    with pytest.raises(hierax.UnknownNameError, match="drop_path"):
        hierax.create("hieradet_tiny", drop_paths=0.1)
    with pytest.raises(hierax.UnknownNameError, match="hieradet_tiny"):
        hierax.create("hieradet_tiney")


def test_create__initial_spread():
    """A parameter left uninitialised, or a head that is not small, shows in the first logits."""
    torch.manual_seed(0)
    for name in ("hiera_tiny_224", "hieradet_tiny", "mae_hiera_tiny_224"):
        model = hierax.create(name)
        for key, value in model.state_dict().items():
            assert torch.isfinite(value).all(), key
            assert value.abs().max() < 3, key
    logits = hierax.create("hiera_tiny_224").eval()(torch.randn(1, 3, 224, 224))
    assert logits.abs().max() < 0.1


def test_describe__catalogue_and_file(nano, tmp_path):
    """describe must work offline for names, and read files of any name."""
    card = hierax.describe("hieradet_small_dino-v2-imagenet12k")
    assert (card.architecture, card.num_classes, card.commercial) == ("hieradet_d_small", 11821, True)
    assert round(card.parameters / 1e6, 1) == 43.0
    text = str(card)
    assert "11,821" in text or "11821" in text
    assert "global" in text
    local = hierax.describe(nano.save(tmp_path / "x"))
    assert local.architecture == "hiera_nano_96"
    assert "stage" in str(local)
    assert dataclasses.asdict(hierax.describe("hiera_base_224"))["license"] == "cc-by-nc-4.0"


def test_names():
    """Architectures without weights must be told from checkpoints, licences filtered."""
    assert "hieradet_tiny" in hierax.list_models(pretrained=False)
    assert "hiera_base_224" in hierax.list_models(pretrained=True)
    assert "hiera_base_224" not in hierax.list_models(commercial=True)
    with pytest.raises(hierax.CheckpointError, match="hierax.create"):
        hierax.load("hieradet_tiny")
    with pytest.raises(hierax.UnknownNameError, match="hiera_base_224"):
        hierax.load("hiera_bass_224")
    with pytest.raises(hierax.CheckpointError, match="No such file"):
        hierax.load("./missing.pt")


def test_views_are_averaged(tmp_path):
    """One view counted several times, or logits averaged before softmax, would give other scores."""
    predictor = hierax.load(members.save_video_learner(tmp_path / "model", 32, num_classes=3))
    film = np.stack([members.noise(24, 30, seed) for seed in range(40)])
    clips = [preprocess_clip(clip, predictor.preprocess) for clip in read_clip(film, frames=4, views=3)]
    each = [predictor.classify(clip, top_k=3)[0] for clip in clips]
    expected = {i: np.mean([next(g.score for g in row if g.index == i) for row in each]) for i in range(3)}
    vector = np.mean([predictor.embed(clip)[0] for clip in clips], 0)
    (row,) = predictor.classify([film], top_k=3, views=3)
    assert {g.index: g.score for g in row} == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(predictor.embed([film], views=3)[0], vector, atol=1e-5)
    assert predictor.features([film])["stage4"].shape[0] == 1
    predictor.views = 3
    (row,) = predictor.classify([film], top_k=3)
    assert {g.index: g.score for g in row} == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(predictor.embed([film])[0], vector, atol=1e-5)
    with pytest.raises(hierax.InputError, match="one view"):
        predictor.features([film])
