"""Every attack that ever got through, within its bounds of memory and time (`corpus`)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .corpus import all_cases
from .corpus.case import Case
from .corpus.server import run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[[str, Path], dict[str, Any]]]:
    """Runs a case by name in a child of one process that has imported hierax."""
    command = [sys.executable, "-m", f"{__package__}.corpus.server"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        pipes = process.stdin, process.stdout
        assert pipes[0] is not None
        assert pipes[1] is not None

        def ask(case: str, folder: Path) -> dict[str, Any]:
            pipes[0].write(json.dumps({"case": case, "folder": str(folder)}) + "\n")
            pipes[0].flush()
            return json.loads(pipes[1].readline())

        yield ask
        process.stdin.close()


@pytest.mark.parametrize("name", all_cases())
def test_attack(name, serve, tmp_path):
    """Raw errors, wrong answers, gigabytes, hangs, crashes and code that runs are each told apart by the verdict."""
    assert serve(name, tmp_path)["verdict"] == "as expected"


# --- the harness itself must be able to fail ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "verdict"),
    [
        (Case("crash", act=lambda folder: os.kill(os.getpid(), signal.SIGKILL)), "died: signal 9"),
        (Case("memory", act=lambda folder: bytearray(400 << 20).count(1)), "memory grew"),
        (Case("time", act=lambda folder: sum(range(10**8)), seconds=0.1), "processor time"),
        (Case("code", act=lambda folder: (folder / "canary").write_text("")), "code of the attacker ran"),
        (Case("raw", act=lambda folder: {}["x"], raises=ValueError), "raised KeyError"),
        (Case("words", act=lambda folder: int("x"), raises=ValueError, match="remedy"), "does not match"),
        (Case("silence", act=lambda folder: 1, raises=ValueError), "instead of raising"),
        (Case("wrong", act=lambda folder: 1, expect=lambda result: result == 2), "which is wrong"),
        (Case("well", act=lambda folder: int("x"), raises=ValueError, match="invalid literal"), "as expected"),
    ],
    ids=lambda value: value.name if isinstance(value, Case) else "",
)
def test_harness(case, verdict, tmp_path):
    """A corpus that calls everything expected would guard nothing."""
    assert verdict in run(case, tmp_path)["verdict"]
