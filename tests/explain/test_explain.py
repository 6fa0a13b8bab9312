"""`hierax.explain` and `hierax explain`, as a user calls them: sizes, targets, refusals, pictures."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import hierax
from hierax.cli import main
from hierax.errors import InputError, UnknownNameError
from hierax.explain.target import class_index
from hierax.model.programs.encoder import ProgramEncoder
from hierax.predictor import Predictor
from hierax.weights.network import to_module

from ..members import MEMBERS, noise, pixels, weights_of

METHODS = ("rollout", "gradcam", "occlusion")
EXAMPLES = Path(__file__).parents[2] / "examples"


def member(name, **changes):
    weights = weights_of(dataclasses.replace(MEMBERS[name], **changes))
    return Predictor(to_module(weights).eval(), weights)


@pytest.fixture(scope="module")
def predictor():
    return hierax.load()


@pytest.mark.parametrize("method", METHODS)
def test_explain__as_large_as_the_image(predictor, method):
    """Maps of the network's input would have to be cropped and resized by every caller."""
    images = [noise(50, 70, seed) for seed in range(2)]
    maps = hierax.explain(predictor, images, method=method)
    assert maps.shape == (2, 50, 70)
    assert maps.dtype == np.float32
    assert np.abs(maps[0] - maps[1]).max() > 0
    alone = hierax.explain(predictor, images[1], method=method)
    assert np.allclose(alone[0], maps[1], atol=1e-6)


def test_explain__inputs(predictor):
    """A path, its pixels, a PIL image and the prepared tensor show one thing."""
    path = EXAMPLES / "ring.png"
    wanted = hierax.explain(predictor, path, method="gradcam")
    assert np.array_equal(hierax.explain(predictor, np.asarray(Image.open(path)), method="gradcam"), wanted)
    assert np.array_equal(hierax.explain(predictor, iter([str(path)]), method="gradcam"), wanted)
    of_tensor = hierax.explain(predictor, predictor.prepare(path), method="gradcam")
    assert of_tensor.shape == (1, 96, 96)
    small = np.asarray(Image.fromarray(wanted[0]).resize((96, 96)))
    assert np.corrcoef(of_tensor.ravel(), small.ravel())[0, 1] > 0.999
    assert hierax.explain(predictor, []).shape == (0, 96, 96)


def test_explain__several_sizes(predictor):
    """One array cannot hold maps of two sizes; resizing one unasked would move its values."""
    with pytest.raises(InputError, match=r"one size; got 40 x 40, 40 x 60.*once for each size"):
        hierax.explain(predictor, [noise(40, 60), noise(40, 40)])
    with pytest.raises(InputError, match="one size"):
        hierax.explain(predictor, [pixels(3, 96, 96), pixels(3, 64, 96)])


def test_explain__target(predictor):
    """A class by name, by number or by default is one class; another one has another map."""
    path = EXAMPLES / "ring.png"
    best = predictor.classify(path, top_k=1)[0][0]
    assert best.label == "ring"
    for method in ("gradcam", "occlusion"):
        default = hierax.explain(predictor, path, method=method)
        for target in ("ring", " Ring", best.index, str(best.index), f"class_{best.index}", np.int64(best.index)):
            assert np.array_equal(hierax.explain(predictor, path, method=method, target=target), default)
        assert not np.array_equal(hierax.explain(predictor, path, method=method, target="dots"), default)
    plain, ring, dots = (hierax.explain(predictor, path, target=target) for target in (None, "ring", "dots"))
    assert not np.array_equal(plain, ring)
    assert not np.array_equal(dots, ring)


def test_explain__cell(predictor):
    """A cell is traced to where it looks; rows and columns exchanged would look elsewhere."""
    image = noise(96, 96)
    maps = hierax.explain(predictor, image, target=(1, 4), stage="stage2")[0]
    rows, columns = np.nonzero(maps > 1e-3 * maps.max())
    assert (rows.min(), rows.max()) == (0, 31 + 2)  # bilinear: half a cell of 4 px into the next
    assert (columns.min(), columns.max()) == (32 - 2, 32 * 2 + 1)


def test_explain__same_from_fast_network(predictor):
    """An engine's encoder answers like the readable one; its maps must be of the same weights."""
    fast = hierax.load(fast=True)
    for method in METHODS:
        a, b = (hierax.explain(each, EXAMPLES / "star.jpg", method=method) for each in (predictor, fast))
        assert np.abs(a - b).max() < 1e-4 * max(1.0, np.abs(a).max())


def test_explain__bfloat16(predictor):
    """Half the digits, the same place."""
    low = hierax.load(dtype="bfloat16")
    for method in METHODS:
        a, b = (hierax.explain(each, EXAMPLES / "star.jpg", method=method) for each in (predictor, low))
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.95


