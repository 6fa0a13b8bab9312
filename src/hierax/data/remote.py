"""Files behind http(s) addresses, fetched into the user's cache: whole under their name, or not there at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit

from ..errors import InputError

_PAUSES_S = (1.0, 4.0)  # before each further attempt
_PATIENT = (408, 429, 500, 502, 503, 504)
_CHUNK = 1 << 20
_TIMEOUT_S = 60.0
_SHOW_EVERY_S = {True: 0.2, False: 10.0}  # on a terminal, and in a log file


class Progress:
    """One line on stderr that is rewritten on a terminal, and now and then repeated elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._quiet = bool(os.environ.get("HIERAX_QUIET")) or os.environ.get("RANK", "0") != "0"
        self._shown = time.monotonic()
        self._open = False

    def show(self, text: str) -> None:
        """Say where things stand, unless that was said a moment ago."""
        now = time.monotonic()
        if self._quiet or now - self._shown < _SHOW_EVERY_S[self._terminal]:
            return
        self._shown, self._open = now, self._terminal
        line = f"\r\033[K{text}" if self._terminal else f"{text}\n"
        print(line, end="", file=sys.stderr, flush=True)  # noqa: T201

    def say(self, text: str) -> None:
        """A line that stays."""
        if not self._quiet:
            print("\r\033[K" * self._open + text, file=sys.stderr, flush=True)  # noqa: T201
            self._open = False

    def close(self) -> None:
        """Leave the terminal at the start of a line."""
        if self._open:
            print("\r\033[K", end="", file=sys.stderr, flush=True)  # noqa: T201
            self._open = False


def cache_folder(name: str) -> Path:
    """A folder of ours in the user's cache; it need not exist yet."""
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no home
        root = Path(tempfile.gettempdir())
    return root / "hierax" / name


def file_name(url: str) -> str:
    """The last part of an address, without its query."""
    return unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2] or "index"


def fetch(url: str, progress: Progress, *, changing: bool = False) -> Path:
    """The local copy of a file, fetched if it is not there; several processes fetch it once.

    An interrupted transfer goes on where it stopped if the server still has the same file.

    Args:
        url: An http or https address.
        progress: Where to say how far it is.
        changing: Ask the server again even if there is a copy, and fall back on that if it does not answer.

    Raises:
        InputError: It cannot be fetched, or the cache cannot be written.
    """
    target = cache_folder("shards") / hashlib.sha256(url.encode()).hexdigest()[:16] / file_name(url)
    if target.is_file() and not changing:
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target):
            if changing or not target.is_file():  # another process may have been faster
                _fetch_patiently(url, target, progress)
    except (HTTPException, OSError) as error:
        if target.is_file() and not _final(error):
            progress.say(f"{url} does not answer ({error}); the copy in the cache is used.")
            return target
        raise InputError(
            f"Shards must be reachable and the cache {target.parent} writable; {url}: {str(error) or repr(error)}. "
            "Check the address, the network and the disk, or name local copies."
        ) from error
    return target


class _Short(OSError):
    """Fewer bytes than promised."""


def _fetch_patiently(url: str, target: Path, progress: Progress) -> None:
    partial = target.with_name(f"{target.name}.part")
    for pause in (*_PAUSES_S, None) if not target.is_file() else (None,):
        try:
            _transfer(url, partial, progress)
            os.replace(partial, target)
            _tag_of(partial).unlink(missing_ok=True)
            return
        except (HTTPException, URLError, ConnectionError, TimeoutError, _Short) as error:
            stale = isinstance(error, HTTPError) and error.code == 416  # what is there is longer than the file
            if stale:
                partial.unlink(missing_ok=True)
            if pause is None or (_final(error) and not stale):
                raise
            progress.say(f"{url}: {error}; trying again in {pause:.0f} s")
            time.sleep(pause)


def _final(error: Exception) -> bool:
    """Whether the server refuses, so that waiting does not help."""
    return isinstance(error, HTTPError) and error.code not in _PATIENT


def _transfer(url: str, partial: Path, progress: Progress) -> None:
    """Fetch what is missing of a file."""
    have, tag = _begun(partial)
    headers = {"Range": f"bytes={have}-", "If-Range": tag} if have else {}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_S) as response:
        goes_on = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        have = have if goes_on else 0
        if not goes_on:
            _tag_of(partial).write_text(_validator(response.headers), "utf-8")
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdigit() else None
        with partial.open("ab" if goes_on else "wb") as stream:
            while chunk := response.read(_CHUNK):
                stream.write(chunk)
                have += len(chunk)
                of = f" of {total / 1e6:.0f}" if total else ""
                progress.show(f"fetching {file_name(url)}: {have / 1e6:.0f}{of} MB")
            stream.flush()
            os.fsync(stream.fileno())
    if total is not None and have != total:
        raise _Short(f"{have} of {total} bytes arrived")


def _begun(partial: Path) -> tuple[int, str]:
    """Bytes of an earlier attempt that can be kept, and what tells that the file is still the same."""
    try:
        tag = _tag_of(partial).read_text("utf-8")
        return (partial.stat().st_size, tag) if tag else (0, "")
    except (OSError, UnicodeDecodeError):
        return 0, ""


def _tag_of(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.tag")


def _validator(headers: Any) -> str:
    """A strong tag of the content, else its date; empty where the server gives neither."""
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """One process at a time; the lock dies with its process."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with target.with_name(f"{target.name}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
