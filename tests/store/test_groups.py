"""Near-duplicates in groups, against every pair computed and walked through."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hierax.errors import InputError
from hierax.store import exact, groups


def brute(vectors, threshold):
    """Connected components of all pairs, by walking."""
    wide = exact.units(vectors)
    near = np.round((wide[:, None] * wide[None]).sum(-1), 12) >= threshold
    seen, found = set(), []
    for start in range(len(vectors)):
        group, todo = [], [start] if start not in seen else []
        while todo:
            row = todo.pop()
            if row not in seen:
                seen.add(row)
                group.append(row)
                todo += np.flatnonzero(near[row]).tolist()
        if len(group) > 1:
            found.append(sorted(group))
    return found


def album(count, width, *, seed=0):
    """Vectors as embeddings are: in clusters, unequal directions, some copied with little noise, some exactly."""
    random = np.random.default_rng(seed)
    spread = 1 / np.arange(1, width + 1) ** 0.7
    found = random.standard_normal((30, width))[random.integers(0, 30, count)] + random.standard_normal((count, width))
    copies = random.choice(count, count // 5, replace=False)
    found[copies] = found[random.integers(0, count, len(copies))] + 0.2 * random.standard_normal((len(copies), width))
    found[::97] = found[0]
    return (found * spread).astype(np.float32)


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.97, 1.0])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_groups__equal_every_pair_computed(threshold, dtype, monkeypatch):
    """A pair across two blocks that is missed, or one that the sketch rules out wrongly, changes a group."""
    monkeypatch.setattr(groups, "_ROWS", 64)
    vectors = album(700, 48).astype(dtype)
    found = groups.duplicate_groups(vectors, threshold)
    assert [group.tolist() for group in found] == brute(vectors, threshold)


def test_groups__a_sketch_rules_nothing_similar_out(monkeypatch):
    """The bound by leading coordinates must hold for every pair, not for most: rounding included."""
    vectors = album(9000, 96, seed=3)
    quick = groups.duplicate_groups(vectors, 0.95)
    assert groups._Search(vectors, exact.lengths_of(vectors), 0.95)._sketch is not None, "nothing was ruled out by it"
    monkeypatch.setattr(groups._Search, "_directions", lambda self: None)
    whole = groups.duplicate_groups(vectors, 0.95)
    assert [group.tolist() for group in quick] == [group.tolist() for group in whole]
    assert len(whole) > 500


def test_groups__a_chain_is_one_group():
    """Linked by others is linked: the ends of a chain of photos may differ more than the threshold allows."""
    angles = np.deg2rad(np.arange(0, 60, 2))
    chain = np.column_stack([np.cos(angles), np.sin(angles)])[np.random.default_rng(1).permutation(30)]
    assert len(groups.duplicate_groups(chain, float(np.cos(np.deg2rad(2.1))))) == 1
    assert not groups.duplicate_groups(chain, float(np.cos(np.deg2rad(1.9))))


def test_groups__many_equal_rows(monkeypatch):
    """All rows equal is one group, in memory and time of rows, not of pairs; zeros are similar to nothing."""
    same = np.tile(np.float32([[3, 4, 0]]), (20_000, 1))
    assert [len(group) for group in groups.duplicate_groups(same, 1.0)] == [20_000]
    assert not groups.duplicate_groups(np.zeros((50, 3), np.float32), 0.1)


@settings(max_examples=50, deadline=None)
@given(
    arrays.arrays(np.float32, st.tuples(st.integers(0, 30), st.just(3)), elements=st.integers(-2, 2).map(float)),
    st.sampled_from([0.5, 0.7, 0.8, 1.0]),
)
def test_groups__small_whole_numbers(vectors, threshold):
    """Cosines that stand exactly on a threshold are in."""
    assert [group.tolist() for group in groups.duplicate_groups(vectors, threshold)] == brute(vectors, threshold)


@pytest.mark.parametrize("threshold", [0, -0.5, 1.01, float("nan"), "0.9", True, None])
def test_groups__refuse_an_impossible_threshold(threshold):
    """At 0 and below everything is a duplicate, above 1 nothing: neither is what anybody means."""
    with pytest.raises(InputError, match="above 0 and up to 1"):
        groups.duplicate_groups(np.ones((3, 2), np.float32), threshold)


def test_groups__refuse_what_is_no_number():
    """A NaN is similar to nothing, and would be left out unsaid."""
    vectors = np.ones((5, 3), np.float32)
    vectors[3, 1] = np.nan
    with pytest.raises(InputError, match="row 3"):
        groups.duplicate_groups(vectors, 0.9)
