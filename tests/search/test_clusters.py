"""Groups of similar images: what belongs together, the same each time, and one image that stands for each."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

import hierax
from hierax.cli import main
from hierax.errors import InputError
from hierax.search import clusters

from .stores import write_store

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """300 vectors in three directions, of 150, 100 and 50, in no order and of any length; row 7 has none."""
    random = np.random.default_rng(0)
    truth = random.permutation(np.repeat([0, 1, 2], [150, 100, 50]))
    vectors = (np.eye(3, 8)[truth] + 0.1 * random.standard_normal((300, 8))) * random.uniform(0.1, 50, (300, 1))
    place = tmp_path_factory.mktemp("clusters") / "store"
    return write_store(place, vectors.astype(np.float32), errors={7}, dtype="float16"), np.delete(truth, 7)


def test_clusters__directions_and_not_lengths(made):
    """K-means of vectors as they are would split long ones from short ones."""
    store, truth = hierax.open_store(made[0]), made[1]
    found = clusters.find_clusters(store, 3)
    assert np.array_equal(found.labels, truth), "the largest group first"
    for group, row in enumerate(found.representatives):
        inside = found.labels == group
        assert inside[row]
        assert found.distances[row] == found.distances[inside].min()
    unit = store.vectors().astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    assert np.allclose(found.distances, 1 - (unit * found.centres[found.labels]).sum(1), atol=1e-4)
    again = clusters.find_clusters(store, 3)
    assert np.array_equal(again.labels, found.labels)


def test_clusters__of_a_sample(made, monkeypatch):
    """Of more rows than are sampled every one still has its group."""
    monkeypatch.setattr(clusters, "_SAMPLE", 60)
    found = clusters.find_clusters(hierax.open_store(made[0]), 3, seed=4)
    assert (found.labels == made[1]).mean() > 0.99


def test_clusters__fewer_different_vectors_than_groups(tmp_path, capsys):
    """Empty groups have no image that stands for them."""
    same = write_store(tmp_path / "store", np.repeat(np.eye(2, 5), [4, 3], axis=0))
    found = clusters.find_clusters(hierax.open_store(same), 5)
    assert found.sizes.tolist() == [4, 3]
    assert main(["cluster", str(same), "-k", "5"]) == 0
    assert "2 clusters" in capsys.readouterr().err


def test_clusters__refuse_what_cannot_be(made, tmp_path):
    """More groups than images, or none."""
    store = hierax.open_store(made[0])
    for k, seed in ((0, 0), (300, 0), (2, -1), (2, 1.5)):
        with pytest.raises(InputError):
            clusters.find_clusters(store, k, seed=seed)
    empty = hierax.open_store(write_store(tmp_path / "none", np.zeros((1, 3)), errors={0}))
    with pytest.raises(InputError, match="at most as many"):
        clusters.find_clusters(empty, 1)


def test_cluster__command(made, album, capsys):
    """A line for each group, or for each image; one image for each group on the picture."""
    sizes = [[str(group), str(size)] for group, size in enumerate(np.bincount(made[1]))]
    assert main(["cluster", str(made[0]), "-k", "3"]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[1:]] == sizes
    assert main(["cluster", "store", "-k", "4", "--format", "jsonl", "--contact-sheet", "c.png"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 29
    assert sum(row["representative"] for row in rows) == 4
    assert [row["cluster"] for row in rows] == sorted(row["cluster"] for row in rows)
    with Image.open("c.png") as sheet:
        assert sheet.width > 300
    assert main(["cluster", "store", "-k", "4", "--format", "csv"]) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["path"], int(row["cluster"])) for row in table] == [(row["path"], row["cluster"]) for row in rows]
