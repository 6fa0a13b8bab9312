"""Exact nearest neighbours: against every pair compared one by one, ties included, and against scikit-learn."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierax.errors import InputError
from hierax.model import neighbours
from hierax.model.neighbours import knn, knn_accuracy, nearest_rows


def cosine(a, b):
    """In the steps in which similarities are counted."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return round(float(a @ b) / norms * 2**33) if norms else 0


def by_hand(rows, labels, query, *, k, temperature, but=None):
    """Neighbours (nearest first, of equal ones the first) and classes (most votes first, of equal ones the first)."""
    found = sorted((-cosine(query, row), place) for place, row in enumerate(rows) if place != but)[:k]
    votes = dict.fromkeys(sorted({labels[place] for _, place in found}), 0.0)
    for similarity, place in found:
        weight = 1 if temperature is None else np.exp((found[0][0] - similarity) / 2**33 / temperature)
        votes[labels[place]] += weight
    return [place for _, place in found], sorted(votes, key=lambda name: -votes[name])


@st.composite
def tied_vectors(draw):
    """Few small whole numbers: most similarities occur several times, and some vectors are zero."""
    n, width = draw(st.integers(2, 24)), draw(st.integers(1, 3))
    numbers = draw(st.lists(st.integers(-2, 2), min_size=n * width, max_size=n * width))
    return np.array(numbers, np.float32).reshape(n, width), np.array(
        draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    )


@settings(max_examples=80, deadline=None)
@given(tied_vectors(), st.integers(1, 30), st.sampled_from([None, 0.07, 1.0]), st.sampled_from([(2, 3), (1024, 8192)]))
def test_ties(found, k, temperature, blocks):
    """Which of tied rows is found, and which of tied classes wins, must not hang on a partial sort or on blocks."""
    rows, labels = found
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "_QUERIES", blocks[0])
        patch.setattr(neighbours, "_ROWS", blocks[1])
        _, places = nearest_rows(rows, k=k)
        answers = knn(rows, labels, k=k, temperature=temperature, top=4)
        others = knn(rows, labels, rows[::-1], k=k, temperature=temperature, top=4)
    for query in range(len(rows)):
        near, classes = by_hand(rows, labels, rows[query], k=k, temperature=temperature, but=query)
        assert places[query].tolist() == near
        assert answers[query].tolist() == (classes + [-1] * 4)[:4]
        _, classes = by_hand(rows, labels, rows[::-1][query], k=k, temperature=temperature)
        assert others[query].tolist() == (classes + [-1] * 4)[:4]


@pytest.mark.parametrize("temperature", [None, 0.07])
@pytest.mark.parametrize("split", [True, False])
def test_equals_scikit_learn(temperature, split):
    """A vote by distance instead of similarity, or one in which a row votes for itself, gives other classes."""
    KNeighborsClassifier = pytest.importorskip("sklearn.neighbors").KNeighborsClassifier
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((7, 40))
    labels = rng.integers(0, 7, 160)
    rows = (centres[labels] + 3 * rng.standard_normal((160, 40))).astype(np.float32)
    weights = "uniform" if temperature is None else lambda distance: np.exp((1 - distance) / temperature)
    theirs = KNeighborsClassifier(20, metric="cosine", algorithm="brute", weights=weights)
    if split:
        wanted = theirs.fit(rows[:100], labels[:100]).predict(rows[100:])
        found = knn(rows[:100], labels[:100], rows[100:], temperature=temperature)
        accuracy = knn_accuracy(rows[:100], labels[:100], rows[100:], labels[100:], temperature=temperature)
        truth = labels[100:]
    else:
        wanted = np.concatenate(
            [theirs.fit(np.delete(rows, i, 0), np.delete(labels, i)).predict(rows[i : i + 1]) for i in range(len(rows))]
        )
        found, truth = knn(rows, labels, temperature=temperature), labels
        accuracy = knn_accuracy(rows, labels, temperature=temperature)
    assert (found[:, 0] == wanted).all()
    assert accuracy == (wanted == truth).mean()


def test_similarities__length():
    """Rows that are not scaled to length 1, or whose length overflows or vanishes, would come in another order."""
    rows = np.array([[1, 0], [1e30, 1e30], [0, 1e-30], [0, 0]], np.float32)
    cosines, places = nearest_rows(rows, np.array([[2, 0.1]], np.float32), k=9)
    assert places.tolist() == [[0, 1, 2, 3]]
    assert cosines[0] == pytest.approx([0.998752, 0.741536, 0.049938, 0], abs=1e-6)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"k": 0}, "k"),
        ({"temperature": 0.0}, "temperature"),
        ({"labels": [0, 1]}, "one of each"),
        ({"labels": [0, 1, -1]}, "from 0"),
        ({"rows": np.full((3, 2), np.nan)}, "finite"),
        ({"rows": np.zeros((1, 2)), "labels": [0]}, "among"),
        ({"queries": np.zeros((1, 5))}, "wide"),
        ({"rows": np.zeros(3)}, r"\(n, c\)"),
    ],
)
def test_refused(change, match):
    """An index error out of torch would tell nobody what to change."""
    with pytest.raises(InputError, match=match):
        knn(**{"rows": np.eye(3, 2), "labels": [0, 1, 2], **change})


def test_accuracy__truth_missing():
    """Queries compared with the rows' own labels would give a number that means nothing."""
    with pytest.raises(InputError, match="class each"):
        knn_accuracy(np.eye(3), [0, 1, 2], np.eye(3))


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("call", "bound"),
    [
        ("neighbours.knn_accuracy(rows, labels, rows[:n], labels[:n])", 500),
        ("ranking.rank(rows, labels, rows[:n], labels[:n])", 1300),
    ],
)
def test_memory_is_bounded(call, bound):
    """Beside 100,000 vectors (300 MB) a block of pairs and, for a ranking, the vectors in float64; all pairs are 80 GB."""
    code = (
        "import numpy as np, resource\n"
        "from hierax.model import neighbours, ranking\n"
        "rng, peak = np.random.default_rng(0), lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10\n"
        "rows, labels = rng.standard_normal((100_000, 768), np.float32), np.arange(100_000) % 100\n"
        f"n, before = 2048, peak()\n{call}\nprint(peak() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < bound, f"{done.stdout} MiB"
