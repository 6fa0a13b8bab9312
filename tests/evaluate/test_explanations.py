"""Judging explanations: areas by hand, objects that are known, maps that must lose."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image

import hierax
from hierax.cli import main
from hierax.data.datasets import paint
from hierax.data.datasets.open import open_data
from hierax.data.datasets.samples import Subset
from hierax.data.datasets.shapes import CLASSES, OUTLINES, object_mask, render, render_folder
from hierax.errors import InputError, UnknownNameError
from hierax.evaluate import explanations
from hierax.evaluate.areas import deletion_and_insertion, taken_first
from hierax.model.explainers import occlusion, predicted
from hierax.predictor import Predictor
from hierax.weights.network import to_module

from ..members import MEMBERS, tiny, weights_of


@pytest.fixture(scope="module")
def predictor():
    return hierax.load()


# --- objects --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(len(OUTLINES)))
def test_object_mask__is_what_was_filled(index, monkeypatch):
    """A mask of the shadow, of the rim, or of another draw of the same seed is no mask of this object."""
    image, label = render(index, seed=3)
    monkeypatch.setattr(paint, "occlude", lambda rng, picture: picture)
    monkeypatch.setattr(paint, "degrade", lambda rng, picture: paint._to_bytes(picture))
    monkeypatch.setattr(paint, "light", lambda rng, size: np.float32(1) + 0 * rng.random())
    bare, mask = render(index, seed=3)[0], object_mask(index, seed=3)
    assert mask.shape == image.shape[:2]
    assert CLASSES[label] in OUTLINES
    inner = np.asarray(Image.fromarray(mask).convert("L").resize((96, 96)))  # the same
    core = inner > 0
    for shift in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        core &= np.roll(inner > 0, shift, (0, 1))
    fill = np.median(bare[core], axis=0)
    assert np.abs(bare[core].astype(int) - fill).max() <= 1
    assert np.abs(bare[~mask].astype(int) - fill).max(1).mean() > 20


def test_object_mask__textures_have_none():
    """A texture fills its frame: pointing anywhere would count as a hit."""
    data = open_data("shapes:32@7x48")
    known = [data.mask(index) is not None for index in range(16)]
    assert known == [name in OUTLINES for name in CLASSES]
    assert data.mask(0).shape == (48, 48)
    assert np.array_equal(Subset(data, [5, 1]).mask(1), data.mask(1))


# --- areas ----------------------------------------------------------------------------------------------------------


def test_taken_first__order():
    """Cells in rising order, or all but the last, would turn every judgement around."""
    cells = np.array([[1.0, 4.0], [3.0, 2.0]], np.float32)
    taken = taken_first(cells, (16, 16), 4)
    assert taken.shape == (5, 16, 16)
    assert not taken[0].any()
    assert taken[4].all()
    first = [tuple(np.argwhere(after & ~before).min(0)) for before, after in itertools.pairwise(taken)]
    assert first == [(0, 8), (8, 0), (8, 8), (0, 0)]


@torch.no_grad()
def test_areas__by_hand():
    """Rectangles instead of trapezoids, the class of the changed image, or a wrong baseline give other areas."""
    encoder, x = tiny("hiera", num_classes=4), torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    cells = np.random.default_rng(0).random((4, 4), np.float32)
    deletion, insertion = deletion_and_insertion(encoder, x, cells, steps=3)
    label = int(encoder(x)[0].argmax())
    fields = x.reshape(1, 3, 4, 16, 4, 16).mean((3, 5))
    blurred = torch.nn.functional.interpolate(fields, size=(64, 64), mode="bilinear")
    curves = {"deletion": [], "insertion": []}
    for taken in torch.from_numpy(taken_first(cells, (64, 64), 3)):
        for name, image in (("deletion", x * ~taken), ("insertion", torch.where(taken, x, blurred))):
            curves[name].append(float(encoder(image).double().softmax(-1)[0, label]))
    for name, found in (("deletion", deletion), ("insertion", insertion)):
        a, b, c, d = curves[name]
        assert found == pytest.approx((a / 2 + b + c + d / 2) / 3, abs=1e-6)
    assert deletion != pytest.approx(insertion, abs=1e-3)


def test_areas__of_a_map_that_knows(predictor):
    """What covering shows to matter must delete the class sooner, and insert it sooner, than its opposite."""
    x = torch.stack([predictor.prepare(render(index, seed=31)[0]) for index in range(4)])
    maps = occlusion(predictor.encoder, x, predicted(predictor.encoder, x)).numpy()
    areas = np.array([[deletion_and_insertion(predictor.encoder, x[i : i + 1], sign * maps[i], steps=8)
                       for sign in (1, -1)] for i in range(4)]).mean(0)  # fmt: skip
    assert areas[0, 0] < areas[1, 0] - 0.1
    assert areas[0, 1] > areas[1, 1] + 0.1


# --- the judgement --------------------------------------------------------------------------------------------------


def test_explanations__rows(predictor):
    """Means, spreads and counts must follow from what is told of each seed."""
    scores = explanations("shapes:48@9", predictor, methods=["rollout", "gradcam"], images=5, seeds=2, steps=2)
    assert [row["method"] for row in scores.results] == ["rollout", "gradcam", "random", "centre"]
    for row in scores.results:
        for measure in ("deletion", "insertion", "pointing", "inside"):
            values = [seed[measure] for seed in row["seeds"]]
            assert row[measure] == pytest.approx(np.mean(values))
            assert row[f"{measure}_spread"] == pytest.approx(np.std(values, ddof=1))
            assert 0 <= row[measure] <= 1
        assert [seed["images"] for seed in row["seeds"]] == [5, 5]
    assert 0.2 < scores.data["object"] < 0.4
    assert scores.settings["images"] == 5
    again = explanations("shapes:48@9", predictor, methods="gradcam", images=5, seeds=2, steps=2)
    assert again.results[0]["seeds"] == scores.results[1]["seeds"]
    rollout, random = scores.results[0], scores.results[2]
    assert rollout["inside"] > random["inside"] + 0.05


def test_explanations__all_images_every_seed(predictor):
    """With no image left out only the random maps differ between seeds: another spread would be made up."""
    rollout, random, _ = explanations("shapes:5@9", predictor, methods=["rollout"], seeds=2, steps=2).results
    assert rollout["insertion_spread"] == 0
    assert random["insertion_spread"] > 0


def test_explanations__masks_of_files(predictor, tmp_path, capsys):
    """Objects of one's own images; without any there is no pointing, and no column for it."""
    render_folder(tmp_path / "images", count=5, seed=4, image_format="png")
    for index in range(5):
        path = tmp_path / "masks" / CLASSES[index] / f"{index}.png"
        path.parent.mkdir(parents=True)
        mask = Image.fromarray(object_mask(index, seed=4).astype(np.uint8))
        if index % 2:  # with a palette in which nothing is black: numbers count, not what they look like
            mask = mask.convert("P")
            mask.putpalette([250, 250, 250, 10, 200, 30])
        mask.save(path)
    options = {"methods": ["rollout"], "steps": 1, "seeds": 1}
    scores = explanations(tmp_path / "images", predictor, masks=tmp_path / "masks", **options)
    wanted = explanations("shapes:5@4", predictor, **options)
    assert scores.data["object"] == wanted.data["object"]
    for row, other in zip(scores.results, wanted.results, strict=True):
        if row["method"] != "random":  # which goes by the order of the images
            assert row["pointing"] == other["pointing"]
    bare = explanations(tmp_path / "images", predictor, **options)
    assert "pointing" not in bare.results[0]
    assert list(bare.table()[0]) == ["model", "method", "deletion", "insertion", "images"]
    Image.new("L", (5, 5), 1).save(tmp_path / "masks" / "circle" / "0.png")
    scores = explanations(tmp_path / "images", predictor, masks=tmp_path / "masks", **options)
    assert "as large as its image" in dict(scores.unreadable)["circle/0.png"]


