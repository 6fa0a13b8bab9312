"""One attempt to bring a file here over http: resumed, bounded in time, size and redirects; and when to try again.

Nothing here ever sends a token, and no message holds what may be a secret in an address.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import string
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from ..console import show
from ..errors import CheckpointError, HieraxError
from .cache import cached_place, short_hash

ATTEMPTS = 5
RETRIED_STATUS = (408, 429, 500, 502, 503, 504)
_FIRST_WAIT_S, _LONGEST_WAIT_S, _LONGEST_RETRY_AFTER_S = 0.5, 8.0, 30.0
_CHUNK_BYTES = 1 << 18
# A server that sends less than this within ten timeouts has stalled, though each byte keeps the socket alive.
_DRIP_BYTES = 1 << 14
_COMPRESSED = ("gzip", "x-gzip", "deflate", "compress", "br", "zstd")
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
    place: str, status: int, headers: Any = None, *, reason: str = "", error: type[HieraxError] = CheckpointError
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
    answer = f"HTTP {status} {reason}".strip()
    final = error(f"{place} must be downloadable; the server answered {answer}. {_REMEDIES.get(status, otherwise)}")
    if status not in RETRIED_STATUS:
        return final
    asked = (headers or {}).get("Retry-After") or ""
    return Transient(final, float(asked) if asked.isdigit() else None)


def shown(url: str) -> str:
    """A URL fit for messages: without user, password, query and fragment; anything else as it is."""
    if "://" not in url:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that is none"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


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
        place: The address, fit for messages.
        path: Where the file lies once it is whole.
        part: The partial file.
        tag: Holds the validator of the partial file.

    Raises:
        HieraxError: Of the kind's type; no such address can be fetched.
    """

    def __init__(self, url: str, kind: Kind) -> None:
        self.url, self.kind, self.place = url, kind, shown(url)
        try:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or "@" in parts.netloc:
                raise ValueError
        except ValueError:
            raise kind.error(
                f"A download address must start with http:// or https://, without user and password; got "
                f"{self.place!r}. A local file is named by its path."
            ) from None
        # An address given as "#..." is the same file; the query is part of what the server sends, never of a name.
        name = re.sub(r"[^\w.+-]", "_", unquote(parts.path).rstrip("/").rpartition("/")[2]).lstrip(".")
        self.path = cached_place(kind.folder, short_hash(url.partition("#")[0], 16), name[-120:] or "file")
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
        # "identity": a compressed body has another length than the file.
        headers = {"User-Agent": "hierax", "Accept-Encoding": "identity"}
        if begun:
            headers |= {"Range": f"bytes={begun}-", "If-Range": tag}
        with self._translated():
            request = urllib.request.Request(quote(self.url, safe=string.punctuation), headers=headers)
            response = urllib.request.build_opener(_Redirects()).open(request, timeout=_timeout_s())
        with response:
            received, total = self._opened(response, begun, tag)
            self.tag.write_text(_validator(response.headers) or (tag if received else ""), "utf-8")
            with self.part.open("ab" if received else "wb") as stream:
                for chunk in self._chunks(response):
                    stream.write(chunk)
                    received += len(chunk)
                    self._limit(received)
                    of = f" of {total / 1e6:.0f}" if total else ""
                    show(f"fetching {self.part.stem}: {received / 1e6:.0f}{of} MB")
                stream.flush()
                os.fsync(stream.fileno())
        if total is not None and received != total:
            raise self._again(f"must arrive whole; {received} of {total} bytes did, at the last of several attempts")

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
            size, tag = self.part.stat().st_size, self.tag.read_text("utf-8")
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
        if headers.get("Content-Encoding", "").lower() in _COMPRESSED:
            raise self.nothing_of_the_kind(
                f"came with the encoding {headers['Content-Encoding']}, which was not asked for"
            )
        length = headers.get("Content-Length") or ""
        total = int(length) if length.isdigit() else None
        if response.status == 200:
            begun = 0
        else:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range") or "")
            if found is None or int(found[1]) != begun or (tag and _validator(headers) not in ("", tag)):
                self.drop()  # a piece of another file
                raise self._again("must send the range that was asked for; it sent another", 0.0)
            total = int(found[2]) if found[2].isdigit() else None if total is None else begun + total
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

    def _chunks(self, response: Any) -> Iterator[bytes]:
        """The body as it comes, until it ends; a server that only drips is stopped."""
        since, at = 0, time.monotonic()
        while True:
            with self._translated():
                chunk = response.read1(_CHUNK_BYTES)
                since += len(chunk)
                if time.monotonic() - at > 10 * _timeout_s():
                    if since < _DRIP_BYTES:
                        raise TimeoutError("the server has all but stopped sending")
                    since, at = 0, time.monotonic()
            if not chunk:
                return
            yield chunk

    def _again(self, rule: str, wait_s: float | None = None) -> Transient:
        return Transient(self.kind.error(f"{self.place} {rule}. Try again later."), wait_s)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what the standard library raises into our errors, or into `Transient` where waiting may help."""
        place = self.place
        try:
            yield
        except urllib.error.HTTPError as error:
            error.close()
            failure = refused(place, error.code, error.headers, reason=str(error.reason), error=self.kind.error)
            if error.code == 416 and isinstance(failure, HieraxError):
                self.drop()  # it is as long as the whole, or longer: start again
                failure = Transient(failure, 0.0)
            raise failure from error
        except (http.client.InvalidURL, ValueError):  # their messages hold the whole address
            raise self.kind.error(
                f"A download address must be a valid one; got {place!r}. Check its spelling."
            ) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            final = self.kind.error(
                f"{place} must be reachable; {ATTEMPTS} attempts ended with: {reason or type(error).__name__}. "
                "Check the network and proxy settings, or name a local copy of the file."
            )
            raise Transient(final) from error


class _Redirects(urllib.request.HTTPRedirectHandler):
    """At most ten, to the web only, and never from https down to http."""

    max_redirections = 10
    max_repeats = 2

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """The next request, or a refusal."""
        fp.close()  # the base class reads the body of a redirect to its end, which may never come
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme == "http"):
            raise urllib.error.HTTPError(req.full_url, code, f"redirect to {scheme}:", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _validator(headers: Any) -> str:
    """A strong tag of the content, else its date; empty where the server gives neither."""
    tag = headers.get("ETag") or ""
    # Quirk(HTTP): a weak tag does not promise the same bytes.
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified") or ""


def _timeout_s() -> float:
    from huggingface_hub import constants

    return float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
