"""Rendered scenes: what is annotated is what is drawn, by the tools that will read it."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from hierax.cli import main
from hierax.data.datasets.scenes import MOST_SHAPES, Scene, render_scene, render_scenes
from hierax.data.datasets.shapes import OUTLINES
from hierax.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A set of 40 scenes that are not square."""
    return render_scenes(
        tmp_path_factory.mktemp("set") / "scenes", task="segmentation", count=40, seed=4, size=(96, 160)
    )


@pytest.fixture(scope="module")
def said(folder):
    return json.loads((folder / "annotations.json").read_text())


def digest(scene: Scene) -> str:
    return hashlib.sha256(scene.pixels.tobytes() + scene.mask.tobytes()).hexdigest()


def test_scene__determined_by_seed_and_index():
    """State that is carried between scenes would make a set depend on its order."""
    forward = [digest(render_scene(index, seed=3, size=64)) for index in range(8)]
    assert forward == [digest(render_scene(index, seed=3, size=64)) for index in reversed(range(8))][::-1]
    others = [digest(render_scene(index, seed=4, size=64)) for index in range(8)]
    assert len({*forward, *others}) == 16


def test_scene__shapes_are_whole_and_apart():
    """Boxes that leave the image, or shapes that cover each other, would be annotated larger than they look."""
    counts = set()
    for index in range(40):
        scene = render_scene(index, seed=1, size=(64, 96))
        counts.add(len(scene.things))
        assert scene.things[0].label == index % len(OUTLINES)
        for thing in scene.things:
            x, y, w, h = thing.box
            assert x >= 0
            assert y >= 0
            assert x + w <= 96
            assert y + h <= 64
            assert (scene.mask == thing.label + 1).any()
    assert counts == set(range(1, MOST_SHAPES + 1))


def test_scene__shapes_can_be_seen():
    """A shape of the ground's own colour would be a label without a picture."""
    for index in range(10):
        scene = render_scene(index, seed=2, size=96)
        ground = scene.pixels[scene.mask == 0].mean(0)
        for thing in scene.things:
            inside = scene.pixels[scene.mask == thing.label + 1].mean(0)
            assert np.abs(inside - ground).max() > 20


@pytest.mark.parity
@pytest.mark.parametrize("tool", ["pycocotools.coco", "faster_coco_eval"])
def test_coco_tools_see_the_masks(folder, said, tool):
    """A ring whose hole is filled, or x and y exchanged, is only seen when another tool draws the polygon."""
    module = pytest.importorskip(tool)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = module.COCO(str(folder / "annotations.json"))
    assert [kind["name"] for kind in coco.loadCats(coco.getCatIds())] == list(OUTLINES)
    seen = set()
    for image in coco.loadImgs(coco.getImgIds()):
        painted = np.asarray(Image.open(folder / "masks" / f"{image['file_name'][:-4]}.png"))
        assert painted.shape == (image["height"], image["width"]) == (96, 160)
        drawn = np.zeros_like(painted)
        for each in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
            mask = coco.annToMask(each).astype(bool)
            drawn[mask] = each["category_id"]
            rows, columns = np.nonzero(mask)
            x, y, w, h = each["bbox"]
            edges = [columns.min() - x, rows.min() - y, columns.max() + 1 - x - w, rows.max() + 1 - y - h]
            assert np.abs(edges).max() <= 3
            assert abs(mask.sum() - each["area"]) <= 0.1 * each["area"] + 5
            seen.add(each["category_id"])
        both, either = (painted > 0) & (painted == drawn), (painted > 0) | (drawn > 0)
        assert both.sum() / either.sum() > 0.85
    assert seen == set(range(1, len(OUTLINES) + 1))


@pytest.mark.parity
def test_annotations_measured_against_themselves_are_perfect(folder, said):
    """What the field's own measure refuses, or finds less than whole, is no COCO file."""
    fast = pytest.importorskip("faster_coco_eval")
    coco = fast.COCO(str(folder / "annotations.json"))
    found = [{**each, "score": 0.9} for each in said["annotations"]]
    for kind in ("bbox", "segm"):
        run = fast.COCOeval_faster(coco, coco.loadRes(found), kind, print_function=lambda *_: None)
        run.evaluate()
        run.accumulate()
        run.summarize()
        assert run.stats[0] == pytest.approx(1)


def test_files(folder, said):
    assert len(list((folder / "images").iterdir())) == len(list((folder / "masks").iterdir())) == 40
    assert said["images"][0] == {"id": 1, "file_name": "00.jpg", "width": 160, "height": 96}
    assert [each["id"] for each in said["annotations"]] == list(range(1, len(said["annotations"]) + 1))
    mask = Image.open(folder / "masks" / "00.png")
    assert mask.mode == "P"
    palette = np.array(mask.getpalette()[: 3 * (len(OUTLINES) + 1)]).reshape(-1, 3)
    assert len(np.unique(palette, axis=0)) == len(OUTLINES) + 1
    rows = (folder / "classes.csv").read_text().splitlines()
    assert rows[:2] == ["index,color,name", "0,#000000,ground"]
    colours = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in palette]
    names = [each["name"] for each in said["categories"]]
    assert rows[2:] == [f"{number},{colours[number]},{name}" for number, name in enumerate(names, start=1)]


def test_command(tmp_path, capsys):
    assert main(["render", str(tmp_path / "a"), "--task", "detection", "--count", "3", "--format", "png"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "a")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["annotations.json", "images"]
    assert Image.open(tmp_path / "a" / "images" / "0.png").size == (192, 192)
    again = importlib.import_module("hierax.data.datasets.scenes").render_scene(0, seed=1)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a" / "images" / "0.png")), again.pixels)
    assert main(["render", str(tmp_path / "b"), "--count", "2"]) == 0
    assert main(["render", str(tmp_path / "a"), "--task", "detection"]) == 1
    assert "not empty" in capsys.readouterr().err
    assert main(["render", str(tmp_path / "c"), "--task", "detect"]) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task": "boxes"}, "'detection' or 'segmentation'; got 'boxes'"),
        ({"size": 16}, "32 pixels to 4096; got 16"),
        ({"size": (64,)}, "height, width"),
        ({"count": 0}, "count must be"),
        ({"seed": -1}, "seed -1"),
        ({"image_format": "gif"}, "'jpg' or 'png'"),
    ],
)
def test_refusals(options, words, tmp_path):
    """Nothing is left behind where nothing was written."""
    with pytest.raises(InputError, match=words):
        render_scenes(tmp_path / "new", **{"count": 2, **options})
    assert list(tmp_path.iterdir()) == []
