"""Retrieval measures: against every order of tied rows one by one, and against scikit-learn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierax.errors import InputError
from hierax.model import ranking
from hierax.model.ranking import rank

from .test_neighbours import cosine

KS = (1, 2, 5)


def by_orders(similarities, relevant, ks):
    """R@k, AP and AP@R, averaged over all orders of rows that tie."""
    groups = [
        [place for place in range(len(similarities)) if similarities[place] == value]
        for value in sorted(set(similarities), reverse=True)
    ]
    total, sums, orders = sum(relevant), np.zeros(2 + len(ks)), 0
    for parts in itertools.product(*(itertools.permutations(group) for group in groups)):
        hits = [relevant[place] for part in parts for place in part]
        precisions = [sum(hits[: n + 1]) / (n + 1) if hit else 0 for n, hit in enumerate(hits)]
        sums += [sum(precisions) / total, sum(precisions[:total]) / total, *(any(hits[:k]) for k in ks)]
        orders += 1
    return sums / orders


@st.composite
def tied(draw):
    n = draw(st.integers(2, 7))
    numbers = draw(st.lists(st.integers(-1, 1), min_size=2 * n, max_size=2 * n))
    labels = draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    return np.array(numbers, np.float32).reshape(n, 2), np.array(labels)


@settings(max_examples=60, deadline=None)
@given(tied(), st.booleans(), st.sampled_from([8, 1 << 23]))
def test_ties__mean_over_all_orders(found, alone, pairs):
    """Any one order of tied rows, or the best or the worst, gives another number than their mean."""
    rows, labels = found
    queries, truth = (None, None) if alone else (rows[::-1], (labels[::-1] + 1) % 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_PAIRS", pairs)
        measured = rank(rows, labels, queries, truth, ks=KS)
    asked, wanted = (rows, labels) if alone else (queries, truth)
    for query, vector in enumerate(asked):
        others = [place for place in range(len(rows)) if not (alone and place == query)]
        similarities = [cosine(vector, rows[place]) for place in others]
        relevant = [labels[place] == wanted[query] for place in others]
        got = [
            measured.average_precision[query],
            measured.precision_at_r[query],
            *(measured.recall[k][query] for k in KS),
        ]
        if not any(relevant):
            assert np.isnan(got).all()
        else:
            assert got == pytest.approx(by_orders(similarities, relevant, KS), abs=1e-9)
    assert measured.counted.tolist() == [not np.isnan(value) for value in measured.average_precision]


@pytest.mark.parametrize("alone", [True, False])
def test_equals_scikit_learn(alone):
    """Its average precision, with and without ties; a query that finds itself would raise every number."""
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for rows in (rng.integers(-1, 2, (60, 3)).astype(np.float32), rng.standard_normal((60, 8)).astype(np.float32)):
        labels = rng.integers(0, 4, 60)
        queries, truth = (None, None) if alone else (rows[:20][::-1].copy(), labels[:20])
        measured = rank(rows, labels, queries, truth)
        for query, vector in enumerate(rows if alone else queries):
            others = np.array([place for place in range(60) if not (alone and place == query)])
            similarities = [cosine(vector, rows[place]) for place in others]
            relevant = labels[others] == (labels if alone else truth)[query]
            wanted = metrics.average_precision_score(relevant, similarities)
            assert measured.thresholded[query] == pytest.approx(wanted, abs=1e-12)
            if len(set(similarities)) == len(similarities):
                assert measured.average_precision[query] == pytest.approx(wanted, abs=1e-12)


def test_all_equal__chance():
    """A collapsed network, whose vectors are all the same, must score as chance does, whatever the files' order."""
    labels = np.repeat([0, 1], 50)
    measured = rank(np.ones((100, 4), np.float32), labels)
    assert measured.recall[1] == pytest.approx(49 / 99)
    assert measured.recall[10].mean() == pytest.approx(1 - np.prod([(50 - i) / (99 - i) for i in range(10)]))
    assert measured.average_precision.mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"labels": [0, 1]}, "label for each"),
        ({"truth": [0]}, "class each"),
        ({"queries": np.zeros((1, 5)), "truth": [0]}, "one width"),
        ({"rows": np.zeros((1, 2)), "labels": [0]}, "something to search"),
        ({"ks": (0,)}, "k"),
    ],
)
def test_refused(given, match):
    """An index error would tell nobody what to change."""
    with pytest.raises(InputError, match=match):
        rank(**{"rows": np.eye(3, 2), "labels": [0, 1, 2], **given})
