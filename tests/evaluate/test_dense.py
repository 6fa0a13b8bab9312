"""Measures of masks against references, and the evaluations that are made of them."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
from PIL import Image

import hierax
from hierax.data.masks import write_mask
from hierax.dense.track import Following
from hierax.errors import InputError
from hierax.evaluate import propagation, segmentation
from hierax.model.regions import (
    Overlap,
    Track,
    boundary,
    boundary_accuracy,
    confusion,
    dilated,
    region_similarity,
)

from ..segment.scenes import NAMES, scene, write_labels


def random_masks(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Blobs of one object: some empty, some full, some alike, of odd sizes."""
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(3, 60, 2))
    masks = [ndimage.gaussian_filter(rng.random(size), rng.uniform(0, 4)) > rng.choice((-1, 0.5, 0.5, 2)) for _ in "ab"]
    return masks[0], masks[0] if seed % 7 == 0 else masks[1]


@pytest.mark.parametrize("seed", range(12))
def test_confusion__brute_force(seed):
    """Swapped axes, counted void pixels, or classes that are there but never right would change the numbers."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 7))
    truth, answer = rng.integers(-1, count - seed % 2, (9, 13)), rng.integers(0, count, (9, 13))
    found = Overlap(confusion(truth, answer, count))
    ious, accuracies = [], []
    for k in range(count):
        mine, theirs = (answer == k) & (truth >= 0), truth == k
        ious.append((mine & theirs).sum() / (mine | theirs).sum() if (mine | theirs).any() else math.nan)
        accuracies.append((mine & theirs).sum() / theirs.sum() if theirs.any() else math.nan)
    assert np.allclose(found.iou, ious, equal_nan=True)
    assert found.mean_iou == pytest.approx(np.nanmean(ious))
    assert found.mean_accuracy == pytest.approx(np.nanmean(accuracies))
    assert found.accuracy == pytest.approx((truth == answer).sum() / (truth >= 0).sum())


def test_confusion__scikit_learn():
    """The reference's own counts."""
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    truth, answer = rng.integers(0, 5, 500), rng.integers(0, 5, 500)
    assert (confusion(truth, answer, 5) == metrics.confusion_matrix(truth, answer)).all()
    wanted = metrics.jaccard_score(truth, answer, average="macro")
    assert Overlap(confusion(truth, answer, 5)).mean_iou == pytest.approx(wanted)


def test_overlap__class_of_nobody():
    """A class that is neither there nor answered must not pull the mean down, nor raise it."""
    found = Overlap(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))
    assert found.iou.tolist()[:2] == [0.75, 0.8]
    assert math.isnan(found.iou[2])
    assert found.mean_iou == pytest.approx(0.775)
    assert math.isnan(Overlap(np.zeros((2, 2), int)).mean_iou)


@pytest.mark.parametrize("seed", range(40))
def test_dilated__scikit_image(seed):
    """A square, a diamond, or a disk without its rim would count boundaries that are too far or lose near ones."""
    morphology = pytest.importorskip("skimage.morphology")
    ndimage = pytest.importorskip("scipy.ndimage")
    region = boundary(random_masks(seed)[0])
    for radius in (0, 1, 2, 5, 9):
        assert (dilated(region, radius) == ndimage.binary_dilation(region, morphology.disk(radius))).all()


def reference_boundary(seg: np.ndarray) -> np.ndarray:
    """The boundary map of the Berkeley benchmark, pixel by pixel."""
    height, width = seg.shape
    out = np.zeros_like(seg)
    for y in range(height):
        for x in range(width):
            down, right = min(y + 1, height - 1), min(x + 1, width - 1)
            out[y, x] = seg[y, x] != seg[down, x] or seg[y, x] != seg[y, right] or seg[y, x] != seg[down, right]
    return out


