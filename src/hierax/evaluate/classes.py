"""Which of a model's classes the class names of a data set mean."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from .. import console
from ..data.datasets.samples import TrainingData, is_number
from ..errors import InputError, nearest
from ..weights.labels import class_names, synsets

_LISTS = {1000: "imagenet1k", 11821: "imagenet12k"}
_SYNSET = re.compile(r"n\d{8}")


def model_classes(data: TrainingData, count: int, labels: Sequence[str] | None) -> Int[np.ndarray, " n"]:
    """The model's class index of each sample.

    Names that are the model's labels mean those, whatever their order. Else whole numbers are class indices, WordNet
    ids are classes of ImageNet, and other names are the model's classes in sorted order, if there are as many.

    Args:
        data: Labelled samples.
        count: Classes of the model.
        labels: Their names by index; None where nobody named them.

    Raises:
        InputError: A class name that means none of the model's classes, or two of them.
    """
    used, labels = data.used_classes, list(labels or ())
    known = set(labels)
    if known.issuperset(used):
        often = Counter(labels)
        if twice := [name for name in used if often[name] > 1]:
            raise InputError(
                f"A class name must mean one class; the model has {often[twice[0]]} named {twice[0]!r}. Name the "
                "data's classes by index."
            )
        meaning = {name: index for index, name in enumerate(labels)}
    elif all(map(is_number, used)) and not (labels and all(map(is_number, labels))):
        meaning = {name: int(name) for name in used if len(name.lstrip("0")) < 10 and int(name) < count}
    elif all(map(_SYNSET.fullmatch, used)) and _is_imagenet(count, labels):
        meaning = {synset: index for index, synset in enumerate(synsets(_LISTS[count]))}
    elif len(data.classes) == count and known.isdisjoint(used) and not any(map(is_number, used)):
        console.say(f"the data's {count} classes are taken for the model's in sorted order: {data.classes[0]!r} is 0")
        meaning = {name: index for index, name in enumerate(data.classes)}
    else:
        meaning = {name: labels.index(name) for name in known.intersection(used)}
    for name in used:
        if name not in meaning:
            raise InputError(
                f"The data's classes must be the model's {count}: by name, by index from 0 to {count - 1}, by WordNet "
                f"id where they are ImageNet's, or all of them in sorted order; got {len(used)} with {name!r} among "
                f"them. {nearest(name, labels)}".strip()
            )
    return np.array([meaning.get(name, -1) for name in data.classes], dtype=np.int64)[data.labels]


def _is_imagenet(count: int, labels: Sequence[str]) -> bool:
    """Whether the classes are a known list, as their number and, where they are named, most of their names say."""
    if count not in _LISTS:
        return False
    pairs = zip(class_names(_LISTS[count]), labels, strict=False)
    return not labels or sum(ours.split(",")[0] == own.split(",")[0] for ours, own in pairs) > count / 2
