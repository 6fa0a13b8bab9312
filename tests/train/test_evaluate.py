"""Exact accuracy: counts, class matching and the protocols of the origins."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from hierax.config import PreprocessSpec
from hierax.errors import InputError, UnknownNameError
from hierax.predictor import Predictor
from hierax.train.evaluate import PROTOCOLS, accuracy, protocol_spec
from hierax.weights.card import make_card

from . import tiny


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
