"""One attempt to bring a file here over http: resumed, bounded in time and size; and when to try again.

No message holds what may be a secret in an address.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import time
import urllib.error
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ..console import show
from ..errors import CheckpointError, HieraxError
from .address import file_name, shown
from .cache import cached_place, own, short_hash, sweep
from .connection import Clock, open_url

# "identity": a compressed body has another length than the file.
HEADERS = {"User-Agent": "hierax", "Accept-Encoding": "identity"}
ATTEMPTS = 5
RETRIED_STATUS = (408, 429, 500, 502, 503, 504)
_FIRST_WAIT_S, _LONGEST_WAIT_S, _LONGEST_RETRY_AFTER_S = 0.5, 8.0, 30.0
_CHUNK_BYTES = 1 << 18
_PHASE = 3  # timeouts that headers, and each window of a body, may take
_LEAST_RATE, _USUAL_RATE = 1 << 10, 1 << 14  # bytes a second: of each window of a body, and of the whole after that
_LEAST_S, _LONGEST_S = 600.0, 86400.0  # of the time for a whole body
# Content codings that leave the bytes as they are; storage services keep the second from an upload.
_PLAIN = {"", "identity", "aws-chunked", "none", "binary"}
_PAGE_BEGINS = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--", b"<script")
_REMEDIES = {
    401: "It needs a login: for a hub repository set HF_TOKEN, else name a local copy.",
    403: "Access is refused: accept the repository's conditions in a browser and set HF_TOKEN.",
    404: "There is no such file: check the name and the revision; see `hierax list`.",
    410: "The file was removed: see `hierax list` for others.",
    429: "Too many requests: wait a few minutes, or set HF_TOKEN for higher limits.",
}
_T = TypeVar("_T")


class Transient(Exception):
    """A failure that may pass; carries what to raise if it does not, and how long the server asks to wait."""

    def __init__(self, final: HieraxError, wait_s: float | None = None) -> None:
        super().__init__(str(final))
        self.final, self.wait_s = final, wait_s


def patiently(call: Callable[[], _T], attempts: int | None = None) -> _T:
    """Call until it succeeds, waiting longer each time; `ATTEMPTS` times unless told otherwise.

    Raises:
        HieraxError: It still failed at the last attempt; what the last `Transient` carries, with that as its cause.
    """
    wait, left = _FIRST_WAIT_S, attempts or ATTEMPTS
    while True:
        try:
            return call()
        except Transient as failure:
            left -= 1
            if not left:
                raise failure.final from failure
            time.sleep(wait if failure.wait_s is None else min(failure.wait_s, _LONGEST_RETRY_AFTER_S))
            wait = min(2 * wait, _LONGEST_WAIT_S)


def refused(
    place: str, status: int, headers: Any = None, *, error: type[HieraxError] = CheckpointError
) -> HieraxError | Transient:
    """What to raise for an HTTP status that is not success; `Transient` where waiting may help.

    A `Retry-After` among the headers is obeyed where it is a number of seconds.
    """
    if 300 <= status < 400:
        return error(
            f"{place} redirects in a circle, too often, or to a forbidden kind of address (HTTP {status}). "
            "Check the address or the mirror in HF_ENDPOINT."
        )
    otherwise = "The server has a problem: try again later." if status >= 500 else "Check the address."
    # The standard's words: the server's own may repeat the address, with what is secret in it.
    answer = f"HTTP {status} {http.client.responses.get(status, '')}".strip()
    final = error(f"{place} must be downloadable; the server answered {answer}. {_REMEDIES.get(status, otherwise)}")
    if status not in RETRIED_STATUS:
        return final
    asked = (headers or {}).get("Retry-After") or ""
    return Transient(final, float(asked) if re.fullmatch("[0-9]{1,9}", asked) else None)


@dataclass(frozen=True)
class Kind:
    """What a caller fetches.

    Attributes:
        noun: What it is, for messages: "a weights file".
        error: What to raise.
        folder: Where it lies inside the cache.
        most_bytes: The largest that is accepted, whatever the server announces.
        trouble: Why a file is none, in words that follow "it"; empty if it is one. Asked before a fetched file takes
            its name, and of what the cache holds, unless the hash of the file is known.
    """

    noun: str
    error: type[HieraxError]
    folder: str
    most_bytes: int
    trouble: Callable[[Path], str]


class Transfer:
    """From a URL to a file in the cache, through a partial one that a later attempt or a later process continues.

    Attributes:
        url: http or https.
        kind: What is expected there.
        token: Sent to the host of the address alone.
        place: The address, fit for messages.
        path: Where the file lies once it is whole.
        part: The partial file.
        tag: Holds the validator of the partial file.

    Raises:
        HieraxError: Of the kind's type; no such address can be fetched.
    """

    def __init__(self, url: str, kind: Kind, *, path: Path | None = None, token: str = "") -> None:
        self.url, self.kind, self.place, self.token = url, kind, shown(url), token
        try:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or "@" in parts.netloc:
                raise ValueError
        except ValueError:
            raise kind.error(
                f"A download address must start with http:// or https://, without user and password; got "
                f"{self.place!r}. A local file is named by its path."
            ) from None
        # An address given as "#..." is the same file.
        self.path = path or cached_place(kind.folder, short_hash(url.partition("#")[0], 16), file_name(url))
        self.part = self.path.with_name(self.path.name + ".part")
        self.tag = self.part.with_name(self.part.name + ".etag")

    def attempt(self) -> None:
        """Continue the partial file if the server still has the same one, else start again.

        Raises:
            Transient: Worth another attempt.
            HieraxError: Of the given type; refused for good.
            OSError: The disk refuses.
        """
        begun, tag = self._begun()
        headers = dict(HEADERS)
        if begun:
            headers |= {"Range": f"bytes={begun}-", "If-Range": tag}
        with translated(self.place, self.kind.error, self.drop):
            response, clock = open_url(self.url, headers, timeout_s=timeout_s(), token=self.token)
        with response:
            received, total = self._opened(response, begun, tag)
            own(self.tag).write_text(_validator(response.headers) or (tag if received else ""), "utf-8")
            with own(self.part).open("ab" if received else "wb") as stream:
                for chunk in self._chunks(response, clock, (total or self.kind.most_bytes) - received):
                    stream.write(chunk)
                    received += len(chunk)
                    self._limit(received)
                    of = f" of {total / 1e6:.0f}" if total else ""
                    show(f"fetching {file_name(self.url)}: {received / 1e6:.0f}{of} MB")
                stream.flush()
                os.fsync(stream.fileno())
        if total is not None and received != total:
            raise self._again(f"must arrive whole; {received} of {total} bytes did, at the last of several attempts")

    def settle(self) -> None:
        """Give the partial file its name, now that it is whole, unless it is something else.

        Raises:
            HieraxError: Of the kind's type; it is something else.
            OSError: The disk refuses.
        """
        trouble = _page(self.part) or self.kind.trouble(self.part)
        if trouble:
            raise self.nothing_of_the_kind(trouble)
        self.part.replace(self.path)
        self.drop()
        sweep()

    def drop(self) -> None:
        """Start again at the next attempt."""
        self.part.unlink(missing_ok=True)
        self.tag.unlink(missing_ok=True)

    def nothing_of_the_kind(self, trouble: str) -> HieraxError:
        """The error for bytes that are something else."""
        self.drop()
        return self.kind.error(
            f"{self.place} must be {self.kind.noun}; it {trouble}. Check the address; a login or proxy page may "
            "be in the way."
        )

    def _begun(self) -> tuple[int, str]:
        """Size and validator of what can be continued; (0, "") where there is nothing."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            size, tag = own(self.part).stat().st_size, own(self.tag).read_text("utf-8")
            if size and tag:
                return size, tag
        return 0, ""

    def _opened(self, response: Any, begun: int, tag: str) -> tuple[int, int | None]:
        """Where the body begins in the file, and the length of the whole where it is stated."""
        headers = response.headers
        if response.status not in (200, 206):
            raise self.nothing_of_the_kind(f"is an answer without a file (HTTP {response.status})")
        if headers.get_content_type() in ("text/html", "application/xhtml+xml"):
            raise self.nothing_of_the_kind("is a web page")
        coding = ",".join(headers.get_all("Content-Encoding", []))
        if not {word.strip().lower() for word in coding.split(",")} <= _PLAIN:
            raise self.nothing_of_the_kind(f"came with the encoding {coding[:40]!r}, which was not asked for")
        total = _number(headers.get("Content-Length"))
        if response.status == 200:
            begun = 0
        else:
            found = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]+/([0-9]{1,18}|\*)", headers.get("Content-Range") or "")
            if found is None or int(found[1]) != begun or (tag and _validator(headers) not in ("", tag)):
                self.drop()  # a piece of another file
                raise self._again("must send the range that was asked for; it sent another", 0.0)
            total = _number(found[2], begun + total if total is not None else None)
        self._limit(total or 0)
        needed, free = (total or 0) - begun, shutil.disk_usage(self.part.parent).free
        if needed > free:
            raise self.kind.error(
                f"The download needs {needed / 1e6:.0f} MB on {self.part.parent}; {free / 1e6:.0f} MB are free. "
                "Free some space, or point HF_HOME to another folder."
            )
        return begun, total

    def _limit(self, size: int) -> None:
        if size > self.kind.most_bytes:
            raise self.nothing_of_the_kind(f"is larger than {self.kind.most_bytes / 1e6:.0f} MB")

    def _chunks(self, response: Any, clock: Clock, expected: int) -> Iterator[bytes]:
        """The body as it comes, until it ends; a server that only drips is stopped."""
        window = _PHASE * timeout_s()
        since, at = 0, time.monotonic()
        end = at + min(_LEAST_S + expected / _USUAL_RATE, _LONGEST_S)
        while True:
            with translated(self.place, self.kind.error):
                clock.wind(window)
                chunk = response.read1(_CHUNK_BYTES)
                since, now = since + len(chunk), time.monotonic()
                if chunk and (now > end or (now - at > window and since < _LEAST_RATE * window)):
                    raise TimeoutError("the server has all but stopped sending")
                if now - at > window:
                    since, at = 0, now
            if not chunk:
                return
            yield chunk

    def _again(self, rule: str, wait_s: float | None = None) -> Transient:
        return Transient(self.kind.error(f"{self.place} {rule}. Try again later."), wait_s)


