"""What a session of tests leaves on the disk: nothing, but what failed tests wrote."""

from __future__ import annotations

import os
from pathlib import Path

from . import warm

TESTS = """
import os, tempfile
import pytest

@pytest.fixture(scope="module")
def large(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    (folder / "of_the_module").touch()
    return folder

def test_passes(large, tmp_path):
    (tmp_path / "of_the_test").touch()
    if os.fork() == 0:
        tempfile.mkdtemp(prefix="of-a-killed-child-")
        os._exit(1)
    os.wait()

def test_other(tmp_path):
    (tmp_path / "of_the_other").touch()
    assert {fails!r} not in os.environ
"""
LATER = """
def test_is_gone(tmp_path):
    found = [path.name for path in tmp_path.parent.rglob("of_*")]
    assert found == {left!r}, found
"""


def session(folder: Path, *, fails: bool) -> list[str]:
    """The files that two modules of tests leave in a temporary directory, one of them with a test that may fail."""
    temporary, written = folder / "temporary", folder / "tests"
    temporary.mkdir(parents=True)
    written.mkdir()
    (temporary / f"hierax-t{2**22 + 1}" / "of-a-killed-session").mkdir(parents=True)  # no process has that number
    left = ["of_the_module", "of_the_other"] if fails else []
    (written / "test_first.py").write_text(TESTS.replace("{fails!r}", repr("PYTEST_FAILS")))
    (written / "test_later.py").write_text(LATER.replace("{left!r}", repr(left)))
    root = Path(__file__).parents[1]
    argv = [
        "-q",
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-c",
        f"{root / 'pyproject.toml'}",
    ]
    variables = {name: value for name, value in os.environ.items() if name not in ("TMPDIR", "PYTEST_DEBUG_TEMPROOT")}
    variables |= {"TMPDIR": str(temporary), **({"PYTEST_FAILS": "1"} if fails else {})}
    code = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
    done = warm.captured([*argv, "--rootdir", str(written), str(written)], code=code, cwd=root, environment=variables)
    assert done.returncode == int(fails), done.stdout + done.stderr
    return sorted(path.name for path in temporary.rglob("of[_-]*"))


def test_nothing_is_left(tmp_path):
    """One run of all tests wrote 12 GB and kept them to its end: the disk was full."""
    assert session(tmp_path / "passed", fails=False) == []
    # What a failed test wrote is what somebody wants to look at; its module's files are part of it.
    assert session(tmp_path / "failed", fails=True) == ["of_the_module", "of_the_other"]
