"""Exact accuracy: counts, class matching and the protocols of the origins."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from hierax.cli import main
from hierax.config import PreprocessSpec, architecture
from hierax.data.datasets.samples import TrainingData
from hierax.data.preprocess import preprocess
from hierax.errors import InputError, UnknownNameError
from hierax.evaluate.accuracy import PROTOCOLS, accuracy, protocol_spec
from hierax.model.init import build
from hierax.model.metrics import Accuracy
from hierax.predictor import Predictor
from hierax.weights.card import ModelCard, Weights
from hierax.weights.labels import class_names
from hierax.weights.network import from_module
from hierax.weights.write import write_weights

from ..members import LEARNER, coloured_classes, learner, photograph
from ..peers import peer


class Colours(torch.nn.Module):
    """Answers with the brightest channel."""

    def __init__(self, classes):
        super().__init__()
        self.config = LEARNER
        self.num_classes = classes

    def forward(self, x):
        scores = torch.zeros(len(x), self.num_classes)
        scores[:, :3] = x.mean((2, 3))
        return scores


def predictor(labels, classes=None):
    return predictor_of(Colours(classes or len(labels)), labels)


def predictor_of(model, labels, spec=None):
    card = ModelCard(name="colours", config=LEARNER, preprocess=spec or PreprocessSpec(size=(64, 64)))
    return Predictor(model, Weights(card=card, labels=labels))


def test_exact_counts_on_a_ragged_last_batch(tmp_path):
    """Averaging batch accuracies, or dropping the last batch, gives another number than 20 of 21."""
    data = coloured_classes(tmp_path, per_class=7)
    Image.fromarray(np.full((30, 30, 3), (0, 0, 255), dtype=np.uint8)).save(data / "class_0" / "000.png")
    (data / "class_2" / "001.png").write_bytes(b"")
    found = accuracy(data, predictor(["class_0", "class_1", "class_2"]), batch_size=4)
    assert (found.correct1, found.correct5, found.total) == (19, 20, 20)
    assert found.confusion[0, 2] == 1
    assert [name for _, name, *_ in found.worst] == ["class_0/000.png"]
    assert [name for name, _ in found.unreadable] == ["class_2/001.png"]


def test_classes_are_matched_by_name(tmp_path):
    """Matching by order would score a model with labels in another order near zero."""
    data = coloured_classes(tmp_path, per_class=2)
    names = ["class_2", "class_0", "class_1"]
    model = predictor(names)
    model.model.forward = lambda x: x.mean((2, 3))[:, [2, 0, 1]]
    assert accuracy(data, model).top1 == 1.0
    assert accuracy(data, predictor(None, 3)).top1 == 1.0
    with pytest.raises(InputError, match="class_1"):
        accuracy(data, predictor(["class_0", "klass_1", "a", "b"]))


class Constant(Colours):
    """Always answers the last class."""

    def forward(self, x):
        return torch.eye(self.num_classes)[[-1] * len(x)]


def truths(tmp_path, names, count, labels=None):
    """The model's class that each folder of images is counted as."""
    for name in names:
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (70, 70)).save(tmp_path / "data" / name / "0.png")
    found = accuracy(tmp_path / "data", predictor_of(Constant(count), labels))
    assert found.total == len(names)
    missed = {name.split("/")[0]: truth for _, name, truth, *_ in found.worst}
    return {name: missed.get(name, count - 1) for name in names}


NUMBERS = [str(number) for number in range(12)]
IMAGENET = class_names("imagenet1k")


