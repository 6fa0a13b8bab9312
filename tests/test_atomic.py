"""Whole or not at all, and one at a time."""

from __future__ import annotations

import stat
import subprocess
import sys

import pytest

from hierax.atomic import atomic_file, folder_beside, locked


def test_atomic_file__keeps_the_old_one_when_the_block_fails(tmp_path):
    """Writing in place leaves half a file when the disk fills."""
    path = tmp_path / "a.json"
    path.write_text("old")

    def half() -> None:
        with atomic_file(path) as partial:
            partial.write_text("ne")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_atomic_file__is_readable_as_others_are(tmp_path):
    """Temporary files are born private; a result that only its writer can read is useless on a shared disk."""
    plain = tmp_path / "plain"
    plain.write_text("")
    with atomic_file(tmp_path / "a") as partial:
        partial.write_text("new")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_folder_beside__leaves_nothing(tmp_path):
    """Left-over folders pile up beside a user's models."""
    with folder_beside(tmp_path / "sub" / "model") as folder:
        (folder / "x").write_text("")
    assert list((tmp_path / "sub").iterdir()) == []


HOLD = "import sys; from pathlib import Path; from hierax.atomic import locked\n"


def test_locked__refuses_or_waits_and_dies_with_its_process(tmp_path):
    """A lock that outlives a killed process stops every later run."""
    path = tmp_path / ".lock"
    code = HOLD + f"with locked(Path({str(path)!r})):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError), locked(path):
            pass
        waits = []

        def waiting() -> None:
            waits.append(True)
            child.kill()

        with locked(path, waiting=waiting):
            pass
        assert waits == [True]
    finally:
        child.kill()
        child.wait()
    with locked(path):
        pass
