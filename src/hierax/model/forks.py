"""OpenVINO's programs in a forked process, such as a worker that decodes images.

A compiled program owns threads, and a forked process has the program without them: ending it there waits for them for
ever. Nobody needs to ask for that: what the parent had let go of, and not yet collected, is collected by the child some
time later. (onnxruntime's sessions end without their threads.)
"""

from __future__ import annotations

import os
import weakref
from typing import Any

_alive: weakref.WeakSet[Any] = weakref.WeakSet()
_kept: list[Any] = []


def outlive_forks(program: Any) -> None:
    """Never end a program in a process that is forked from this one; here it ends as usual."""
    _alive.add(program)


def _keep() -> None:
    _kept.extend(_alive)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep)
