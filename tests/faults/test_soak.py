"""Hundreds of runs of `embed` over folders that hold anything: every file is accounted for, and junk costs little."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

import pytest

import hierax
from hierax.bulk.run import run

from ..members import encoded, photograph, save_learner
from .fuzz.target import ROOT
from .soak import BROKEN

RUNS, APART = 200, 20
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="makes pipes and links")


def soaked(folder, seeds):
    """What came of runs, each a dictionary; none may hang, raise, or lose a file."""
    command = [sys.executable, "-m", "tests.faults.soak", str(folder), *map(str, seeds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.nightly
@pytest.mark.parametrize("first", range(0, RUNS, APART))
def test_embed__accounts_for_every_file(first, tmp_path):
    """One file of ten thousand that is lost, doubled, or ends the run is found by nobody who has a million."""
    counts = soaked(tmp_path, range(first, first + APART))
    assert len(counts) == APART
    assert sum(row["errors"] for row in counts) > APART, "hardly anything was broken"
    assert sum(row["vectors"] for row in counts) > APART


@pytest.mark.slow
def test_embed__accounts_for_a_few(tmp_path):
    """The same for three folders, so that the soak itself does not rot."""
    assert len(soaked(tmp_path, (1000, 1001, 1002))) == 3


@pytest.mark.nightly
def test_embed__junk_costs_little(tmp_path):
    """Files that fail must not cost what those cost that do not: 5 % of junk at most 5 % of the time."""
    import random

    rng, good = random.Random(1), encoded(photograph(400, 300), "JPEG")
    paths = []
    for number in range(210):
        path = tmp_path / f"{number}.jpg"
        kind = list(BROKEN)[number // 21 % len(BROKEN)]
        path.write_bytes(BROKEN[kind](rng) if number % 21 == 20 else good)
        paths.append(path)
    clean = [path for number, path in enumerate(paths) if number % 21 != 20]
    predictor = hierax.load(save_learner(tmp_path / "model"))

    def cost(files):
        start = time.process_time()
        assert len(list(run(predictor, files, predictor.embed, progress=False))) == len(files)
        return time.process_time() - start

    cost(paths)
    ratios = [cost(paths) / cost(clean) for _ in range(7)]
    assert statistics.median(ratios) <= 1.05, ratios
