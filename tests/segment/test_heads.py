"""Heads from ten scribbled images: how right they are, what their files hold, and whom they refuse."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import hierax
from hierax.config import STAGE_NAMES
from hierax.data.masks import read_mask
from hierax.dense.labels import balanced_choice, cell_labels, pixel_classes
from hierax.dense.maps import Dense, View
from hierax.dense.tiles import starts
from hierax.errors import CheckpointError, InputError
from hierax.segment import load_head, predict, train
from hierax.segment.votes import votes
from hierax.weights.safetensors_files import save_safetensors

from ..members import noise, photograph, tiny
from .scenes import NAMES, scene, write_labels


def accuracy(head, predictor, scenes) -> float:
    dense, numbers = head.dense(predictor), np.array([each.index for each in head.classes])
    return float(np.mean([(numbers[head.segment(dense, pixels)] == mask).mean() for pixels, mask in scenes]))


def test_linear__held_out_scenes(linear, predictor, held_out):
    """Maps of the wrong place, stages that are joined wrongly, or labels of other cells would be near chance."""
    assert [each.name for each in linear.head.classes] == list(NAMES)
    assert accuracy(linear.head, predictor, held_out) >= 0.85
    assert 0.6 < linear.accuracy < 1


def test_knn__better_than_the_largest_class(knn, predictor, held_out):
    """Votes of random cells would name the largest class at best."""
    largest = np.mean([np.bincount(mask.ravel()).max() / mask.size for _, mask in held_out])
    whole = [(pixels, mask) for pixels, mask in held_out]
    assert accuracy(knn.head, predictor, whole) > largest - 0.05
    assert knn.accuracy > knn.largest


@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_file__same_answers_without_the_labels(kind, request, tmp_path, predictor):
    """A head that needs its labels, or rounds them away, answers otherwise once it is read."""
    head = request.getfixturevalue(kind).head
    path = head.save(tmp_path / "head.safetensors")
    again, pixels = load_head(path), scene(700)[0]
    assert path.stat().st_size < 1_000_000
    assert again.record == head.record
    assert np.mean(again.segment(again.dense(predictor), pixels) == head.segment(head.dense(predictor), pixels)) > 0.999


def test_predict__needs_no_scikit_learn(linear, tmp_path):
    """scikit-learn is for fitting: whoever applies a head has torch alone."""
    linear.head.save(tmp_path / "head.safetensors")
    Image.fromarray(scene(700)[0]).save(tmp_path / "a.png")
    code = (
        "import sys; sys.modules['sklearn'] = sys.modules['scipy'] = None\n"
        "from hierax.segment import predict\n"
        f"predict({str(tmp_path / 'head.safetensors')!r}, {str(tmp_path / 'a.png')!r}, {str(tmp_path / 'masks')!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert read_mask(tmp_path / "masks" / "a.png").values.shape == (96, 96)


def test_another_model_is_refused(linear, predictor):
    """Weights that differ give maps that the head cannot read: its masks would be noise."""
    other = hierax.load()
    with torch.no_grad():
        other.encoder.patch_embed.proj.weight.mul_(1.01)
    with pytest.raises(InputError, match="was made for 'hiera_nano_96'.*other weights"):
        linear.head.dense(other)
    linear.head.dense(hierax.load())
    linear.head.dense(hierax.load(dtype="bfloat16"))
    linear.head.dense(hierax.load(num_classes=3))


def test_name_in_a_file_fetches_nothing(linear, tmp_path):
    """A head from elsewhere must not decide which repository or file is loaded."""
    record = dataclasses.replace(linear.head.record, model="evil/repository")
    dataclasses.replace(linear.head, record=record).save(tmp_path / "h.safetensors")
    Image.fromarray(noise()).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="no name of the catalogue"):
        predict(tmp_path / "h.safetensors", tmp_path / "a.png", tmp_path / "masks")


def test_predict__nothing_is_overwritten(linear, tmp_path, predictor):
    """Masks that somebody mended by hand must survive a second run."""
    Image.fromarray(scene(700)[0]).save(tmp_path / "a.png")
    done = predict(linear.head, tmp_path / "a.png", tmp_path / "masks", predictor)
    assert done.masks == [(tmp_path / "a.png", tmp_path / "masks" / "a.png")]
    before = (tmp_path / "masks" / "a.png").read_bytes()
    with pytest.raises(InputError, match="already exists"):
        predict(linear.head, tmp_path / "a.png", tmp_path / "masks", predictor)
    with pytest.raises(InputError, match="do not take the place of images"):
        predict(linear.head, tmp_path / "a.png", tmp_path, predictor, overwrite=True)
    predict(linear.head, tmp_path / "a.png", tmp_path / "masks", predictor, overwrite=True)
    assert (tmp_path / "masks" / "a.png").read_bytes() == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "classes.csv").write_text("index,name\n0,mine\n")
    with pytest.raises(InputError, match="says something else"):
        predict(linear.head, tmp_path / "a.png", tmp_path / "other", predictor)
    assert not (tmp_path / "other" / "a.png").exists()


def test_predict__masks_are_labels_again(linear, tmp_path, predictor):
    """Predicted masks carry their classes, so that mended ones can be learned from."""
    for index in (700, 703):
        Image.fromarray(scene(index)[0]).save(tmp_path / f"{index}.png")
    (tmp_path / "images").mkdir()
    for path in sorted(tmp_path.glob("*.png")):
        path.rename(tmp_path / "images" / path.name)
    predict(linear.head, tmp_path / "images", tmp_path / "masks", predictor)
    (tmp_path / "masks" / "classes.csv").rename(tmp_path / "classes.csv")
    again = train(tmp_path, predictor, kind="knn")
    assert {each.name for each in again.head.classes} <= set(NAMES)
    assert {each.color for each in again.head.classes} <= {each.color for each in linear.head.classes}


def test_predict__one_broken_image(linear, tmp_path, predictor):
    """A file that cannot be read is named and stops none of the others."""
    (tmp_path / "a.jpg").write_bytes(b"no image")
    Image.fromarray(scene(700)[0]).save(tmp_path / "b.png")
    Image.fromarray(scene(700)[0]).save(tmp_path / "b.bmp")
    done = predict(linear.head, tmp_path, tmp_path / "masks", predictor)
    assert [name for name, _ in done.problems] == [str(tmp_path / "a.jpg")]
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["b.bmp.png", "b.png.png", "classes.csv"]


def test_left_out__says_what_cannot_be_known(tmp_path, predictor):
    """A class of one image alone cannot be right where that image is left out; one image says nothing at all."""
    folder = write_labels(tmp_path / "two", 2)  # circle; star and cross
    found = train(folder, predictor, kind="knn")
    assert [each.unseen for each in found.left] == [("circle",), ("star", "cross")]
    assert found.by_class["circle"] == 0.0
    assert "circle" in found.missed
    shares = [share for share in found.by_class.values() if share is not None]
    assert found.mean_accuracy == pytest.approx(sum(shares) / len(shares))
    one = train(write_labels(tmp_path / "one", 1), predictor, kind="knn")
    assert one.accuracy is None
    assert one.head.record.accuracy == -1
    json.dumps(one.to_dict())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"format": "other"}, "another kind"),
        ({"version": "99"}, "version"),
        ({"head": "{"}, "whole"),
        ({"head": "[]"}, "description"),
    ],
)
def test_file__refused(change, match, linear, tmp_path):
    """What is no head, or of a later version, must not be guessed at."""
    path = linear.head.save(tmp_path / "h.safetensors")
    from hierax.weights.safetensors_files import read_safetensors

    tensors, about = read_safetensors(path)
    save_safetensors(path, tensors, {**about, **change})
    with pytest.raises(CheckpointError, match=match):
        load_head(path)


# --- closed forms ---------------------------------------------------------------------------------------------------


def test_cell_labels__by_hand():
    """A transposed grid, a majority of all pixels instead of labelled ones, or a lost tie would show."""
    classes = np.full((4, 8), -1)
    classes[0, :4] = (1, 1, 0, 0)  # cells (0, 0) and (0, 1) of 2 x 4
    classes[3, 7] = 2
    classes[2, 2:4] = (0, 2)  # a tie: the first class
    found = cell_labels(classes, (2, 4), 3)
    assert found.cells.tolist() == [0, 1, 5, 7]
    assert found.labels.tolist() == [1, 0, 0, 2]
    assert found.counts.sum(0).tolist() == [3, 2, 2]


def test_cell_labels__every_pixel_once():
    """Cells that are no whole number of pixels must neither lose nor count a pixel twice."""
    rng = np.random.default_rng(0)
    classes = rng.integers(-1, 3, (17, 29))
    found = cell_labels(classes, (5, 40), 3)
    assert found.counts.sum(0).tolist() == [int((classes == k).sum()) for k in range(3)]


def test_balanced_choice():
    """A share that small classes do not need goes to others; all of a small class stay."""
    labels = np.array([0] * 100 + [1] * 5 + [2] * 50)
    chosen = balanced_choice(labels, 45, np.random.default_rng(0))
    assert np.bincount(labels[chosen]).tolist() == [20, 5, 20]


@pytest.mark.parametrize("size", [(7, 5), (64, 100), (13, 300)])
def test_pixel_classes__in_bands(size, monkeypatch):
    """Rows in bands must be those of one bilinear resize."""
    scores = torch.randn(4, 12, 10, generator=torch.Generator().manual_seed(0))
    wanted = torch.nn.functional.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0].argmax(0)
    monkeypatch.setattr("hierax.dense.labels._BAND", 500)
    assert (pixel_classes(scores, size) == wanted.numpy()).mean() > 0.999


def test_votes__brute_force():
    """Distances in place of cosines, or votes without their weights, give other shares."""
    g = torch.Generator().manual_seed(0)
    rows, labels = torch.randn(9, 6, generator=g), torch.randint(0, 3, (20,), generator=g)
    support = torch.nn.functional.normalize(torch.randn(20, 6, generator=g), dim=1)
    found = votes(rows, support, labels, classes=3, neighbours=5, temperature=0.2)
    for row, shares in zip(rows, found, strict=True):
        cosines = (support @ row / row.norm()).tolist()
        best = sorted(range(20), key=lambda i: -cosines[i])[:5]
        weights = np.exp(np.array([cosines[i] for i in best]) / 0.2)
        wanted = np.bincount([int(labels[i]) for i in best], weights, 3) / weights.sum()
        assert np.allclose(shares.numpy(), wanted, atol=1e-5)


# --- tiles ----------------------------------------------------------------------------------------------------------


def test_tiles__the_same_as_untiled_where_cells_are_local(predictor, monkeypatch):
    """Tiles at wrong places, gaps, or weights that do not sum to one change what depends on its own pixels alone."""

    def pooled(x, stages):
        channels = zip(stages, predictor.encoder.return_channels, (4, 8, 16, 32), strict=True)
        pool = torch.nn.functional.avg_pool2d
        return {stage: pool(x, stride).repeat(1, width // 3 + 1, 1, 1)[:, :width] for stage, width, stride in channels}

    monkeypatch.setattr(predictor.encoder, "detection_features", pooled)
    pixels = noise(200, 330)
    whole, tiled = (Dense(predictor, view=View("full", tile)).maps(pixels) for tile in (512, 96))
    for stage, wanted in whole.items():
        assert torch.allclose(tiled[stage], wanted, atol=1e-5)


def seam(change: torch.Tensor, tile: int, overlap: int) -> float:
    """How much a change jumps where tiles begin or end, in units of its jumps at other borders of mask units."""
    jumps = (change[:, :, 1:] - change[:, :, :-1]).abs().mean((0, 1)).numpy()
    begin = starts(change.shape[2] * 4, tile, overlap)
    edges = {place // 4 for place in begin[1:]} | {(place + tile) // 4 for place in begin[:-1]}
    others = set(range(8, len(jumps), 8)) - edges
    return float(np.mean([jumps[edge - 1] for edge in edges]) / np.mean([jumps[edge - 1] for edge in others]))


def test_tiles__no_seam(predictor, monkeypatch):
    """What cutting changes may not jump at the cuts: counted alike, tiles leave a line where each begins and ends."""
    pixels, g = np.array(photograph(960, 96)), torch.Generator().manual_seed(0)
    widths = zip(STAGE_NAMES, predictor.encoder.return_channels, (1, 2, 4, 8), strict=True)
    weights = {stage: torch.randn(8, width, generator=g) / width**0.5 / size for stage, width, size in widths}
    whole, dense = Dense(predictor, view=View("full", 960)), Dense(predictor, view=View("full", 192))
    untiled = whole.joined(pixels, weights)
    assert seam(dense.joined(pixels, weights) - untiled, 192, dense.view.overlap) < 1.15

    def alike(part: slice, side: int, overlap: int, stride: int) -> torch.Tensor:
        return torch.ones((part.stop - part.start) // stride)

    monkeypatch.setattr("hierax.dense.maps.ramp", alike)
    assert seam(dense.joined(pixels, weights) - untiled, 192, dense.view.overlap) > 1.8


def test_dense__needs_images():
    """Clips have no masks here, and are refused before anything is read."""
    video = hierax.load()
    video.model = tiny("hiera_video")
    with pytest.raises(InputError, match="takes clips"):
        Dense(video)