@pytest.mark.parametrize("seed", range(40))
def test_j_and_f__reference(seed):
    """Pixel by pixel and by scikit-image's dilation, empty and full objects and void pixels included."""
    morphology = pytest.importorskip("skimage.morphology")
    ndimage = pytest.importorskip("scipy.ndimage")
    truth, answer = random_masks(seed)
    void = np.random.default_rng(seed).random(truth.shape) < (0.1 if seed % 3 else 0)
    a, b = truth & ~void, answer & ~void
    union = (a | b).sum()
    assert region_similarity(truth, answer, void) == pytest.approx((a & b).sum() / union if union else 1.0)
    for tolerance in (0.008, 0.05, 3):
        reach = tolerance if tolerance >= 1 else math.ceil(tolerance * np.linalg.norm(truth.shape))
        edges = [reference_boundary(mask) for mask in (a, b)]
        wide = [ndimage.binary_dilation(edge, morphology.disk(int(reach))) for edge in edges]
        counts = [edge.sum() for edge in edges]
        if not all(counts):
            wanted = float(counts[0] == counts[1])
        else:
            recall, precision = (edges[0] & wide[1]).sum() / counts[0], (edges[1] & wide[0]).sum() / counts[1]
            wanted = 2 * recall * precision / (recall + precision) if recall + precision else 0.0
        assert boundary_accuracy(truth, answer, void, tolerance=tolerance) == pytest.approx(wanted)


def test_track__as_davis_counts():
    """Recall counts what is above one half; decay compares quarters that share their ends."""
    track = Track((1.0, 0.9, 0.5, 0.4, 0.2, 0.1, 0.0, 0.6))
    assert track.mean == pytest.approx(3.7 / 8)
    assert track.recall == pytest.approx(3 / 8)
    # linspace(1, 8, 5) = 1, 2.75, 4.5, 6.25, 8: numbers 1, 3, 4 (half to even), 6, 8
    assert track.decay == pytest.approx(np.mean([1.0, 0.9, 0.5]) - np.mean([0.1, 0.0, 0.6]))
    assert math.isnan(Track(()).mean)


# --- the evaluations ------------------------------------------------------------------------------------------------


def test_segmentation__network_and_baselines(tmp_path):
    """A probe fitted to what it judges, or judged on what it was fitted to, would be perfect."""
    pytest.importorskip("sklearn")
    data, predictor = write_labels(tmp_path / "data", 15, full=True), hierax.load()
    found = segmentation(data, {"a": predictor, "b": predictor}, cells=3000, baselines="all")
    names = [row["model"] for row in found.results]
    assert names[0] == "a"
    assert "b, random weights" in names
    assert found.results[0]["images"] == 3
    assert found.results[0]["miou"] == found.results[3]["miou"]
    assert 0.3 < found.results[0]["miou"] < 0.99
    assert set(found.results[0]["per_class"]) == set(NAMES)
    assert "mIoU" in str(found)


def test_segmentation__small_views_are_told(tmp_path, capsys):
    """Unsaid, a poor number is taken for the network's: small things are lost before it sees them."""
    pytest.importorskip("sklearn")
    data = write_labels(tmp_path / "data", 4, size=200, full=True)
    for size, told in ((96, 1), (128, 0), ("full", 0)):
        segmentation(data, size=size, cells=300, baselines="none")
        assert capsys.readouterr().err.count("are looked at with 96") == told


