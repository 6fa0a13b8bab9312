"""Hundreds of runs over folders that hold anything, and a hundred that are killed: nothing is lost, and junk costs little."""

from __future__ import annotations

import json
import random
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


def soaked(folder, seeds, module="soak"):
    """What came of runs, each a dictionary; none may hang, raise, or lose a file."""
    command = [sys.executable, "-m", f"{__package__}.{module}", str(folder), *map(str, seeds)]
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
    rng, good = random.Random(1), encoded(photograph(400, 300), "JPEG")
    # Not what declares 60 million pixels: that is an attack, whose price the corpus bounds.
    paths, junk = [], [kind for kind in BROKEN if kind != "short"]
    for number in range(210):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(BROKEN[junk[number // 21 % len(junk)]](rng) if number % 21 == 20 else good)
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


@pytest.mark.nightly
@pytest.mark.parametrize("first", range(0, 100, 25))
def test_killed_writers__nothing_is_half(first, tmp_path):
    """What is written in place, or cleaned up by a handler that a kill does not run, is half an output in some run."""
    rows = soaked(tmp_path, range(first, first + 25), "kills")
    assert sum(row["killed"] for row in rows) > 12, "hardly any was killed in time"


@pytest.mark.slow
def test_killed_writers__a_few(tmp_path):
    """The same for three, so that the kills themselves do not rot."""
    assert len(soaked(tmp_path, (1, 2, 5), "kills")) == 3
