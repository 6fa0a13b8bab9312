"""Whole or not at all, one at a time, and nothing left of who was killed."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import threading
import types

import pytest

from hierax import atomic
from hierax.atomic import atomic_file, folder_beside, locked, put, sweep
from hierax.errors import cannot_write

POSIX = pytest.mark.skipif(not hasattr(os, "fork"), reason="folders are locked on POSIX systems")


def names(folder) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def holding(block: str) -> subprocess.Popen:
    """A process inside a block of this module; it says "held" and stays until it is killed or stdin closes."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom hierax.atomic import *\n"
        f"with {block} as partial:\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "held\n"
    return child


def finish(child: subprocess.Popen, *, kill: bool = True) -> None:
    if kill:
        child.kill()
    child.communicate()


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
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions__as_of_anything_else_and_without_touching_the_umask(tmp_path, mask):
    """Born private, a result is useless on a shared disk; a umask of 0 for a moment opens another thread's files."""
    code = (
        "import os, sys; from pathlib import Path; from hierax.atomic import *\n"
        f"os.umask({mask}); os.umask = None; os.chdir(sys.argv[1])\n"
        "with atomic_file(Path('file')) as partial:\n"
        "    partial.unlink(); partial.touch(0o600)\n"  # as a library that renames a file of its own
        "with folder_beside(Path('folder')) as partial:\n    partial.rename('folder')\n"
        "with locked(Path('lock')): pass\n"
        "os.mkdir('plain'); open('plain file', 'w').close()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in names(tmp_path)}
    assert modes["file"] == modes["lock"] == modes["plain file"] == 0o666 & ~mask
    assert modes["folder"] == modes["plain"] == 0o777 & ~mask


def test_atomic_file__any_name_that_the_file_system_takes(tmp_path):
    """A decorated name of 255 bytes is too long, and what is no UTF-8 must stay what it is."""
    for name in ("n" * 251 + ".npz", os.fsdecode(b"\xff.npz"), "-", ".hidden", "new\nline", "\u00e9" * 127):
        with atomic_file(tmp_path / name) as partial:
            assert partial.name == name
        (tmp_path / name).unlink()
    assert names(tmp_path) == []


def test_folder_beside__leaves_nothing(tmp_path):
    """Left-over folders pile up beside a user's models."""
    with folder_beside(tmp_path / "sub" / "model") as folder:
        (folder / "x").write_text("")
    assert names(tmp_path / "sub") == []


def test_replace__off__what_appears_meanwhile_stays(tmp_path, monkeypatch):
    """A rename replaces in silence: both runs answer 0 and the first result is lost."""
    path = tmp_path / "a"

    def write() -> None:
        with atomic_file(path, replace=False) as partial:
            partial.write_text("second")
            path.write_text("first")

    with pytest.raises(FileExistsError, match="left as it is"):
        write()
    with pytest.raises(FileExistsError), atomic_file(path, replace=False):
        raise AssertionError("what exists already is told before any work")
    path.unlink()

    def refuse(*args: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(FileExistsError, match="left as it is"):
        write()
    assert path.read_text() == "first"
    path.unlink()
    with atomic_file(path, replace=False) as partial:
        partial.write_text("alone")
    assert path.read_text() == "alone"
    assert names(tmp_path) == ["a"]


def test_put__replaces_a_link_and_never_what_it_points_at(tmp_path):
    """A planted link would send our bytes into somebody's file; folders and devices are nobody's output."""
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "link").symlink_to("precious")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "dangling"):
        with pytest.raises(FileExistsError), atomic_file(tmp_path / name, replace=False):
            pass
        with atomic_file(tmp_path / name) as partial:
            partial.write_text("new")
        assert not (tmp_path / name).is_symlink()
    for name, kind in (("folder", IsADirectoryError), ("pipe", FileExistsError)):
        with pytest.raises(kind), atomic_file(tmp_path / name):
            pass
        with pytest.raises(kind):
            put(tmp_path / "link", tmp_path / name, replace=True)
    assert (tmp_path / "precious").read_text() == "mine"
    assert names(tmp_path) == ["dangling", "folder", "link", "pipe", "precious"]


@POSIX
def test_alone__the_second_is_refused_and_the_first_named(tmp_path):
    """Hours of work for a result that the other run replaces; whom to ask must be said."""
    path = tmp_path / "a"
    child = holding(f"atomic_file(Path({str(path)!r}), alone=True)")
    try:
        known = f"process {child.pid}" if os.path.exists("/proc/locks") else "another process"
        for refused in (lambda: atomic_file(path, alone=True), lambda: folder_beside(path)):
            with pytest.raises(BlockingIOError, match=known) as told, refused():
                pass
            assert "Wait" in cannot_write(path, told.value)
        with atomic_file(path) as partial:  # a writer that needs not be alone has its own
            partial.write_text("new")
        assert path.read_text() == "new"
        finish(child, kill=False)
        assert path.read_text() == ""
    finally:
        finish(child)
    assert names(tmp_path) == ["a"]


def test_alone__threads_too(tmp_path):
    """Two threads of one process are two runs."""
    refused: list[bool] = []

    def second() -> None:
        try:
            with atomic_file(tmp_path / "a", alone=True):
                refused.append(False)
        except BlockingIOError:
            refused.append(True)

    with atomic_file(tmp_path / "a", alone=True):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert refused == [True]


