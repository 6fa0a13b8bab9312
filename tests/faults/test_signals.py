"""Signals that ask to stop, to one process and to all of a group: nothing half, nothing lost, exit code 130."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from .. import warm
from ..members import coloured_classes, save_learner, write_png
from ..train import runs

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="other signals")]
STOPS = ("SIGINT", "SIGTERM", "SIGHUP")


# --- commands that write ----------------------------------------------------------------------------------------------

# The arguments before the output and behind it, its name, and whether the same command may be given again.
COMMANDS = {
    "embed npz": (["embed", "images", "-m", "model", "-o"], [], "v.npz"),
    "embed parquet": (["embed", "images", "-m", "model", "-o"], [], "v.parquet"),
    "features": (["features", "images", "-m", "model", "-o"], [], "m.npz"),
    "convert": (["convert", "model"], ["--to", "transformers"], "hf"),
    "convert to a file": (["convert", "model"], ["--to", "meta"], "m.pth"),
    "render": (["render"], ["--count", "20"], "set"),
}


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A working folder with a model and images."""
    monkeypatch.chdir(tmp_path)
    save_learner(tmp_path / "model")
    (tmp_path / "images").mkdir()
    for number in range(4):
        write_png(tmp_path / "images" / f"{number}.png", number)
    return tmp_path


def signalled(arguments, **moment):
    """A command that gets signals while it writes: its exit code and what it said."""
    code = "import runpy; runpy.run_module('tests.faults.signalled', run_name='__main__')"
    done = warm.captured([json.dumps(moment), *arguments], code=code)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("name", COMMANDS)
def test_write__stopped(desk, name, stop):
    """A command that dies of a signal leaves a hidden folder, and one that goes on leaves half an output."""
    if "parquet" in name:
        pytest.importorskip("pyarrow")
    before, behind, output = COMMANDS[name]
    arguments = [*before, f"out/{output}", *behind]
    code, said = signalled(arguments, signals=[stop], at=4, group=True)
    assert (code, said.splitlines()[-1]) == (130, "hierax: interrupted")
    assert os.listdir("out") == []
    assert signalled(arguments, signals=[], at=0)[0] == 0
    assert os.listdir("out") == [output]


def test_write__a_second_signal_ends_at_once(desk):
    """Who sends two does not want to wait for cleaning; the next run does that."""
    arguments = ["embed", "images", "-m", "model", "-o", "out/v.npz"]
    code, _ = signalled(arguments, signals=["SIGTERM", "SIGINT"], at=4)
    assert code == 130
    assert os.listdir("out") == [".v.npz.hierax-partial"]
    assert signalled(arguments, signals=[], at=0)[0] == 0
    assert os.listdir("out") == ["v.npz"]


@pytest.mark.parametrize("stop", ["SIGINT", "SIGHUP"])
def test_write__what_is_ignored_stays_so(desk, stop):
    """A shell ignores Ctrl-C for its background, nohup SIGHUP; SIGTERM still ends both in order."""
    arguments = ["embed", "images", "-m", "model", "-o"]
    assert signalled([*arguments, "a.npz"], signals=[stop], at=3, ignored=[stop])[0] == 0
    assert signalled([*arguments, "b.npz"], signals=[stop, "SIGTERM"], at=3, ignored=[stop])[0] == 130
    assert sorted(os.listdir()) == ["a.npz", "images", "model"]


def test_classify__stopped_between_lines(desk):
    """Lines that came are whole, so that a consumer can take them."""
    done = warm.captured([], code="from tests.faults import test_signals as t; t.classify_and_stop()")
    assert done.returncode == 130, done.stderr
    assert done.stderr == "hierax: interrupted\n"
    assert [json.loads(line)["path"] for line in done.stdout.splitlines()] == [f"images/{n}.png" for n in (0, 1)]


def classify_and_stop() -> None:
    """In a process of its own: SIGTERM before the third line."""
    from hierax import console
    from hierax.cli import main

    real, lines = console.emit, []

    def emit(text: str, **options: object) -> None:
        lines.append(text)
        if len(lines) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        real(text, **options)

    console.emit = emit
    sys.exit(main(["classify", "images", "--batch-size", "1", "--format", "jsonl"]))


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """Data, a model and an uninterrupted run."""
    place = tmp_path_factory.mktemp("course")
    coloured_classes(place / "data", per_class=4)
    save_learner(place / "tiny", drop_path=0.2)
    code, said = finetuned(place, "whole")
    assert code == 0, said
    return place


def finetuned(place: Path, out: str, *more: str, **moment) -> tuple[int, str]:
    """A run with workers, in a session of its own, that gets signals after a step: its exit code and what it said."""
    settings = ["--steps", "30", "--batch-size", "4", "--device", "cpu", "--set", "workers=2", "checkpoint_every=0"]
    command = ["finetune", str(place / "data"), str(place / out), "-m", str(place / "tiny"), *settings]
    return signalled([*command, "log_every=1", *more], **{"signals": [], "step": 4, **moment})


@pytest.mark.parametrize("group", [False, True], ids=["one process", "all processes"])
@pytest.mark.parametrize(
    "stop", [pytest.param(stop, marks=[pytest.mark.nightly] if stop == "SIGHUP" else []) for stop in STOPS]
)
def test_finetune__saves_and_goes_on(course, stop, group):
    """systemd, batch schedulers and terminals signal every process: workers that die of it take the run with them."""
    out = f"{stop} {group}"
    code, said = finetuned(course, out, signals=[stop], group=group)
    assert code == 130, said
    saved = [path.name for path in (course / out / "checkpoints").iterdir()]
    assert len(saved) == 1
    step = int(saved[0].removeprefix("step-"))
    assert 4 <= step < 30
    last = said.splitlines()
    assert f"stopped after step {step} of 30" in last[-2]
    assert "--resume" in last[-2]
    assert last[-1] == "hierax: interrupted"
    code, said = finetuned(course, out, "--resume")
    assert code == 0, said
    assert f"going on after step {step} of 30" in said
    assert runs.identical(runs.result(course / "whole"), runs.result(course / out))


def test_finetune__a_second_signal_does_not_save(course):
    """Saving may be what hangs."""
    code, said = finetuned(course, "twice", signals=["SIGTERM", "SIGINT"])
    assert code == 130, said
    assert "stopped after" not in said
    assert not (course / "twice" / "checkpoints").exists()


@pytest.mark.parametrize("stop", ["SIGINT", "SIGHUP"])
def test_finetune__what_is_ignored_stays_so(course, stop):
    """A loop that takes every signal ends with the terminal in spite of nohup."""
    code, said = finetuned(course, f"ignored {stop}", signals=[stop], ignored=stop, group=True)
    assert code == 0, said
    assert runs.identical(runs.result(course / "whole"), runs.result(course / f"ignored {stop}"))


def test_finetune__a_worker_that_is_killed_is_named(course):
    """torch raises that anywhere in the main thread, between two reads as well; it was an internal error."""
    code, said = finetuned(course, "killed", signals=["SIGKILL"], worker=True)
    assert code == 1, said
    assert "The processes that read must live; one died" in said
    assert "internal error" not in said
