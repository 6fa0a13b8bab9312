"""Exact search against brute force: every row, ties in order, numbers that float32 cannot hold, memory."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hierax.errors import InputError
from hierax.store import exact


def brute(vectors, queries, k):
    """What the words say: cosines in float64, in steps of 1e-12, a stable sort."""
    wide = [np.asarray(found, np.float64) for found in (vectors, queries)]
    rows, asked = (found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-300) for found in wide)
    cosines = np.round(asked @ rows.T, 12)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(cosines, order, 1)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize(("count", "width", "k"), [(5000, 24, 10), (3000, 768, 1), (700, 5, 700), (3, 8, 50)])
def test_nearest__equals_brute_force(dtype, count, width, k, monkeypatch):
    """A pass in float32 alone, or a block whose rows are lost at its edge, gives other rows or other cosines."""
    monkeypatch.setattr(exact, "_BLOCK_BYTES", 4 * width * 129)  # many blocks, the last not full
    random = np.random.default_rng(count)
    vectors = (random.standard_normal((count, width)) * random.uniform(0.1, 9, (count, 1))).astype(dtype)
    queries = np.concatenate([random.standard_normal((300, width)), vectors[:2].astype(np.float64)])  # two rounds
    rows, cosines = exact.nearest(vectors, queries, k=k)
    wanted = brute(vectors, queries, k)
    assert np.array_equal(rows, wanted[0])
    assert np.abs(cosines - wanted[1]).max() <= 2e-12
    one = [exact.nearest(vectors, query[None], k=k) for query in queries[-3:]]
    assert all(np.array_equal(rows[n - 3], found[0]) for n, (found, _) in enumerate(one)), "asked alone, other answers"


def test_nearest__near_ties_that_float32_cannot_tell():
    """Rows that differ in the ninth digit have one cosine in float32: their order would be chance."""
    random = np.random.default_rng(1)
    query = random.standard_normal(64)
    side = random.standard_normal(64)
    tilt = 1e-3 * (1 + 1e-6 * random.permutation(4000))  # cosines some 1e-12 and up apart, all near 1
    vectors = query + tilt[:, None] * side
    rows, _ = exact.nearest(vectors, query[None], k=50)
    assert np.array_equal(rows, brute(vectors, query[None], 50)[0])
    assert len(set(exact.nearest(vectors.astype(np.float32), query[None].astype(np.float32), k=50)[0][0])) == 50


def test_nearest__of_tied_rows_the_earlier_comes_first(monkeypatch):
    """Rows that are equal, or equal in direction, must not be ordered by the block or the kernel they fall into."""
    monkeypatch.setattr(exact, "_BLOCK_BYTES", 4 * 33 * 50)
    random = np.random.default_rng(2)
    few = random.standard_normal((4, 33)).astype(np.float32)
    which = random.integers(0, 4, 1000)
    vectors = few[which] * np.float32(2.0) ** random.integers(-3, 4, (1000, 1))
    rows, cosines = exact.nearest(vectors, few, k=300)
    for number in range(4):
        same = np.flatnonzero(which == number)[:300]
        assert np.array_equal(rows[number][: len(same)], same)
        assert (cosines[number][: len(same)] == 1).all()


def test_nearest__lengths_that_float32_cannot_square():
    """1e-30 and 1e30 vanish or overflow when squared; a vector of length 0 is similar to nothing, not NaN."""
    random = np.random.default_rng(3)
    vectors = random.standard_normal((60, 16)).astype(np.float32)
    vectors[10:20] *= np.float32(1e-36)
    vectors[20:30] *= np.float32(1e37)
    vectors[30] = 0
    query = random.standard_normal((1, 16)) * 1e200
    rows, cosines = exact.nearest(vectors, query, k=60)
    wanted = brute(
        np.delete(vectors, 30, 0) / np.abs(np.delete(vectors, 30, 0)).max(1, keepdims=True), query / 1e200, 59
    )
    assert np.array_equal(np.delete(rows[0], np.flatnonzero(rows[0] == 30)), wanted[0][0] + (wanted[0][0] >= 30))
    assert cosines[0][rows[0] == 30] == 0
    nothing = exact.nearest(vectors, np.zeros((1, 16)), k=3)
    assert nothing[0].tolist() == [[0, 1, 2]]
    assert not nothing[1].any()


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 40), st.just(3)), elements=st.integers(-3, 3).map(float)),
    arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.just(3)), elements=st.integers(-3, 3).map(float)),
    st.integers(1, 50),
)
def test_nearest__small_whole_numbers(vectors, queries, k):
    """Directions repeat all over, zeros too: every order but the rows' own shows."""
    rows, cosines = exact.nearest(vectors, queries, k=k)
    wanted = brute(vectors, queries, k)
    assert np.array_equal(rows, wanted[0])
    assert np.allclose(cosines, wanted[1], atol=2e-12, rtol=0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nearest__refuses_what_is_no_number(value):
    """NaN compares as nothing: such a row would vanish, and such a query find anything."""
    vectors = np.ones((9, 4), np.float32)
    with pytest.raises(InputError, match="finite"):
        exact.nearest(vectors, np.array([[1, 2, 3, value]]), k=1)
    vectors[7, 2] = value
    with pytest.raises(InputError, match="row 7"):
        exact.nearest(vectors, np.ones((1, 4)), k=1)


@pytest.mark.parametrize("query", [np.ones((1, 5)), np.ones(4), np.array([["a"] * 4]), np.ones((1, 4, 1))])
def test_nearest__refuses_queries_of_another_shape(query):
    """Broadcasting would answer something."""
    with pytest.raises(InputError, match="4 numbers"):
        exact.nearest(np.ones((9, 4), np.float32), query, k=1)
    with pytest.raises(InputError):
        exact.nearest(np.ones((9, 4), np.float32), np.ones((1, 4)), k=0)


def test_nearest__no_rows():
    """An empty store has no neighbours, and that is no error."""
    rows, cosines = exact.nearest(np.zeros((0, 4), np.float32), np.ones((2, 4)), k=3)
    assert rows.shape == cosines.shape == (2, 0)


@pytest.mark.slow
def test_nearest__memory_does_not_grow_with_the_rows(tmp_path):
    """Vectors that are read whole, or mapped pages that stay, make a store larger than memory unsearchable."""
    place, code = (
        tmp_path / "vectors.npy",
        (
            "import resource, sys, numpy as np\n"
            "from hierax.store import exact\n"
            "vectors = np.load(sys.argv[1], mmap_mode='r')\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "rows, _ = exact.nearest(vectors, np.asarray(vectors[[7, 999_999]]), k=3)\n"
            "print(rows[:, 0].tolist(), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)\n"
        ),
    )
    found = np.lib.format.open_memmap(place, "w+", np.float16, (1_000_000, 288))  # 549 MiB
    random = np.random.default_rng(4).standard_normal((50_000, 288)).astype(np.float16)
    for start in range(0, len(found), len(random)):
        found[start : start + len(random)] = np.roll(random, start // len(random), axis=1)
    found.flush()
    done = subprocess.run([sys.executable, "-c", code, place], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows, _, megabytes = done.stdout.rpartition(" ")
    assert rows == "[7, 999999]"
    assert int(megabytes) < 120, f"{megabytes} MiB for 549 MiB of vectors"