def test_segmentation__ade20k(tmp_path):
    """Without its rule for 0 the 151st class of ADE20k would be everything else."""
    pytest.importorskip("sklearn")
    root = tmp_path / "ADEChallengeData2016"
    for split, start in (("training", 0), ("validation", 50)):
        (root / "images" / split).mkdir(parents=True)
        (root / "annotations" / split).mkdir(parents=True)
        for index in range(start, start + 4):
            pixels, mask = scene(index)
            Image.fromarray(pixels).save(root / "images" / split / f"ADE_{index:08}.jpg")
            Image.fromarray(mask).save(root / "annotations" / split / f"ADE_{index:08}.png")
    rows = [f"{n}\t0.1\t1\t1\t0\t{'wall' if n == 1 else f'thing {n}'}" for n in range(1, 151)]
    (root / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tStuff\tName", *rows]))
    found = segmentation(root, hierax.load(), cells=1000, baselines="none")
    assert found.data["layout"] == "ADE20k"
    assert found.data["classes"] == 150
    assert found.data["names"][:2] == ["wall", "thing 2"]
    assert {name for name, share in found.results[0]["per_class"].items() if share is not None} == {
        "wall", "thing 2", "thing 3",
    }  # fmt: skip


def moving_clip(root, name: str, count: int = 6) -> None:
    """A disk and a square that move over a ground, with their masks."""
    frames, masks = root / "JPEGImages" / "480p" / name, root / "Annotations" / "480p" / name
    frames.mkdir(parents=True)
    masks.mkdir(parents=True)
    rng = np.random.default_rng(len(name))
    ground = rng.integers(90, 130, (64, 96, 3))
    y, x = np.mgrid[:64, :96]
    for place in range(count):
        pixels, mask = ground.copy(), np.zeros((64, 96), np.uint8)
        mask[(y - 20) ** 2 + (x - 20 - 6 * place) ** 2 < 150] = 1
        mask[40:58, 60 - 5 * place : 78 - 5 * place] = 2
        pixels[mask == 1], pixels[mask == 2] = (220, 40, 30), (30, 60, 220)
        Image.fromarray(pixels.astype(np.uint8)).save(frames / f"{place:05}.jpg", quality=95)
        write_mask(mask, {1: (128, 0, 0), 2: (0, 128, 0)}, masks / f"{place:05}.png")


def test_propagation__beats_a_mask_that_stands_still(tmp_path):
    """Labels of the wrong cells, or of frames in another order, would not follow what moves."""
    moving_clip(tmp_path, "one")
    moving_clip(tmp_path, "other", 5)
    found = propagation(tmp_path, hierax.load(), size=96)
    ours, still = found.results
    assert ours["images"] == 4 + 3
    assert ours["objects"] == 4
    assert still["model"] == "the first mask, unchanged"
    assert ours["jf"] > still["jf"] + 0.2
    assert ours["jf"] == pytest.approx((ours["j"] + ours["f"]) / 2)
    assert set(ours["per_class"]) == {"one", "other"}
    (tmp_path / "ImageSets" / "2017").mkdir(parents=True)
    (tmp_path / "ImageSets" / "2017" / "val.txt").write_text("other\n")
    assert set(propagation(tmp_path, hierax.load(), size=96).results[0]["per_class"]) == {"other"}
    with pytest.raises(InputError, match="none named train.txt"):
        propagation(tmp_path, hierax.load(), split="train")


def test_propagation__still_by_hand(tmp_path):
    """J of a mask that is left as it is, object by object, the first and the last frame not counted."""
    moving_clip(tmp_path, "clip", 4)
    masks = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "Annotations/480p/clip").iterdir())]
    wanted = [
        np.mean([((masks[0] == k) & (mask == k)).sum() / ((masks[0] == k) | (mask == k)).sum() for mask in masks[1:3]])
        for k in (1, 2)
    ]
    found = propagation(tmp_path, hierax.load(), size=64, how=Following(frames=1)).results[1]
    assert found["j"] == pytest.approx(np.mean(wanted))


def test_propagation__void_of_the_first_mask(tmp_path, monkeypatch):
    """Pixels that belong to nothing are -1 for who follows; NumPy up to 2.4 makes 255 of them in bytes, later ones
    refuse."""
    moving_clip(tmp_path, "clip", 4)
    path = tmp_path / "Annotations" / "480p" / "clip" / "00000.png"
    pixels = np.array(Image.open(path))
    pixels[:2] = 255
    path.unlink()
    write_mask(pixels, {1: (128, 0, 0), 2: (0, 128, 0), 255: (9, 9, 9)}, path)
    given = []

    def judged(clips, follow, title, progress):
        def followed(frames, classes, count):
            given.append(classes)
            return [classes] * len(frames.paths)

        return whole(clips, followed, title, progress)

    propagating = importlib.import_module("hierax.evaluate.propagation")  # the package has a function of that name
    whole = propagating._judged
    monkeypatch.setattr(propagating, "_judged", judged)
    propagation(tmp_path, hierax.load(), size=64, how=Following(frames=1))
    assert np.unique(given[0]).tolist() == [-1, 0, 1, 2]


@pytest.mark.parametrize("spoil", ["masks", "first", "size", "layout"])
def test_propagation__refused(spoil, tmp_path):
    """A clip that cannot be judged must not lower or raise the mean without a word."""
    moving_clip(tmp_path, "clip", 4)
    masks = tmp_path / "Annotations" / "480p" / "clip"
    if spoil == "masks":
        for path in sorted(masks.iterdir())[1:]:
            path.unlink()
    elif spoil == "first":
        Image.fromarray(np.zeros((64, 96), np.uint8)).save(masks / "00000.png")
    elif spoil == "size":
        Image.fromarray(np.ones((32, 96), np.uint8)).save(masks / "00000.png")
    else:
        (tmp_path / "JPEGImages").rename(tmp_path / "images")
    with pytest.raises(InputError, match=r"masks|object|size|JPEGImages"):
        propagation(tmp_path, hierax.load(), size=64)
