"""The one voice on stderr: lines, warnings and progress, and how much of them a person wants. stdout is data.

Nothing else in hierax writes to stderr, and nothing that is written there can steer a terminal. Processes started by a
quiet one are quiet too, and of the processes of one training run only the first talks.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Literal

Verbosity = Literal["quiet", "normal", "verbose"]
_QUIET = "HIERAX_QUIET"
_LEVELS = {"quiet": logging.ERROR, "normal": logging.WARNING, "verbose": logging.DEBUG}
_EVERY_S = {True: 0.2, False: 10.0}  # how often progress is shown on a terminal, and in a log file
NAMED = 10  # problems that are named one by one
_open = False  # whether the cursor stands behind a progress line
_shown_at = -1e9
_hushed = False  # whether a block asked for no progress


def set_up(verbosity: Verbosity) -> None:
    """Say how much is said, for this process and those it starts."""
    os.environ[_QUIET] = "1" if verbosity == "quiet" else ""
    talk = logging.StreamHandler(sys.stderr)
    talk.setFormatter(_Printable("hierax: %(message)s"))
    logging.basicConfig(handlers=[talk])
    warnings.formatwarning, threading.excepthook = _printable_warning, _thread_failed
    logging.getLogger("hierax").setLevel(_LEVELS[verbosity])  # other libraries' talk stays theirs
    if verbosity == "quiet":
        warnings.simplefilter("ignore")


class _Printable(logging.Formatter):
    """Log lines of which nothing steers a terminal: names of files and words of models are in them."""

    def format(self, record: logging.LogRecord) -> str:
        """As its base."""
        return printable(super().format(record), keep="\n")


def _printable_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return printable(f"hierax: {filename}:{lineno}: {category.__name__}: {message}") + "\n"


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    """What fails in a library's thread is told by whoever waits for it; its traceback is for -v."""
    logging.getLogger("hierax").debug("in a thread: %s: %s", failed.exc_type.__name__, failed.exc_value)


def trace(kind: type[BaseException], error: BaseException, at: TracebackType | None) -> None:
    """Say where an error came from; for sys.excepthook."""
    complain("".join(traceback.format_exception(kind, error, at)))


def quiet() -> bool:
    """Whether to say nothing but errors."""
    return bool(os.environ.get(_QUIET)) or os.environ.get("RANK", "0") != "0"


def shows_progress() -> bool:
    """Whether progress is wanted."""
    return not (quiet() or _hushed)


@contextlib.contextmanager
def progress(wanted: bool) -> Iterator[None]:
    """Show no progress inside a block unless it is wanted."""
    global _hushed
    before, _hushed = _hushed, _hushed or not wanted
    try:
        yield
    finally:
        _hushed = before


def say(text: str) -> None:
    """A line that stays."""
    if not quiet():
        complain(text)


def complain(text: str) -> None:
    """A line that stays, also where only errors are wanted."""
    write("hierax: " + text.rstrip() + "\n")


def write(text: str) -> None:
    """Lines that stay, as they are but for what could steer a terminal."""
    close()
    _write(printable(text, keep="\n"))


def printable(text: str, *, keep: str = "", escape: Callable[[str], str] | None = None) -> str:
    """Text of which nothing steers a terminal: what does not print becomes its escape, but for what is kept."""
    escape = escape or (lambda c: c.encode("unicode_escape").decode())
    return text if text.isprintable() else "".join(c if c.isprintable() or c in keep else escape(c) for c in text)


class Unheard(Exception):
    """stdout takes no more; the cause says why."""


def emit(text: str, *, end: str = "\n", as_json: bool = False, now: bool = False) -> None:
    """Data on stdout, as it is; on a terminal, what could steer it is shown as its escape.

    Args:
        text: The data.
        end: What follows it.
        as_json: Whether escapes are JSON's.
        now: Hand it over before going on.

    Raises:
        Unheard: stdout takes no more.
    """
    if sys.stdout.isatty():
        text = printable(text, keep="\n\t", escape=(lambda c: json.dumps(c)[1:-1]) if as_json else None)
    try:
        sys.stdout.write(text + end)
        if now:
            sys.stdout.flush()
    except OSError as error:
        raise Unheard from error


def name_problems(problems: Iterable[tuple[str, str]], headline: str = "", *, more: int = 0) -> None:
    """Say which files could not be read and why, the first of them one by one; how many, where there is a headline.

    Args:
        problems: Name and reason of each.
        headline: Follows their number.
        more: How many there are beside these.
    """
    problems = list(problems)
    if problems and headline:
        say(f"{len(problems) + more} {headline}")
    for name, reason in problems[:NAMED]:
        say(f"{printable(name)}: {reason}")
    more += max(len(problems) - NAMED, 0)
    if more:
        say(f"... and {more} more")


def show(text: str, *, now: bool = False) -> None:
    """Where things stand: a line that is rewritten on a terminal, and now and then repeated elsewhere.

    Args:
        text: The line.
        now: Show it even if something was shown a moment ago.
    """
    global _open, _shown_at
    terminal = sys.stderr.isatty()
    if not shows_progress() or (not now and time.monotonic() - _shown_at < _EVERY_S[terminal]):
        return
    _shown_at, _open = time.monotonic(), terminal
    _write(f"\r\033[K{printable(text)}" if terminal else f"hierax: {printable(text)}\n")


def show_or_record(line: Callable[[], str], record: Callable[[], dict[str, Any]], *, now: bool = False) -> None:
    """Where things stand: a line that is rewritten on a terminal, and now and then a JSON line elsewhere.

    Args:
        line: Gives the line.
        record: Gives what the JSON line holds.
        now: Show it even if something was shown a moment ago.
    """
    global _shown_at
    if sys.stderr.isatty():
        if now or time.monotonic() - _shown_at >= _EVERY_S[True]:
            show(line(), now=True)
    elif shows_progress() and (now or time.monotonic() - _shown_at >= _EVERY_S[False]):
        _shown_at = time.monotonic()
        _write(json.dumps(record()) + "\n")


def close() -> None:
    """End a progress line that is being rewritten, so that what comes next starts a line of its own."""
    global _open
    if _open:
        _open = False
        _write("\n")


@contextlib.contextmanager
def bar(
    label: str = "", *, total: int | None = None, unit: str = "B", start: int = 0, wanted: bool = True
) -> Iterator[Any]:
    """A progress bar (tqdm's) where a person is watching; call its `update(count)`."""
    from tqdm.auto import tqdm

    silent = True if quiet() or not wanted else None  # None: wherever stderr is no terminal
    with tqdm(
        total=total,
        initial=start,
        unit=unit,
        unit_scale=unit == "B",
        desc=printable(label) or None,
        disable=silent,
        leave=False,
    ) as drawn:
        yield drawn


def _write(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # stderr was closed: nobody listens
        sys.stderr.write(text)
        sys.stderr.flush()
