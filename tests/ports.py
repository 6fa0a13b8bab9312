"""Ports for servers that must know theirs before they start."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket

_FIRST, _COUNT = 12_000, 18_000  # below those that systems give to connections, which come and go at any time
_next = itertools.count(os.getpid() * 97)


def free_port() -> int:
    """One on 127.0.0.1 that nobody has, and that nobody else is given before it is taken."""
    for number in itertools.islice(_next, _COUNT):
        port = _FIRST + number % _COUNT
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")
