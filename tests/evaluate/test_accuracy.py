"""Exact accuracy: counts, class matching and the protocols of the origins."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from hierax.config import PreprocessSpec
from hierax.data.preprocess import preprocess
from hierax.errors import InputError, UnknownNameError
from hierax.evaluate.accuracy import PROTOCOLS, accuracy, protocol_spec
from hierax.predictor import Predictor
from hierax.weights.card import make_card

from ..peers import peer
from ..train import tiny


class Colours(torch.nn.Module):
    """Answers with the brightest channel."""

    def __init__(self, classes):
        super().__init__()
        self.config = tiny.CONFIG
        self.num_classes = classes

    def forward(self, x):
        scores = torch.zeros(len(x), self.num_classes)
        scores[:, :3] = x.mean((2, 3))
        return scores


def predictor(labels, classes=None):
    model = Colours(classes or len(labels))
    return Predictor(model, PreprocessSpec(size=(64, 64)), labels, make_card(tiny.CONFIG, name="colours"))


def test_exact_counts_on_a_ragged_last_batch(tmp_path):
    """Averaging batch accuracies, or dropping the last batch, gives another number than 20 of 21."""
    data = tiny.images(tmp_path, per_class=7)
    Image.fromarray(np.full((30, 30, 3), (0, 0, 255), dtype=np.uint8)).save(data / "class_0" / "000.png")
    (data / "class_2" / "001.png").write_bytes(b"")
    found = accuracy(data, predictor(["class_0", "class_1", "class_2"]), batch_size=4)
    assert (found.correct1, found.correct5, found.total) == (19, 20, 20)
    assert found.confusion[0, 2] == 1
    assert [name for _, name, *_ in found.worst] == ["class_0/000.png"]
    assert [name for name, _ in found.unreadable] == ["class_2/001.png"]


def test_classes_are_matched_by_name(tmp_path):
    """Matching by order would score a model with labels in another order near zero."""
    data = tiny.images(tmp_path, per_class=2)
    names = ["class_2", "class_0", "class_1"]
    model = predictor(names)
    model.model.forward = lambda x: x.mean((2, 3))[:, [2, 0, 1]]
    assert accuracy(data, model).top1 == 1.0
    assert accuracy(data, predictor(None, 3)).top1 == 1.0
    with pytest.raises(InputError, match="class_1"):
        accuracy(data, predictor(["class_0", "klass_1", "a", "b"]))


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


def picture(size, seed=0):
    """Edges and grain, on which engines and crops differ."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 200, (9, 9, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.NEAREST))
    return image + rng.integers(0, 50, image.shape, dtype=np.uint8)


@pytest.mark.parity
@pytest.mark.parametrize("size", [(640, 480), (343, 257), (211, 500), (100, 90)])
@pytest.mark.parametrize("side", [224, 256])
@pytest.mark.parametrize("protocol", ["timm", "birder", "meta"])
def test_protocols_are_what_their_names_say(size, side, protocol):
    """A crop of another share, a kept or lost aspect ratio, or another resize engine changes the pixels.

    The checkpoint's own recipe is made as different as can be, so that nothing of it may leak through but size and
    statistics.
    """
    image = picture(size)
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
