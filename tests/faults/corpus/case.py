"""What a case of the corpus is, and the command line as a case calls it."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def nothing(folder: Path) -> None:
    """Of a case that needs no files."""


@dataclass(frozen=True)
class Case:
    """An attack and what must come of it.

    Attributes:
        name: Unique within its module.
        act: Meets the attack through the public API or the command line; the working directory is `folder`.
        make: Writes the hostile files into `folder`, unmeasured, in a process of its own.
        raises: The type of error that `act` must raise; None: it must return.
        match: Regular expression that the error's message must contain; it has to name rule, value or remedy.
        expect: True for a right result of `act`; judged in the child.
        megabytes: How much the memory of `act`'s process may grow at most.
        seconds: Processor time that `act` may take, all its threads together.
    """

    name: str
    act: Callable[[Path], Any]
    make: Callable[[Path], None] = nothing
    raises: type[Exception] | None = None
    match: str = "."
    expect: Callable[[Any], bool] | None = None
    megabytes: int = 300
    seconds: float = 5.0


@dataclass(frozen=True)
class Ran:
    """What a command left."""

    code: int
    out: str
    err: str


def hierax(*arguments: str | os.PathLike[str]) -> Ran:
    """Run `hierax ARGUMENTS` in this process; nothing but an exit code may come of it."""
    from hierax.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([os.fspath(argument) for argument in arguments])
    return Ran(code, out.getvalue(), err.getvalue())


def refused(ran: Ran, code: int = 1) -> bool:
    """Whether a command ended as documented: its exit code, one line or more on stderr, and nothing of our insides."""
    return ran.code == code and bool(ran.err.strip()) and not any(w in ran.err for w in ("Traceback", "internal error"))
