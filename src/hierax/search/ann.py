"""An index beside a store that finds nearly all of the most similar rows without looking at each (usearch).

The index only proposes rows: they are compared exactly, so scores and order are those of `exact`. How far it looks is
chosen by measurement when it is built: far enough to find 99.5 % of the ten nearest of some 200 rows moved a little.
It belongs to the rows of one commit, by their fingerprint; of another state, or damaged, it is made anew.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from .. import console
from ..atomic import atomic_file, locked
from ..errors import HieraxError, InputError, MissingExtraError, writing
from ..schema import read_json
from ..store import exact
from ..store.layout import VECTORS
from .graph import is_sound

if TYPE_CHECKING:
    from .library import Store

RECALL = 0.995  # of the ten nearest, wanted of an index; what is promised is 0.99
EXPANSIONS = (64, 128, 256, 512, 1024, 2048, 4096)
_CONNECTIVITY, _EXPANSION_ADD = 16, 128
_AT_ONCE, _PROBES, _LEAST = 8192, 200, 32  # rows that are added; queries to measure with; rows that are proposed
_MOVED = 0.1  # of its length that a probe is away from its row
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Index:
    """An index of one column of a store.

    Attributes:
        vectors: What it is of.
        lengths: Of these.
        found: usearch's.
        expansion: How far it looks.
        recall: Of the ten nearest, measured.
    """

    vectors: Float[ndarray, "n c"]
    lengths: Float[ndarray, " n"]
    found: Any
    expansion: int
    recall: float

    def propose(self, queries: Float[ndarray, "m c"], k: int) -> list[Int[ndarray, " r"]]:
        """Rows that are likely to be among the k nearest of each query."""
        wanted = min(max(2 * k, _LEAST), len(self.vectors))
        self.found.expansion_search = max(self.expansion, wanted)
        asked = exact.units(exact.checked(queries, self.vectors.shape[1])).astype(np.float32)
        matches = self.found.search(np.ascontiguousarray(asked), wanted, threads=1)
        keys, counts = np.atleast_2d(matches.keys), np.atleast_1d(getattr(matches, "counts", len(matches.keys)))
        rows = [
            own[:count].astype(np.int64) for own, count in zip(keys, np.broadcast_to(counts, len(keys)), strict=True)
        ]
        return [own[(own >= 0) & (own < len(self.vectors))] for own in rows]

    def nearest(self, queries: Float[ndarray, "m c"], *, k: int) -> tuple[Int[ndarray, "m k"], Float[ndarray, "m k"]]:
        """As `exact.nearest`, but a row may be missed; a query for which too few are found is asked exactly."""
        k = min(k, len(self.vectors))
        rows, cosines = np.empty((len(queries), k), np.int64), np.empty((len(queries), k))
        for number, proposed in enumerate(self.propose(queries, k)):
            query = exact.units(np.asarray(queries[number], np.float64)[None])[0]
            proposed = np.unique(proposed)
            if len(proposed) < k:
                found = exact.nearest(self.vectors, query[None], k=k, lengths=self.lengths)
                rows[number], cosines[number] = found[0][0], found[1][0]
                continue
            own = exact.cosines_of(self.vectors, proposed, query)
            order = np.lexsort((proposed, -own))[:k]
            rows[number], cosines[number] = proposed[order], own[order]
        return rows, cosines


def open_index(store: Store, column: str, *, required: bool = True) -> Index | None:
    """The index of a column, built if there is none of its present rows.

    Args:
        store: Whose.
        column: Of vectors.
        required: Whether to raise where usearch is not installed.

    Returns:
        None where it is not installed, or where no index finds enough: then an exact search is right, and fast.

    Raises:
        MissingExtraError: usearch is not installed.
        InputError: The place cannot be written.
    """
    try:
        from usearch.index import Index as Found
    except ImportError as error:
        if not required:
            _log.warning("an index would be faster for %d rows: pip install usearch", store.rows)
            return None
        raise MissingExtraError("ann", "usearch") from error

    vectors, lengths = store.vectors(column), store.lengths(column)
    file = store.path / VECTORS / f"{column}-{store.fingerprint}.usearch"
    about = _usable(file, vectors) or _renewed(store.path, file, column, vectors)
    if about["expansion"] is None:
        if required:
            console.say(
                f"an index finds {about['recall']:.1%} of the nearest of these vectors at most: searching exactly"
            )
        return None
    return Index(vectors, lengths, Found.restore(str(file), view=True), about["expansion"], about["recall"])


def _empty(width: int) -> Any:
    """An index without rows, of the settings that all have."""
    from usearch.index import Index as Found

    # Half precision is enough to propose by; bfloat16 is not (recall 0.91).
    return Found(ndim=width, metric="cos", dtype="f16", connectivity=_CONNECTIVITY, expansion_add=_EXPANSION_ADD)


def _say_waiting() -> None:
    console.say("another process is building the index; waiting for it")


def _usable(file: Path, vectors: ndarray) -> dict[str, Any] | None:
    """What was measured of an index that is whole, and safe to open."""
    about = _about(file)
    with contextlib.suppress(OSError):
        if about is not None and is_sound(file, _empty(vectors.shape[1]), len(vectors)):
            return about
    return None


def _renewed(store: Path, file: Path, column: str, vectors: ndarray) -> dict[str, Any]:
    """What was measured of an index that is built now, by this process or by the one that has the lock."""
    with writing(file):
        file.parent.mkdir(exist_ok=True)
        with locked(file.parent / f"{column}.index.lock", waiting=_say_waiting):
            if about := _usable(file, vectors):
                return about
            if _about(file):
                _log.warning("the index %s is damaged, or another version of usearch made it: it is made anew", file)
            return _built_apart(store, file, column)


def _about(file: Path) -> dict[str, Any] | None:
    """What was measured of an index that is whole."""
    try:
        found = read_json(file.with_suffix(".json"), what="about an index")
        size, expansion, recall = int(found["bytes"]), found["expansion"], float(found["recall"])
        if file.stat().st_size != size or (expansion is not None and expansion not in EXPANSIONS):
            return None
        return {"expansion": expansion, "recall": recall}
    except (OSError, InputError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _built_apart(path: Path, file: Path, column: str) -> dict[str, Any]:
    """Build in a process of its own.

    Hazard: usearch 2.26 was seen to abort at the end of a process that built an index ("terminate called without an
    active exception"), after everything was written. It could not be made to do so again in 100 processes; this way
    none of another 100 did either, and no process of a user's is at stake.
    """
    code = "import sys; from hierax.search.ann import build; build(sys.argv[1], sys.argv[2])"
    done = subprocess.run([sys.executable, "-c", code, os.fspath(path), column], stdout=subprocess.DEVNULL, check=False)
    found = _about(file)
    if found is None:
        raise InputError(f"The index {str(file)!r} could not be built (exit {done.returncode}). Search exactly.")
    return found


def build(path: str, column: str) -> None:
    """Build the index of a column, and end this process without what aborts in it."""
    from .library import Store

    store = Store(path)
    file = store.path / VECTORS / f"{column}-{store.fingerprint}.usearch"
    try:
        with writing(file):
            _built(file, store.vectors(column), store.lengths(column), column)
    except HieraxError as error:
        console.complain(str(error))
        os._exit(1)
    os._exit(0)


def _built(file: Path, vectors: ndarray, lengths: ndarray, column: str) -> dict[str, Any]:
    index = _empty(vectors.shape[1])
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    console.say(f"building the index of {len(vectors):,} rows in {file.parent}; an exact search needs none")
    with console.bar("index", total=len(vectors), unit="row") as bar:
        for start in range(0, len(vectors), _AT_ONCE):
            rows = exact.units(vectors[start : start + _AT_ONCE]).astype(np.float32)
            # Rows that several threads add to a graph of hardly any lose each other: 99.05 % were found then at most.
            keys = np.arange(start, start + len(rows), dtype=np.uint64)
            index.add(keys, rows, threads=threads if start else 1)
            bar.update(len(rows))
    expansion, recall = _measured(index, vectors, lengths)
    with atomic_file(file) as temporary:
        index.save(str(temporary))
    about = {"expansion": expansion, "recall": recall}
    with atomic_file(file.with_suffix(".json")) as temporary:
        text = json.dumps({**about, "bytes": file.stat().st_size, "rows": len(vectors)})
        temporary.write_text(text + "\n", encoding="utf-8")
    for old in [*file.parent.glob(f"{column}-*.usearch"), *file.parent.glob(f"{column}-*.json")]:
        if old.stem != file.stem:
            with contextlib.suppress(OSError):
                old.unlink()
    return about


def _measured(index: Any, vectors: ndarray, lengths: ndarray) -> tuple[int | None, float]:
    """The least expansion that finds enough, None where none does; and how much it finds."""
    random = np.random.default_rng(0)
    rows = np.unique(np.linspace(0, len(vectors) - 1, _PROBES).astype(np.int64)) if len(vectors) else np.empty(0, int)
    probes = exact.units(vectors[rows]) if len(rows) else np.empty((0, vectors.shape[1]))
    probes = exact.units(probes + _MOVED * exact.units(random.standard_normal(probes.shape)))
    true, _ = exact.nearest(vectors, probes, k=10, lengths=lengths)
    recall = 1.0
    for expansion in EXPANSIONS:
        found = Index(vectors, lengths, index, expansion, 0.0).nearest(probes, k=10)[0]
        hits = sum(len(np.intersect1d(own, best)) for own, best in zip(found, true, strict=True))
        recall = hits / max(true.size, 1)
        if recall >= RECALL or not true.size:
            return expansion, recall
    return None, recall