def test_command(tmp_path, capsys):
    """A broken image is named, left out, and makes the exit code 3; json holds what the table shows."""
    render_folder(tmp_path / "images", count=4, seed=4, image_format="png")
    (tmp_path / "images" / "circle" / "broken.png").write_text("no image")
    arguments = ["eval", "explanations", str(tmp_path / "images"), "--methods", "gradcam", "--steps", "1"]
    assert main([*arguments, "--format", "json"]) == 3
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert [row["method"] for row in found["results"]] == ["gradcam", "random", "centre"]
    assert found["results"][0]["images"] == 4
    assert "circle/broken.png" in told.err
    assert [item["path"] for item in found["unreadable"]] == ["circle/broken.png"]
    assert main(["eval", "explanations", "-m", "hiera_nano_96", *arguments[2:], "--seeds", "1"]) == 3
    assert capsys.readouterr().out.splitlines()[0].split() == ["model", "method", "deletion", "insertion", "images"]


@pytest.mark.parametrize(
    ("options", "kind", "match"),
    [
        ({"methods": ["gradcan"]}, UnknownNameError, "Did you mean 'gradcam'"),
        ({"methods": []}, InputError, "at least one"),
        ({"methods": None}, InputError, "at least one"),
        ({"stage": "stage9"}, UnknownNameError, "Stages are"),
        ({"images": 0}, InputError, "images"),
        ({"seeds": 0}, InputError, "seeds"),
        ({"steps": 0}, InputError, "steps"),
        ({"masks": "nowhere"}, InputError, "nowhere"),
    ],
)
def test_explanations__refuses(predictor, options, kind, match):
    """An impossible question must not be answered with a table of something else."""
    with pytest.raises(kind, match=match):
        explanations("shapes:4", predictor, **{"seeds": 1, "steps": 1, **options})


@pytest.mark.parametrize(("name", "match"), [("SAM 2 trunk", "has none"), ("Hiera video", "takes clips")])
def test_explanations__refuses_networks(name, match):
    """Without a class there is no probability to follow."""
    weights = weights_of(MEMBERS[name])
    with pytest.raises(InputError, match=match):
        explanations("shapes:4", Predictor(to_module(weights).eval(), weights))


def test_explanations__nothing_readable(predictor, tmp_path):
    """A table of nothing would be a division by zero."""
    (tmp_path / "broken.png").write_text("no image")
    with pytest.raises(InputError, match="none that can be read.*broken.png"):
        explanations(tmp_path, predictor)


@pytest.mark.nightly
def test_pointing__rollout_and_gradcam_beat_random(predictor):
    """Maps that are beaten by chance, on objects that are known, explain nothing; 150 images for each of 3 seeds."""
    rows = explanations("shapes:2000@21", predictor, methods=["rollout", "gradcam"], images=150, steps=1).results
    rollout, gradcam, random, _ = rows
    for row in (rollout, gradcam):
        spread = max(row["pointing_spread"], random["pointing_spread"])
        assert row["pointing"] - random["pointing"] > spread
        assert row["pointing"] - 0.28 > spread  # the object's share of an image, which any pixel hits
