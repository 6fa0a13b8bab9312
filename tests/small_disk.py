"""A real disk of a few kilobytes, in a mount namespace of its own, so that nothing leaks whatever becomes of the test."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest

from . import warm

# What `unshare -rm` and `mount` do, in a process that has imported everything.
_HELPERS = """
import ctypes, json, os, sys
from pathlib import Path
from hierax.cli import main

def separated(disk, size):
    NEWNS, NEWUSER, REC, PRIVATE = 0x20000, 0x10000000, 0x4000, 0x40000
    system, user, group = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()
    def done(code):
        if code:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    done(system.unshare(NEWNS | NEWUSER))
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        Path("/proc/self", name).write_text(text)
    done(system.mount(b"none", b"/", None, REC | PRIVATE, None))
    done(system.mount(b"tmpfs", os.fsencode(disk), b"tmpfs", 0, f"size={size}".encode()))

separated(sys.argv[1], sys.argv.pop(2))
DISK = Path(sys.argv[1])

def listing():
    return {str(p.relative_to(DISK)): p.stat().st_size for p in sorted(DISK.rglob("*")) if p.is_file()}

def fill(left=0):
    with open(DISK / "ballast", "ab", buffering=0) as stream:
        try:
            while stream.write(bytes(4096)): pass
        except OSError: pass
    os.truncate(DISK / "ballast", max(0, os.path.getsize(DISK / "ballast") - left))

def free():
    (DISK / "ballast").unlink()

"""


@functools.cache
def _can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    tried = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


def on_small_disk(folder: Path, code: str, *, size: str = "1m", **options: Any) -> subprocess.CompletedProcess[str]:
    """Run Python code that has `main`, `DISK`, `fill(left)`, `free()` and `listing()`; skips where nothing can be mounted.

    Args:
        folder: Where the disk is mounted, for the code alone.
        code: What to run.
        size: Of the disk, as mount takes it.
        **options: Of `warm.captured`.
    """
    if not _can_mount():
        pytest.skip("no mounts for ordinary users here")
    folder.mkdir(exist_ok=True)
    return warm.captured([str(folder), size], code=_HELPERS + textwrap.dedent(code), **options)


def result_of(done: subprocess.CompletedProcess[str]) -> Any:
    """The JSON on the last line of stdout; what was said is shown where there is none."""
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])