@pytest.mark.parametrize(
    ("options", "kind", "match"),
    [
        ({"target": "rnig"}, UnknownNameError, "Did you mean 'ring'"),
        ({"target": "x" * 10000}, UnknownNameError, "16 classes"),
        ({"target": 16}, InputError, "0 to 15; got 16"),
        ({"target": -1}, InputError, "0 to 15; got -1"),
        ({"target": "class_99"}, InputError, "0 to 15; got 99"),
        ({"target": 1.5}, InputError, "name or number"),
        ({"target": True}, InputError, "name or number"),
        ({"target": ["ring"]}, InputError, "name or number"),
        ({"target": (3, 0)}, InputError, "grid of 3 x 3"),
        ({"target": (0, 0.5)}, InputError, "grid of 3 x 3"),
        ({"target": (0, 0), "method": "gradcam"}, InputError, "rollout' alone"),
        ({"method": "gradcan"}, UnknownNameError, "Did you mean 'gradcam'"),
        ({"method": None}, UnknownNameError, "Methods are"),
        ({"method": ["rollout"]}, UnknownNameError, "Methods are"),
        ({"stage": "stage5"}, UnknownNameError, "Did you mean 'stage"),
        ({"stage": 3}, UnknownNameError, "Stages are"),
        ({"stage": ["stage1"]}, UnknownNameError, "Stages are"),
    ],
)
def test_explain__refuses_options(predictor, options, kind, match):
    """An option that is silently ignored shows a picture of something else."""
    with pytest.raises(kind, match=match):
        hierax.explain(predictor, [], **options)


def test_explain__names_that_several_classes_have(predictor):
    """ImageNet has two cranes; taking the first would explain a bird where a machine is meant."""
    twin = hierax.load()
    twin.labels = ["crane", *twin.labels[1:-1], "crane"]
    with pytest.raises(InputError, match="classes 0, 15. Pass its number"):
        class_index("crane", twin)


def test_explain__networks_without_classes():
    """SAM 2's trunk has no classes: rollout works, what needs a class says what to do."""
    trunk, image = member("SAM 2 trunk"), noise(64, 64)
    assert hierax.explain(trunk, image).shape == (1, 64, 64)
    assert hierax.explain(member("Hiera MAE"), image).shape == (1, 64, 64)
    for options in ({"method": "gradcam"}, {"method": "occlusion"}, {"target": "ring"}, {"target": 0}):
        with pytest.raises(InputError, match="has none.*rollout"):
            hierax.explain(trunk, image, **options)


def test_explain__other_networks():
    """Clips have maps over time, which one image cannot show; a program has no inside."""
    with pytest.raises(InputError, match="takes clips. Use an image member"):
        hierax.explain(member("Hiera video"), noise(64, 64))
    weights = weights_of(MEMBERS["Hiera"])
    program = ProgramEncoder(MEMBERS["Hiera"], lambda x, names: {}, ("logits",), any_size=False)
    with pytest.raises(InputError, match="exported program.*Load the weights"):
        hierax.explain(Predictor(program, weights), noise(64, 64))


def test_explain__not_finite(predictor):
    """NaN drawn as a picture would look like an answer."""
    with pytest.raises(InputError, match="finite"):
        hierax.explain(predictor, torch.full((3, 96, 96), float("nan")))


@pytest.mark.parametrize("method", METHODS)
def test_command(method, tmp_path, capsys):
    """A sheet with a row for each image; the broken one is named, and the exit code says so."""
    (tmp_path / "broken.jpg").write_text("no image")
    shutil.copy(EXAMPLES / "ring.png", tmp_path / "a.png")
    shutil.copy(EXAMPLES / "dots.png", tmp_path / "b.png")
    out = tmp_path / "out" / "map.png"
    assert main(["explain", *map(str, sorted(tmp_path.glob("*.*"))), "-o", str(out), "--method", method]) == 3
    said = capsys.readouterr().err
    assert "broken.jpg" in said
    assert "1 of 3 files could not be read" in said
    both = Image.open(out).size
    arguments = ["explain", str(tmp_path / "a.png"), "-o", str(out), "--method", method, "--class", "ring"]
    assert main(arguments) == 1
    assert "already exists" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    assert Image.open(out).size == (both[0], both[1] // 2)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--class", "rnig"], "Did you mean 'ring'"),
        (["--stage", "stage7"], "Stages are"),
        (["-o", "map.jpg"], "must end with .png"),
        (["-o", "ring.png", "--overwrite"], "one of the inputs"),
        (["-m", "nothing.onnx"], "nothing.onnx"),
    ],
)
def test_command__refuses(arguments, match, tmp_path, capsys, monkeypatch):
    """What is wrong is said before any image is explained, and leaves no file."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(EXAMPLES / "ring.png", tmp_path / "ring.png")
    before = (tmp_path / "ring.png").read_bytes()
    where = [] if "-o" in arguments else ["-o", "map.png"]
    assert main(["explain", "ring.png", *where, *arguments]) == 1
    assert match in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["ring.png"]
    assert (tmp_path / "ring.png").read_bytes() == before
