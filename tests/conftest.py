"""Shared by every test: one thread, one seed, and the quiet that warnings-as-errors needs."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import shutil
import sys
import tempfile

# Children too: two test processes whose children each take every core wait for one another, three times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything imports huggingface_hub: no test may reach out
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HIERAX_CACHE_LIMIT", "0")  # no test may find what an earlier one converted
os.environ.pop("HIERAX_CATALOG", None)  # a developer's private weights are no part of what is tested

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
# No time limit an example: on a busy machine it would fail tests at random.
hypothesis.settings.register_profile("hierax", deadline=None)
hypothesis.settings.load_profile("hierax")


def pytest_configure(config: pytest.Config) -> None:
    """What tests and their children leave in the temporary directory goes with the session: it has one of its own.

    Children that a test kills, or that end in a fork, clear nothing away; what a killed session left, the next one
    clears. What failed tests wrote stays, where pytest always has it.
    """
    if hasattr(config, "workerinput"):
        return  # it is that of the process that shares the tests out
    before, everybodys = os.environ.get("TMPDIR"), Path(tempfile.gettempdir())
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(everybodys))
    for old in everybodys.glob("hierax-t*"):
        pid = old.name.removeprefix("hierax-t")
        if pid.isdecimal() and (int(pid) == os.getpid() or not lives(int(pid))):
            shutil.rmtree(old, ignore_errors=True)
    own = everybodys / f"hierax-t{os.getpid()}"  # short: it begins names of sockets, which end at 107 characters
    own.mkdir()
    own.chmod(0o711)  # some tests are another user for a while
    os.environ["TMPDIR"] = tempfile.tempdir = str(own)

    def leave() -> None:
        shutil.rmtree(own, ignore_errors=True)
        tempfile.tempdir = None
        os.environ.pop("TMPDIR")
        if before is not None:
            os.environ["TMPDIR"] = before

    config.add_cleanup(leave)


def lives(pid: int) -> bool:
    """Whether there is a process of that number; true where it cannot be asked for."""
    if sys.platform == "win32":  # where this would end it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files that take long come first where processes share the tests: one that comes last keeps all but one waiting."""
    if not hasattr(config, "workerinput"):
        return
    weights: Counter[Path] = Counter()
    for item in items:
        weights[item.path] += 20 if item.get_closest_marker("slow") else 1
    items.sort(key=lambda item: -weights[item.path])


def pytest_collection_finish() -> None:
    """What was collected stays: to go through it for garbage takes a second each time, in the midst of what is timed."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def emptied(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Folders that the fixtures of a module made go when it is done, unless a test of it failed; pytest keeps them to
    the end. A fixture that lives longer uses `tempfile`.
    """
    base, failed = tmp_path_factory.getbasetemp(), request.session.testsfailed
    before = {*os.listdir(base)}
    yield
    if request.session.testsfailed == failed:
        for name in {*os.listdir(base)} - before:
            shutil.rmtree(base / name, ignore_errors=True)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Every test starts from the same random state and one thread, and leaves the caller's state as it was.

    Benchmarks that a test runs choose a number of threads; with another one, products give other bits.
    """
    state = torch.get_rng_state()
    torch.manual_seed(0)
    yield
    torch.set_rng_state(state)
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs draw no pictures but in tests marked `drawn`: they are most of the time of a run of seconds."""
    run = importlib.import_module("hierax.train.run")  # the package has a function of this name
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("drawn") is None:
            patch.setattr(run, "draw_run", lambda *arguments, **options: [])
            patch.setattr(run, "write_page", lambda *arguments: False)
        yield


@pytest.fixture
def web() -> Iterator[Any]:
    """A server on 127.0.0.1 that misbehaves on request."""
    from .net.server import Hub

    server = Hub()
    yield server
    server.close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Our folder in a cache of this test alone, online, where nothing waits before another attempt."""
    from huggingface_hub import constants

    from hierax.net import transfer

    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(transfer, "_FIRST_WAIT_S", 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "earlier"))
    return tmp_path / "cache" / "hierax"


@pytest.fixture(autouse=True)
def loudness() -> Iterator[None]:
    """A command that a test runs with -q must not silence the tests after it."""
    logger, quiet = logging.getLogger("hierax"), os.environ.get("HIERAX_QUIET")
    level = logger.level
    yield
    logger.setLevel(level)
    os.environ.pop("HIERAX_QUIET", None)
    if quiet is not None:
        os.environ["HIERAX_QUIET"] = quiet