@contextlib.contextmanager
def translated(place: str, kind: type[HieraxError], drop: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Turn what the standard library raises into our errors, or into `Transient` where waiting may help.

    Args:
        place: The address, fit for messages.
        kind: What to raise.
        drop: Called where what was begun is as long as the whole, or longer.
    """
    failure: Exception | None = None
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        failure = refused(place, error.code, error.headers, error=kind)
        if error.code == 416 and isinstance(failure, HieraxError):
            drop()
            failure = Transient(failure, 0.0)
    except (http.client.InvalidURL, ValueError):
        failure = kind(f"A download address must be a valid one; got {place!r}. Check its spelling.")
    except (OSError, http.client.HTTPException) as error:
        final = kind(
            f"{place} must be reachable; {ATTEMPTS} attempts ended with: {_reason(error)}. "
            "Check the network and proxy settings, or name a local copy of the file."
        )
        failure = Transient(final)
    if failure is not None:
        raise failure  # outside of the handlers: what they caught may hold the whole address


def _reason(error: Exception) -> str:
    """What the system says; of what a server said no more than which rule it broke."""
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, OSError):
        return reason.strerror or str(reason) or type(reason).__name__
    return type(error).__name__


def _page(part: Path) -> str:
    """What is wrong with a file that is a web page, whatever its server called it."""
    with part.open("rb") as stream:
        begin = stream.read(512).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return "is a web page" if begin.startswith(_PAGE_BEGINS) else ""


def _number(text: str | None, otherwise: int | None = None) -> int | None:
    """A length as headers state it; they can hold any text."""
    return int(text) if text and re.fullmatch("[0-9]{1,18}", text) else otherwise


def _validator(headers: Any) -> str:
    """A strong tag of the content, else its date; empty where the server gives neither."""
    tag = headers.get("ETag") or ""
    # Quirk(HTTP): a weak tag does not promise the same bytes.
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified") or ""


def timeout_s() -> float:
    """How long a server may be silent."""
    from huggingface_hub import constants

    return float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
