"""A real disk of a few kilobytes, in a mount namespace of its own, so that nothing leaks whatever becomes of the test."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

_MOUNT = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'
_HELPERS = """
import json, os, sys
from pathlib import Path
from hierax.cli import main

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
        **options: Of subprocess.run.
    """
    if not _can_mount():
        pytest.skip("no mounts for ordinary users here")
    folder.mkdir(exist_ok=True)
    python = [sys.executable, "-c", _HELPERS + textwrap.dedent(code), str(folder)]
    command = ["unshare", "-rm", "sh", "-c", _MOUNT, "sh", size, str(folder), *python]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800, **options)


def result_of(done: subprocess.CompletedProcess[str]) -> Any:
    """The JSON on the last line of stdout; what was said is shown where there is none."""
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])
