"""The fuzz targets, for as long as `make test` may take, and proof that the judge can find something."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hierax.errors import InputError

from .fuzz import __main__ as parent
from .fuzz import judge as judging
from .fuzz.judge import Judge
from .fuzz.target import KEPT, ROOT, Target
from .fuzz.worker import Worker, report, shrink

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
TARGETS = parent._names("all")


@pytest.mark.slow
def test_targets__find_nothing(tmp_path):
    """A raw error, a hang, gigabytes or a touched file in any reader; inputs that once failed are among these."""
    options = ("--executions", "60", "--seed", "1", "--folder", str(tmp_path))
    command = [sys.executable, "-m", f"{parent.__package__}", "all", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all((tmp_path / name / "status").exists() for name in TARGETS)


def test_seeds__belong_to_targets():
    """A kept input in a folder that no target reads would never be replayed; a large one does not belong here."""
    for path in KEPT.rglob("*"):
        if path.is_file():
            assert path.parent.name in TARGETS, path
            assert path.stat().st_size <= 100_000, path


def outside(folder: Path) -> None:
    (folder.parent / "x").write_text("")


def connects(folder: Path) -> None:
    with socket.socket() as free:
        try:
            free.connect(("127.0.0.1", 9))
        except OSError:
            raise InputError("This is refused, too late.") from None


def swallowed(folder: Path) -> None:
    try:
        os.system("true")
    except Exception:
        return


FAULTS = {
    "raw KeyError": lambda folder: {}["x"],
    "raw MemoryError": lambda folder: bytearray(1 << 50),
    "raw SystemExit": lambda folder: sys.exit(1),
    "message": lambda folder: (_ for _ in ()).throw(InputError("")),
    "time": lambda folder: sum(range(10**7)),
    "memory": lambda folder: bytearray(b"x") * (600 << 20),
    "trespass at open": outside,
    "trespass at socket.connect": connects,
    "trespass at os.system": swallowed,
    "trespass at compile": lambda folder: eval("'canary'"),
}


@pytest.fixture
def judged(tmp_path, monkeypatch):
    """What the judge says of an action."""
    monkeypatch.chdir(tmp_path)

    def run(act):
        return Judge(
            Target("planted", lambda folder, data: act(folder), lambda folder: [], lambda data, rng: data), tmp_path
        ).judge(b"")

    return run


@pytest.mark.parametrize("fault", FAULTS)
def test_judge__finds(fault, judged, monkeypatch):
    """A judge that lets one of these pass would report nothing for ever."""
    monkeypatch.setattr(judging, "SECONDS", 0.05 if fault == "time" else 2.0)
    finding = judged(FAULTS[fault])
    assert finding is not None
    kind, _, where = fault.partition(" at ")
    assert finding.kind == kind
    assert where in finding.where


@pytest.mark.parametrize("act", [lambda folder: None, lambda folder: int((folder / "x").write_text("x")) or int("y")])
def test_judge__knows_answers_from_faults(act, judged):
    """Files in the input's own folder, and declared errors, are what a reader is for."""

    def declared(folder):
        try:
            act(folder)
        except ValueError:
            raise InputError("A number must be one; got 'y'. Write 1.") from None

    assert judged(declared) is None


def test_worker__keeps_and_shrinks_what_failed(tmp_path, monkeypatch, capsys):
    """A finding whose input is lost, or cannot be replayed, is a rumour."""
    monkeypatch.chdir(tmp_path)

    def act(folder, data):
        if b"bad" in data:
            raise KeyError(data)

    target = Target("planted", act, lambda folder: [b"good"], lambda data, rng: data + rng.choice((b"x", b"bad")))
    worker = Worker(target, tmp_path, keeps=False)
    worker.mutations(1, float("inf"), 50)
    (finding,) = worker.found.values()
    path = tmp_path / "findings" / finding.key
    assert f"--replay {path}" in capsys.readouterr().out
    assert shrink(worker.judge, path.read_bytes(), finding.key) == b"bad"
    report(target, tmp_path, b"bad", finding)
    assert path.read_bytes() == b"bad"


def test_parent__calls_death_and_hangs_findings(tmp_path, monkeypatch):
    """A reader that takes the process with it leaves no exception to be judged."""
    (tmp_path / "images" / "findings").mkdir(parents=True)
    (tmp_path / "images" / "current").write_bytes(b"the last input")
    died = parent._watched([sys.executable, "-c", "import os; os.abort()"], [tmp_path / "images"])
    assert died == "death by signal 6"
    monkeypatch.setattr(parent, "HANGS_S", -1)
    assert parent._watched([sys.executable, "-c", "import signal; signal.pause()"], [tmp_path / "images"]).startswith(
        "hang"
    )
    parent._report_end(died, ["images"], tmp_path)
    (kept,) = (path for path in (tmp_path / "images" / "findings").iterdir() if path.suffix != ".txt")
    assert kept.read_bytes() == b"the last input"


@pytest.mark.parametrize("name", TARGETS)
def test_mutators__repeat_and_survive(name, tmp_path):
    """A run that cannot be repeated from its seed, or a mutator that fails on what it made itself, finds little."""
    target = __import__(f"{parent.__package__}.targets", fromlist=["x"]).find_target(name)
    data = target.seeds(tmp_path)
    assert data
    twice = []
    for _ in range(2):
        rng, found = random.Random(3), data[0]
        for _ in range(30):
            found = target.mutate(found, rng) or data[0]
        twice.append(found)
    assert twice[0] == twice[1] != data[0]