@pytest.mark.parametrize(
    ("names", "count", "labels", "want"),
    [
        (NUMBERS, 12, None, range(12)),
        (["3", "7"], 12, None, [3, 7]),
        (["10", "9"], 12, [f"name {number}" for number in NUMBERS], [10, 9]),
        (["007", "10"], 12, None, [7, 10]),
        (NUMBERS, 12, sorted(NUMBERS), [sorted(NUMBERS).index(name) for name in NUMBERS]),  # an older hierax's model
        (["7", "3"], 3, ["3", "7", "8"], [1, 0]),
        (["dog", "cat"], 4, ["cow", "dog", "owl", "cat"], [1, 3]),
        (["n01443537", "n01440764"], 1000, None, [1, 0]),
        (["n01443537", "n15075141"], 1000, list(IMAGENET), [1, 999]),
        (["n15075141", "n01443537"], 2, ["n01443537", "n15075141"], [1, 0]),
        (["ant", "Bee"], 2, None, [1, 0]),
    ],
)
def test_meaning_of_class_names(tmp_path, names, count, labels, want):
    """Places among the data's own classes taken for the model's class indices score a subset as other classes."""
    assert truths(tmp_path, names, count, labels) == dict(zip(names, want, strict=True))


@pytest.mark.parametrize(
    ("names", "count", "labels", "words"),
    [
        (["3", "12"], 12, None, "index from 0 to 11.*'12'"),
        (["9" * 250], 12, None, "999"),
        (["0", "1"], 3, ["1", "2", "3"], "got 2 with '0'"),  # names, not indices: a model of classes from one on
        (["0", "cat"], 2, None, "'0'"),
        (["clas_1", "class_0"], 2, ["class_0", "class_1"], "'clas_1'.*Did you mean 'class_1'"),
        (["ant", "bee"], 3, None, "'ant'"),
        (["n01443537", "n99999999"], 1000, None, "n99999999"),
        (["n01443537"], 1000, [f"my {number}" for number in range(1000)], "n01443537"),
        (["n01443537"], 12, None, "n01443537"),
        (["crane"], 3, ["crane", "owl", "crane"], "2 named 'crane'"),
    ],
)
def test_meaningless_class_names(tmp_path, names, count, labels, words):
    """A guess gives a number that nobody doubts."""
    with pytest.raises(InputError, match=words):
        truths(tmp_path, names, count, labels)


def test_sorted_order_is_said(tmp_path, capsys):
    """Taking one list of names for another is a guess, so a person must see it."""
    truths(tmp_path, ["ant", "bee"], 2)
    assert "in sorted order" in capsys.readouterr().err
    truths(tmp_path / "again", ["1", "0"], 2)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("split", [None, "train"])
def test_command_line(tmp_path, capsys, split):
    """Three of eight images are of class 10, the second of the folders by value and the first as text."""
    weights = learner()
    config = dataclasses.replace(weights.config, num_classes=12)
    module = build(config)
    torch.nn.init.zeros_(module.head.projection.weight)
    module.head.projection.bias.data = torch.eye(12)[10]
    model = write_weights(from_module(module, weights.with_card(config=config)), tmp_path / "model", to="hierax")
    data = tmp_path / "data" / (split or "")
    for name, count in {"2": 5, "10": 3}.items():
        (data / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (70, 70)).save(data / name / f"{index}.png")
    arguments = ["eval", "accuracy", str(tmp_path / "data"), "-m", str(model), "--format", "json"]
    if split is not None:
        assert main(arguments) == 1
        assert "split='train'" in capsys.readouterr().err
        arguments += ["--split", split]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["correct1"], found["total"]) == (3, 8)


class Films(TrainingData):
    """Two films whose frames spell their number."""

    def __init__(self):
        super().__init__([0, 1], ["a", "b"])

    def name(self, index):
        return f"film {index}"

    def read(self, index):
        return np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None, None], (40, 64, 64, 3))


@pytest.mark.parametrize(("own", "given", "want"), [(4, None, [12, 16, 20, 24]), (2, None, [16, 18, 20, 22]),
                                                    (2, 3, [14, 17, 20, 23])])  # fmt: skip
