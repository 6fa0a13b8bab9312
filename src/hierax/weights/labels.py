"""Readable class names for weights whose file has none: ImageNet-1k and ImageNet-12k.

One table serves both lists, `assets/labels/imagenet.tsv.gz`: WordNet id, which lists it belongs to (1, 2, or 3
for both), WordNet lemmas. Class order is the order of the ids in both lists.
"""

from __future__ import annotations

import functools
import gzip
from pathlib import Path

from ..errors import UnknownNameError, nearest

_TABLE = Path(__file__).parents[1] / "assets" / "labels" / "imagenet.tsv.gz"
_MEMBERSHIP = {"imagenet1k": 1, "imagenet12k": 2}


def class_names(name: str) -> tuple[str, ...]:
    """Names of the classes in output order, all lemmas of each: "tench, Tinca tinca".

    Args:
        name: "imagenet1k" (1000 classes) or "imagenet12k" (11821). Two classes can have one name.

    Raises:
        UnknownNameError: No such list.
    """
    return tuple(lemmas for _, lemmas in _rows(name))


def names_by_count(num_classes: int) -> list[str] | None:
    """Names for files of Meta and timm, which carry none: what has as many classes as one of the lists is of it."""
    name = {1000: "imagenet1k", 11821: "imagenet12k"}.get(num_classes)
    return None if name is None else list(class_names(name))


def synsets(name: str) -> tuple[str, ...]:
    """WordNet 3.0 ids of the classes in output order: "n01440764"; never two alike.

    Raises:
        UnknownNameError: No such list.
    """
    return tuple(synset for synset, _ in _rows(name))


@functools.lru_cache(maxsize=len(_MEMBERSHIP))
def _rows(name: str) -> tuple[tuple[str, str], ...]:
    """(WordNet id, lemmas) of each class of a list."""
    if name not in _MEMBERSHIP:
        known = " or ".join(repr(known) for known in _MEMBERSHIP)
        raise UnknownNameError(f"Class names exist for {known}; got {name!r}. {nearest(name, _MEMBERSHIP)}")
    rows = (line.split("\t") for line in gzip.decompress(_TABLE.read_bytes()).decode().splitlines())
    return tuple((synset, lemmas) for synset, lists, lemmas in rows if int(lists) & _MEMBERSHIP[name])
