"""The recipes on rendered scenes: they learn, they measure with the field's own tools, and they start where they say."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import hierax
from hierax.data.datasets.scenes import render_scenes
from hierax.schema import read_toml

from ..peers import peer

RECIPES = Path(__file__).parents[2] / "recipes"
SMALLEST = ["--scenes", "8", "--held-out", "4", "--batch-size", "4", "--size", "64", "--epochs", "2", "--every", "1"]
pytestmark = [pytest.mark.parity, pytest.mark.slow]


@pytest.fixture
def recipes(monkeypatch):
    """Modules of the folder, importable as a script there finds them."""
    pytest.importorskip("faster_coco_eval")
    peer("transformers")
    monkeypatch.syspath_prepend(str(RECIPES))
    names = ("rendered", "detect_rtdetr", "segment_mask2former")
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        sys.modules.pop(name, None)


def trained(recipes, name: str, out: Path, monkeypatch, *words: str) -> list[dict[str, float]]:
    module = recipes[name]
    monkeypatch.setattr(sys, "argv", [name, str(out), *SMALLEST, *words])
    args = recipes["rendered"].arguments("", epochs=1)
    return recipes["rendered"].run(args, module.build, module.loss_of, module.measure)


@pytest.mark.parametrize(
    ("name", "figures"), [("detect_rtdetr", {"AP", "AP50"}), ("segment_mask2former", {"AP", "AP50", "mIoU"})]
)
def test_runs_to_the_end(name, figures, recipes, tmp_path, monkeypatch):
    """A recipe that stops in its last line has cost somebody an evening."""
    curve = trained(recipes, name, tmp_path / "out", monkeypatch)
    assert [row["epoch"] for row in curve] == [1, 2]
    assert {*curve[0]} == {"epoch", "loss"} | figures
    assert all(torch.isfinite(torch.tensor(list(row.values()))).all() for row in curve)
    assert json.loads((tmp_path / "out" / "curve.json").read_text()) == curve
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["detect_rtdetr", "segment_mask2former"])
def test_starts_from_the_embedded_model(name, recipes):
    """`--random-backbone` exists to compare with: the other must not be random as well."""
    weight = hierax.load().encoder.patch_embed.proj.weight
    for pretrained in (True, False):
        model = recipes[name].build({0: "circle", 1: "square"}, pretrained)
        body = next(module for module in model.modules() if isinstance(module, hierax.Backbone))
        assert torch.equal(body.encoder.patch_embed.proj.weight, weight) == pretrained


def test_truth_measures_as_perfect(recipes, tmp_path):
    """Boxes in other units, or classes off by one, would be seen as a model that does not learn."""
    folder = render_scenes(tmp_path / "set", task="segmentation", count=10, seed=3, size=96)
    scenes = recipes["rendered"].Scenes(folder, hierax.load().preprocess)
    kinds, queries = len(scenes.names), 4
    logits, masks = torch.full((10, queries, kinds + 1), -20.0), torch.full((10, queries, 96, 96), -20.0)
    boxes = torch.full((10, queries, 4), 0.5)
    logits[..., -1] = 20
    for place in range(10):
        classes, found, shapes = scenes.things(place)
        count = len(classes)
        logits[place, range(count), classes] = 40
        masks[place, :count] = shapes * 40 - 20
        boxes[place, :count] = torch.cat([found[:, :2] + found[:, 2:] / 2, found[:, 2:]], 1) / 96

    class Told(torch.nn.Module):
        """Answers with the truth, in the words of either model."""

        def forward(self, pixels: torch.Tensor) -> object:
            first = next(i for i in range(10) if torch.equal(scenes.pixels[i], pixels[0]))
            part = slice(first, first + len(pixels))
            self.logits, self.pred_boxes = logits[part, :, :-1], boxes[part]
            self.class_queries_logits, self.masks_queries_logits = logits[part], masks[part]
            return self

    recipes["detect_rtdetr"].QUERIES = queries
    assert recipes["detect_rtdetr"].measure(Told(), scenes)["AP"] == pytest.approx(1)
    found = recipes["segment_mask2former"].measure(Told(), scenes)
    assert found["AP"] == pytest.approx(1)
    assert found["mIoU"] > 0.9  # polygons and painted masks part at rims


class Taken(torch.nn.Module):
    """Keeps what it is given."""

    loss = torch.zeros(())

    def __init__(self) -> None:
        super().__init__()
        self.given: list = []

    def forward(self, pixels, **labels):
        self.given.append((pixels, labels))
        return self


def test_mirrored_boxes_follow_the_image(recipes, tmp_path, monkeypatch):
    """A flip that forgets the boxes teaches half of the images wrongly."""
    folder = render_scenes(tmp_path / "set", task="segmentation", count=4, seed=3, size=96)
    scenes = recipes["rendered"].Scenes(folder, hierax.load().preprocess)
    for name in ("detect_rtdetr", "segment_mask2former"):
        taken = Taken()
        for draw in (0.9, 0.1):
            monkeypatch.setattr("random.random", lambda draw=draw: draw)
            recipes[name].loss_of(taken, scenes, [0])
        (plain, before), (mirrored, after) = taken.given
        assert torch.equal(mirrored, plain.flip(-1))
        if name == "detect_rtdetr":
            old, new = before["labels"][0]["boxes"], after["labels"][0]["boxes"]
            assert torch.allclose(new[:, 0], 1 - old[:, 0])
            assert torch.equal(new[:, 1:], old[:, 1:])
        else:
            assert torch.equal(after["mask_labels"][0], before["mask_labels"][0].flip(-1))


def _changed(change):
    """What `change` makes of the annotations of a small set."""

    def apply(folder: Path) -> None:
        said = json.loads((folder / "annotations.json").read_text())
        change(said)
        (folder / "annotations.json").write_text(json.dumps(said))

    return apply


def _smaller_mask(folder: Path) -> None:
    mask = Image.open(folder / "masks" / "1.png")
    mask.resize((32, 32)).save(folder / "masks" / "1.png")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            _changed(lambda said: said["annotations"][0].update(bbox=[60, 5, 90, 20])),
            r"annotation 1 of 0.jpg \(96 x 96\)",
        ),
        (_changed(lambda said: said["annotations"][0].update(bbox=[5, 5, 0, 20])), "boxes must lie inside"),
        (_changed(lambda said: said["annotations"][0].update(category_id=99)), "annotation 1 is of"),
        (_changed(lambda said: said["annotations"][0].update(image_id=99)), "annotation 1 is of"),
        (_changed(lambda said: said["annotations"].clear()), "4 images have no annotation, 0.jpg first"),
        (_changed(lambda said: said["categories"].pop(3)), "without a gap"),
        (_changed(lambda said: said["images"][0].update(height=99)), "must all have one size"),
        (_smaller_mask, r"masks/1.png must be there, .*it is \(32, 32\)"),
        (lambda folder: (folder / "masks" / "1.png").unlink(), "it is missing"),
    ],
)
def test_annotations_that_contradict_the_images(spoil, words, recipes, tmp_path):
    """Trained on, each of these would only be seen as a figure that is low."""
    folder = render_scenes(tmp_path / "set", task="segmentation", count=4, seed=3, size=96)
    spoil(folder)
    with pytest.raises(hierax.InputError, match=words):
        recipes["rendered"].Scenes(folder, hierax.load().preprocess)


def _unreadable(folder: Path) -> None:
    (folder / "images" / "1.jpg").write_bytes(b"nothing")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "annotations.json").unlink(),
        lambda folder: (folder / "annotations.json").write_text("["),
        lambda folder: (folder / "annotations.json").write_text("[]"),
        _changed(lambda said: said.pop("images")),
        _changed(lambda said: said["annotations"][0].pop("bbox")),
        _changed(lambda said: said["annotations"][0].update(bbox="wide")),
        _unreadable,
    ],
)
def test_annotations_that_are_none(spoil, recipes, tmp_path):
    """A file of another program's would end in the midst of ours."""
    folder = render_scenes(tmp_path / "set", task="segmentation", count=2, seed=3, size=96)
    spoil(folder)
    with pytest.raises(hierax.InputError, match="must hold what `hierax render --task segmentation` writes"):
        recipes["rendered"].Scenes(folder, hierax.load().preprocess)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--size", "50"], "multiple of 32; got 50"),
        (["--batch-size", "9"], "at most --scenes, 8; got 9"),
        (["--epochs", "0"], "at least 1; got 0"),
        (["--every", "0"], "at least 1; got 0"),
        (["--lr", "-1"], "positive number; got -1"),
        (["--lr", "nan"], "positive number; got nan"),
        (["--data", "/nowhere"], "annotations.json"),
    ],
)
def test_wrong_arguments__are_told_before_anything_is_made(words, said, recipes, tmp_path, monkeypatch, capsys):
    """After a traceback, or a run of minutes, nobody knows which argument it was."""
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["detect_rtdetr.py", str(out), *SMALLEST, *words])
    recipe = recipes["detect_rtdetr"]
    with pytest.raises(SystemExit) as ended:
        recipe.main("", 1, recipe.build, recipe.loss_of, recipe.measure)
    assert said in f"{ended.value} {capsys.readouterr().err}"
    assert not out.exists()


