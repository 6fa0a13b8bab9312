"""Class names: complete, in output order, and the same as where they come from."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest

import hierax
from hierax.config import ModelConfig
from hierax.errors import UnknownNameError
from hierax.weights import labels
from hierax.weights.write import write_weights

from ..members import SMALL, weights_of


@pytest.mark.parametrize(("name", "count"), [("imagenet1k", 1000), ("imagenet12k", 11821)])
def test_class_names__complete_and_ordered_by_id(name, count):
    """One name too few or two swapped, and every later class answers with its neighbour's word."""
    names, ids = labels.class_names(name), labels.synsets(name)
    assert len(names) == len(ids) == len(set(ids)) == count
    assert list(ids) == sorted(ids)
    assert all(text and text == text.strip() and text.isascii() for text in names)


def test_class_names__known_landmarks():
    """A list sorted by word instead of by id would still be complete."""
    names = labels.class_names("imagenet1k")
    assert names[0] == "tench, Tinca tinca"
    assert names[1].startswith("goldfish")
    assert names[207].startswith("golden retriever")
    assert names[999].startswith("toilet tissue")
    assert labels.synsets("imagenet1k")[0] == "n01440764"
    assert labels.class_names("imagenet12k")[0] == "benthos"


def test_class_names__lists_share_words():
    """The two lists come from one table; a wrong membership flag would shift one of them."""
    one = dict(zip(labels.synsets("imagenet1k"), labels.class_names("imagenet1k"), strict=True))
    twelve = dict(zip(labels.synsets("imagenet12k"), labels.class_names("imagenet12k"), strict=True))
    shared = one.keys() & twelve.keys()
    assert len(shared) == 993
    assert all(one[key] == twelve[key] for key in shared)


def test_class_names__unknown_list():
    """A bare KeyError would not say which lists there are."""
    with pytest.raises(UnknownNameError, match="imagenet1k"):
        labels.class_names("imagenet2k")


@pytest.mark.parity
def test_synsets__equal_timm():
    """Against the files that timm's own weights are labelled with."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        pytest.skip("timm is not installed")
    info = Path(spec.origin).parent / "data" / "_info"
    lemmas = dict(line.split("\t") for line in (info / "imagenet_synset_to_lemma.txt").read_text().splitlines() if line)
    for name, file in (("imagenet1k", "imagenet_synsets.txt"), ("imagenet12k", "imagenet12k_synsets.txt")):
        ids = (info / file).read_text().split()
        assert list(labels.synsets(name)) == ids
        assert list(labels.class_names(name)) == [lemmas[key] for key in ids]


@pytest.mark.parametrize("origin", ["meta", "timm", "birder"])
def test_names__of_files_without_any(origin: str, tmp_path: Path) -> None:
    """Meta and timm publish ImageNet classifiers without names; another package's thousand classes are anybody's."""
    weights = weights_of(ModelConfig(**{**SMALL, "num_classes": 1000}))
    path = write_weights(dataclasses.replace(weights, labels=None), tmp_path / origin, to=origin)
    found = hierax.load(path).labels
    assert found is None if origin == "birder" else found[0].startswith("tench")
