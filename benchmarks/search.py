"""How long a search of a store takes: exactly, by an index, and all near-duplicates; beside brute force in NumPy.

    OMP_NUM_THREADS=1 python -m benchmarks.search [--folder /tmp/search] [--large]

Vectors are drawn in clusters, with directions of falling variance as embeddings have, and 5 % of the rows are copies
with a little noise; "isotropic" ones are drawn without any structure, which is the hardest case for an index. Answers
are compared with brute force in float64 in the same run. `--large` adds a million rows of 256 numbers.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import hierax
from hierax.search import ann
from hierax.store import exact
from hierax.store.groups import duplicate_groups
from hierax.store.layout import Spec
from hierax.store.tables import Record
from hierax.store.write import open_writer

RESULTS = Path(__file__).parent / "results"


def drawn(count: int, width: int, *, isotropic: bool = False, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    found = random.standard_normal((count, width), dtype=np.float32)
    if isotropic:
        return found
    spread = (1 / np.arange(1, width + 1) ** 0.7).astype(np.float32)
    found += 0.7 * random.standard_normal((200, width), dtype=np.float32)[random.integers(0, 200, count)]
    copies = random.choice(count, count // 20, replace=False)
    noise = random.standard_normal((len(copies), width), dtype=np.float32)
    found[copies] = found[random.integers(0, count, len(copies))] + 0.15 * noise
    return found * spread


def written(place: Path, vectors: np.ndarray, dtype: str = "float32") -> hierax.Store:
    """A store; its file of mapped vectors is made here, and not timed."""
    if not place.exists():
        with open_writer(place, Spec({"model": "none"}, {"embedding": vectors.shape[1]}, dtype)) as writer:
            for row, vector in enumerate(vectors):
                writer.add(Record(row, f"{row}.jpg", values={"embedding": vector}))
                if writer.due():
                    writer.commit(row + 1)
            writer.commit(len(vectors))
            writer.complete(len(vectors), "")
    store = hierax.open_store(place)
    store.vectors()
    return store


def timed(function, times: int = 7) -> dict[str, float]:
    """Of one call that others went before: what passes, and what the processor works, all threads together."""
    function()
    seconds, worked = [], []
    for _ in range(times):
        start, before = time.perf_counter(), time.process_time()
        function()
        seconds.append(time.perf_counter() - start)
        worked.append(time.process_time() - before)
    return {
        "median_ms": round(1e3 * statistics.median(seconds), 2),
        "fastest_ms": round(1e3 * min(seconds), 2),
        "processor_median_ms": round(1e3 * statistics.median(worked), 2),
        "processor_least_ms": round(1e3 * min(worked), 2),
    }


def brute(vectors: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """In float64, without blocks of ours: what is right."""
    asked = queries / np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)
    cosines = np.concatenate(
        [
            (wide := vectors[start : start + 20_000].astype(np.float64))
            @ asked.T
            / np.linalg.norm(wide, axis=1)[:, None]
            for start in range(0, len(vectors), 20_000)
        ]
    ).T
    return np.argsort(-np.round(cosines, 12), axis=1, kind="stable")[:, :k]


def searched(folder: Path, count: int, width: int, dtype: str) -> dict:
    vectors = drawn(count, width)
    store = written(folder / f"{count}-{width}-{dtype}", vectors, dtype)
    queries = drawn(20, width, seed=1)
    rows, _ = store.nearest(queries, k=10, engine="exact")
    mapped = store.vectors()
    found = {
        "equal_to_brute_force": bool(np.array_equal(rows, brute(mapped, queries, 10))),
        "store.search": timed(lambda: store.search(queries[0], k=10, engine="exact")),
        "vectors alone": timed(lambda: store.nearest(queries[:1], k=10, engine="exact")),
        "20 queries at once": timed(lambda: store.nearest(queries, k=10, engine="exact"), 3),
    }
    if dtype == "float32" and count * width < 1e8:
        plain = np.array(mapped)
        unit = plain / np.linalg.norm(plain, axis=1, keepdims=True)
        found["numpy: argpartition(unit @ query), in memory"] = timed(
            lambda: np.argpartition(-(unit @ queries[0]), 10)[:10]
        )
    return found


def indexed(folder: Path, count: int, width: int, *, isotropic: bool) -> dict:
    kind = "isotropic" if isotropic else "clustered"
    store = written(folder / f"ann-{kind}-{count}-{width}", drawn(count, width, isotropic=isotropic))
    start = time.perf_counter()
    index = ann.open_index(store, "embedding", required=False)
    seconds = round(time.perf_counter() - start, 1)
    if index is None:
        return {"build_s": seconds, "usable": False}
    queries = drawn(500, width, isotropic=isotropic, seed=2)
    true, _ = exact.nearest(store.vectors(), queries, k=10, lengths=store.lengths())
    got, _ = index.nearest(queries, k=10)
    recall = float(np.mean([len(np.intersect1d(*pair)) / 10 for pair in zip(got, true, strict=True)]))
    one = iter(queries)
    return {
        "build_s": seconds,
        "expansion": index.expansion,
        "recall_at_10_of_500_new_queries": recall,
        "one query": timed(lambda: index.nearest(next(one)[None], k=10), 50),
    }


def memory(folder: Path, count: int, width: int) -> dict:
    """Growth of a new process that searches once."""
    place = folder / f"{count}-{width}-float32"
    code = (
        "import resource, sys, hierax, numpy as np\n"
        "store = hierax.open_store(sys.argv[1]); query = np.array(store.vectors()[5])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "hit = store.search(query, k=10, engine='exact')[0]\n"
        "print(hit.row, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, place], capture_output=True, text=True, check=True
    ).stdout.split()
    return {"row": int(done[0]), "growth_MiB": int(done[1]), "vectors_MiB": count * width * 4 >> 20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--large", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found: dict = {"what": "seconds of a search, warm: the vectors' file is in the system's memory"}
        found["load_average_before"] = os.getloadavg()
        for count, width, dtype in ((100_000, 768, "float32"), (100_000, 768, "float16"), (100_000, 256, "float32")):
            found[f"exact {count} x {width} {dtype}"] = searched(folder, count, width, dtype)
            print(json.dumps(found), flush=True)
        for count, width in ((20_000, 768), (50_000, 256), (100_000, 256)):
            for kind in ("clustered", "isotropic"):
                vectors = drawn(count, width, isotropic=kind == "isotropic")
                start = time.perf_counter()
                groups = duplicate_groups(vectors, 0.95)
                seconds = time.perf_counter() - start
                about = {"s": round(seconds, 2), "ns_a_pair": round(seconds / count**2 * 2e9, 2), "groups": len(groups)}
                found[f"duplicates {count} x {width} {kind}"] = about
        for kind in (False, True):
            name = "isotropic" if kind else "clustered"
            found[f"index 50000 x 256 {name}"] = indexed(folder, 50_000, 256, isotropic=kind)
            print(json.dumps(found), flush=True)
        if options.large:
            found["exact 1000000 x 256 float32"] = searched(folder, 1_000_000, 256, "float32")
            found["memory 1000000 x 256"] = memory(folder, 1_000_000, 256)
    now = datetime.datetime.now(datetime.timezone.utc)
    found |= {
        "date": now.date().isoformat(),
        "command": " ".join(["python -m benchmarks.search", *sys.argv[1:]]),
        "load_average_after": os.getloadavg(),
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "versions": {"numpy": np.__version__, "hierax": hierax.__version__, "python": platform.python_version()},
        "peak_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }
    place = RESULTS / f"{now:%Y-%m-%d-%H%M%S}-search.json"
    place.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(place)


if __name__ == "__main__":
    main()