@POSIX
@pytest.mark.parametrize("kind", ["atomic_file", "folder_beside"])
def test_killed__what_it_left_goes_with_the_next(tmp_path, kind):
    """Partial files of killed runs pile up unseen until the disk is full; those of living ones must stay."""
    path = tmp_path / "a"
    block = f"{kind}(Path({str(path)!r}))"
    child = holding(block)
    left = names(tmp_path)
    finish(child)
    assert names(tmp_path) == left != []
    (tmp_path / left[0] / "more").mkdir()
    (tmp_path / left[0] / "more" / "of it").write_text("half")
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / left[0] / "link").symlink_to(tmp_path / "link")
    for function in (atomic_file, folder_beside):
        with function(tmp_path / "b"):
            pass
    assert left[0] in names(tmp_path)  # another output's
    with getattr(atomic, kind)(path) as partial:
        assert names(tmp_path / left[0]) == [".lock", "a"]
        assert not partial.is_file() or partial.read_bytes() == b""
    assert set(names(tmp_path)) <= {"a", "b", "link"}


@POSIX
def test_killed__its_workers_hold_no_lock(tmp_path):
    """A forked worker inherits the lock of its parent, and outlives a killed one for seconds."""
    code = (
        "import os, sys, time; from pathlib import Path; from hierax.atomic import *\n"
        f"with locked(Path({str(tmp_path / 'lock')!r})), atomic_file(Path({str(tmp_path / 'a')!r})):\n"
        "    if os.fork() == 0:\n        print(os.getpid(), flush=True); time.sleep(60); os._exit(0)\n"
        "    time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    try:
        parent.kill()
        parent.wait()
        with locked(tmp_path / "lock"), atomic_file(tmp_path / "a", alone=True):
            pass
    finally:
        os.kill(worker, 9)
        parent.stdout.close()


@POSIX
@pytest.mark.parametrize("plant", ["link", "link to a folder", "file", "pipe"])
def test_planted__partial_folder(tmp_path, plant):
    """In a folder that others write, the name of a partial folder can be guessed; what it leads to must stay whole."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "precious").write_text("mine")
    with atomic_file(tmp_path / "a") as partial:
        name = partial.parent
    if plant.startswith("link"):
        name.symlink_to(mine if "folder" in plant else mine / "precious")
    elif plant == "file":
        name.write_text("")
    else:
        os.mkfifo(name)
    with pytest.raises(OSError, match="remove it"), atomic_file(tmp_path / "a"):
        pass
    assert (mine / "precious").read_text() == "mine"
    assert names(mine) == ["precious"]


@POSIX
@pytest.mark.parametrize("plant", ["symbolic link", "hard link", "dangling", "pipe", "folder"])
def test_planted__lock(tmp_path, plant):
    """Opening a lock to write truncates what a planted link points at."""
    precious, lock = tmp_path / "precious", tmp_path / ".lock"
    precious.write_text("mine")
    if plant == "symbolic link":
        lock.symlink_to(precious)
    elif plant == "dangling":
        lock.symlink_to(tmp_path / "made")
    elif plant == "hard link":
        os.link(precious, lock)
    elif plant == "pipe":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    if plant == "hard link":
        with locked(lock):
            pass
    else:
        with pytest.raises(OSError, match=r"remove it|directory"), locked(lock):
            pass
    assert precious.read_text() == "mine"
    assert not (tmp_path / "made").exists()


def test_locked__refuses_or_waits_and_dies_with_its_process(tmp_path):
    """A lock that outlives a killed process stops every later run."""
    path = tmp_path / ".lock"
    child = holding(f"locked(Path({str(path)!r}))")
    try:
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
        finish(child)
    with locked(path):
        pass


def test_without_locks__still_whole_or_nothing(tmp_path, monkeypatch):
    """Some network file systems have no locks, and Windows none of these: results must still be written there."""
    for module in (None, types.SimpleNamespace(flock=lambda *a: (_ for _ in ()).throw(OSError(errno.ENOLCK, "none")), LOCK_EX=2, LOCK_NB=4, LOCK_UN=8)):  # fmt: skip
        monkeypatch.setattr(atomic, "fcntl", module)
        with atomic_file(tmp_path / "a", alone=True) as partial, folder_beside(tmp_path / "b"):
            partial.write_text("new")
        assert names(tmp_path) == ["a"]
    monkeypatch.setattr(atomic, "fcntl", None)
    with locked(tmp_path / "lock"), pytest.raises(BlockingIOError), locked(tmp_path / "lock"):
        pass


@POSIX
def test_folder__its_lock_goes_last(tmp_path, monkeypatch):
    """Without its lock a partial folder is the next writer's, whose files a removal that goes on would take."""
    real, seen = shutil.rmtree, []

    def rmtree(path, *args, **options):
        if os.fspath(path).endswith("hierax-partial"):
            seen.append(os.listdir(path))
        real(path, *args, **options)

    monkeypatch.setattr(atomic.shutil, "rmtree", rmtree)
    with folder_beside(tmp_path / "a") as folder:
        (folder / "file").write_text("x")
    assert seen == [[".lock"]]


@POSIX
def test_sweep__what_killed_processes_left(tmp_path):
    """Of any name; what a living one is writing stays."""
    for name in ("a", "b"):
        finish(holding(f"folder_beside(Path({str(tmp_path / name)!r}))"))
    living = holding(f"folder_beside(Path({str(tmp_path / 'c')!r}))")
    sweep(tmp_path)
    assert names(tmp_path) == [".c.hierax-partial"]
    finish(living, kill=False)
    assert names(tmp_path) == []