def test_a_folder_that_is_there_is_kept(recipes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["detect_rtdetr.py", str(tmp_path), *SMALLEST])
    with pytest.raises(SystemExit):
        recipes["rendered"].arguments("", epochs=1)
    assert "must be a new folder" in capsys.readouterr().err


def test_a_class_that_never_occurs_is_named(recipes, tmp_path, caplog):
    folder = render_scenes(tmp_path / "set", task="segmentation", count=2, seed=3, size=96)
    recipes["rendered"].Scenes(folder, hierax.load().preprocess)
    assert "no annotation is of" in caplog.text
    assert "arrow" in caplog.text


def test_published_recipe_says_what_the_paper_says():
    """Settings with a lost value would be a run of nobody's; members that do not exist cannot be loaded."""
    said = read_toml(RECIPES / "detectron2" / "coco_hiera_mask_rcnn.toml", what="A recipe", error=hierax.RecipeError)
    assert (said["epochs"], said["batch_size"], said["optimizer"]["weight_decay"], said["layer_decay"]) == (
        100,
        64,
        0.1,
        1,
    )
    rates = {name: (each["lr"], each["drop_path"]) for name, each in said["members"].items()}
    assert rates["hiera_large_224"] == (3e-5, 0.4)
    assert rates["hiera_base_224"] == rates["hiera_base_plus_224"] == (3.5e-5, 0.2)
    assert {*rates} <= {*hierax.list_models()}
    assert "NOT RUN" in (RECIPES / "detectron2" / "coco_hiera_mask_rcnn.toml").read_text()


@pytest.mark.nightly
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pretrained_weights_help(seed, recipes, tmp_path, monkeypatch):
    """With random weights in the backbone the same detector must be worse: else nothing of the encoder is used."""
    words = [
        "--scenes",
        "200",
        "--held-out",
        "100",
        "--size",
        "192",
        "--epochs",
        "15",
        "--every",
        "15",
        "--batch-size",
        "8",
    ]
    words += ["--seed", str(seed)]
    pretrained = trained(recipes, "detect_rtdetr", tmp_path / "a", monkeypatch, *words)[-1]["AP50"]
    random = trained(recipes, "detect_rtdetr", tmp_path / "b", monkeypatch, *words, "--random-backbone")[-1]["AP50"]
    assert pretrained > random + 0.1
