"""One file a group of commands: read, call the library, print. Signatures are the options, docstrings the help."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What a command answers the shell."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    PARTIAL = 3
    INTERRUPTED = 130


MEANINGS = {
    Exit.OK: "all went well",
    Exit.FAILURE: "failed, and stderr says why",
    Exit.USAGE: "no such command or option",
    Exit.PARTIAL: "done, but some files could not be read",
    Exit.INTERRUPTED: "stopped by Ctrl-C, SIGTERM or SIGHUP",
}
