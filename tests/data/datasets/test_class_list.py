"""Classes of a list: the same indices whatever a piece of the data holds."""

from __future__ import annotations

import numpy as np
import pytest

import hierax
from hierax.data.datasets.class_list import read_classes, with_classes
from hierax.data.datasets.open import open_data
from hierax.errors import InputError

from ...members import folder_of_classes, samples, save_learner, write_tar
from ...train import runs


def test_read_classes(tmp_path):
    """A name lost to a byte order mark, or to Windows' line ends, is a class of its own."""
    path = tmp_path / "classes.txt"
    path.write_bytes(b"\xef\xbb\xbfant\r\nbee of prey\r\n\n")
    assert read_classes(path) == ["ant", "bee of prey"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"ant\nbee\nant\n", "line 3 has 'ant' again"),
        (b"ant\n\nbee\n", "line 2 is empty"),
        (b"\n", "has none"),
        (b"", "is empty"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_refused_lists(tmp_path, text, words):
    """Two indices of one name, or a class without one, would be trained and never found again."""
    (tmp_path / "classes.txt").write_bytes(text)
    with pytest.raises(InputError, match=words):
        read_classes(tmp_path / "classes.txt")


def test_positions__of_a_piece_of_the_data(tmp_path):
    """One shard of many lacks classes: numbered anew, its class 7 would be trained as another one."""
    data = open_data(write_tar(tmp_path / "a.tar", samples(4, labels=("7", "19"))))
    assert data.classes == ["7", "19"]
    names = [f"n{index:08}" for index in range(20)]
    listed = with_classes(data, names)
    assert listed.labels.tolist() == [7, 19, 7, 19]
    assert listed.classes == names


def test_names__in_the_order_of_the_list(tmp_path):
    """Names beat positions, also names that are numbers: a list of "1" and "0" says that index 0 is called "1"."""
    data = with_classes(open_data(folder_of_classes(tmp_path / "a", ("bee", "ant"), 2)), ["cat", "bee", "ant"])
    assert data.labels.tolist() == [2, 2, 1, 1]
    numbers = with_classes(open_data(folder_of_classes(tmp_path / "b", ("0", "1"), 1)), ["1", "0"])
    assert numbers.labels.tolist() == [1, 0]


def test_classes_that_no_list_has(tmp_path):
    """A class file of another data set must not train silently."""
    data = open_data(folder_of_classes(tmp_path / "a", ("ant", "bea"), 1))
    with pytest.raises(InputError, match="must be the 2 names .*'bea'.*[Dd]id you mean 'bee'"):
        with_classes(data, ["ant", "bee"])
    shard = open_data(write_tar(tmp_path / "a.tar", samples(4, labels=("0", "1", "2"))))
    with pytest.raises(InputError, match="positions 0 to 1 of the class file; got '2'"):
        with_classes(shard, ["ant", "bee"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run on two of four classes."""
    root = tmp_path_factory.mktemp("listed")
    data = write_tar(root / "train-0.tar", samples(20, labels=("1", "3")))
    (root / "classes.txt").write_text("ant\nbee\ncat\ndog\n")
    options = {**runs.SETTINGS, "steps": 1, "recipe": "small_finetune", "validation_fraction": 0.4}
    hierax.finetune(data, root / "out", model=save_learner(root / "m"), class_file=str(root / "classes.txt"), **options)
    return root


def test_a_run_with_a_class_file(run):
    """The head has a row for every class of the file, and the classes' names go with the result."""
    predictor = hierax.load(run / "out/model")
    assert predictor.labels == ["ant", "bee", "cat", "dog"]
    assert predictor.encoder.num_classes == 4


def test_what_it_held_out_is_found_again(run, capsys):
    """Classes that the file numbers anew must not make an evaluation count what was trained on."""
    from hierax.cli import main

    assert main(["eval", "accuracy", str(run / "train-0.tar"), "-m", str(run / "out/model"), "--format", "json"]) == 0
    out, err = capsys.readouterr()
    assert '"total": 8' in out, err


def test_known_lists():
    """A person need not look for the 11821 ids of ImageNet-12K."""
    from hierax.train.methods.supervised import classes_of

    assert (len(classes_of("imagenet12k")), classes_of("imagenet1k")[:2]) == (11821, ["n01440764", "n01443537"])
    assert classes_of(None) == []
    assert np.all(np.array(classes_of("imagenet12k")[:-1]) < np.array(classes_of("imagenet12k")[1:]))
