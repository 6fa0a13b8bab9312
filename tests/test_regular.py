"""Only regular files are opened, and nothing is waited for."""

from __future__ import annotations

import contextlib
import os
import socket

import pytest

from hierax.regular import NotRegularError, open_regular


@pytest.mark.parametrize("kind", ["folder", "named pipe", "socket", "device"])
def test_refused(kind, tmp_path, monkeypatch):
    """Opening a pipe waits for a writer; a socket cannot be opened, which would be told as a missing device."""
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    if kind == "folder":
        os.mkdir("x")
    elif kind == "named pipe":
        os.mkfifo("x")
    elif kind == "device":
        os.symlink("/dev/zero", "x")
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("x")
    with pytest.raises(NotRegularError) as caught:
        open_regular("x")
    assert kind in caught.value.strerror


def open_files() -> list[str]:
    """What this process has open; others of its threads open and close files meanwhile."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return found


def test_changed_before_it_was_opened(tmp_path, monkeypatch):
    """What was looked at first need not be what is opened: a pipe in its place must not be waited for."""
    path, real = tmp_path / "x", os.stat
    path.write_bytes(b"x")

    def stat(*args, **options):
        found = real(*args, **options)
        path.unlink()
        os.mkfifo(path)
        return found

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(NotRegularError, match="named pipe"):
        open_regular(path)
    monkeypatch.undo()
    assert not any(left.startswith(str(path)) for left in open_files())  # none is left open


def test_link(tmp_path):
    """Caches keep links."""
    (tmp_path / "x").write_bytes(b"content")
    (tmp_path / "link").symlink_to("x")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"content"