@pytest.mark.parametrize("protocol", ["checkpoint", "timm"])
def test_frame_stride(own, given, want, protocol):
    """A model that was trained on other strides than four would be measured on clips that it has never seen."""
    seen = []

    class Watching(Colours):
        def forward(self, x):
            seen.append((x[0, 0, :, 32, 32] * 255).round().tolist())
            return torch.zeros(len(x), self.num_classes)

    model = Watching(2)
    model.config = dataclasses.replace(architecture("hiera_base_16x224"), input_size=(4, 64, 64), num_classes=2)
    spec = PreprocessSpec(size=(64, 64), mean=(0.0,) * 3, std=(1.0,) * 3, frame_stride=own)
    watched = predictor_of(model, ["a", "b"], spec)
    assert accuracy(Films(), watched, frame_stride=given, protocol=protocol).total == 2
    assert seen == [want]
    assert (watched.prepare(Films().read(0))[0, :, 32, 32] * 255).round().tolist()[1] - 20 == -own
    with pytest.raises(InputError, match="frame_stride"):
        accuracy(Films(), watched, frame_stride=0)


def test_frame_stride__command_line(tmp_path, monkeypatch, capsys):
    """The option must arrive."""
    given = {}
    monkeypatch.setattr("hierax.load", lambda *_, **__: None)
    monkeypatch.setattr("hierax.evaluate.accuracy.accuracy", lambda *_, **options: given.update(options) or Accuracy())
    main(["eval", "accuracy", "x", "--frame-stride", "8"])
    assert given["frame_stride"] == 8


def test_protocols_at_the_size_of_the_checkpoint():
    """A protocol that forgets the size or keeps the old crop measures something else."""
    spec = PreprocessSpec(size=(256, 256), resize="shortest", crop_ratio=0.95, resize_to=300)
    assert protocol_spec("checkpoint", spec) == spec
    birder = protocol_spec("birder", spec)
    assert (birder.resize, birder.crop_ratio, birder.size, birder.resize_to) == ("squash", 1.0, (256, 256), None)
    assert protocol_spec("timm", spec).crop_ratio == 0.9
    assert all(dataclasses.replace(spec, **changes) for changes in PROTOCOLS.values())
    with pytest.raises(UnknownNameError, match="birder"):
        protocol_spec("brider", spec)


@pytest.mark.parity
@pytest.mark.parametrize("size", [(640, 480), (343, 257), (211, 500), (100, 90)])
@pytest.mark.parametrize("side", [224, 256])
@pytest.mark.parametrize("protocol", ["timm", "birder", "meta"])
def test_protocols_are_what_their_names_say(size, side, protocol):
    """A crop of another share, a kept or lost aspect ratio, or another resize engine changes the pixels.

    The checkpoint's own recipe is made as different as can be, so that nothing of it may leak through but size and
    statistics.
    """
    image = np.asarray(photograph(*size))
    own = PreprocessSpec(size=(side, side), resize="squash" if protocol != "birder" else "shortest", crop_ratio=0.8,
                         resize_to=333, engine="float", interpolation="bilinear", crop_rounding="floor")  # fmt: skip
    got = preprocess(image, protocol_spec(protocol, own))
    if protocol == "timm":
        create = peer("timm.data").create_transform
        want = create((3, side, side), crop_pct=0.9, interpolation="bicubic", mean=own.mean, std=own.std)(
            Image.fromarray(image)
        )
    elif protocol == "birder":
        preset = peer("birder.data.transforms.classification").inference_preset
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)  # birder's default loader gives tensors
        want = preset((side, side), {"mean": own.mean, "std": own.std})(pixels)
    else:
        t = peer("torchvision.transforms")
        resized = 256 if side == 224 else side  # Meta crops nothing above 224
        steps = [t.Resize(resized, interpolation=t.InterpolationMode.BICUBIC), t.CenterCrop(side), t.ToTensor()]
        want = t.Compose([*steps, t.Normalize(own.mean, own.std)])(Image.fromarray(image))
    assert got.shape == want.shape
    assert float((got - want).abs().max()) <= 1e-6
