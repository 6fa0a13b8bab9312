"""One file from a plain URL: streamed, resumed, bounded in time and redirects, whole before it has its name.

Nothing here ever sends a token; hub addresses go through huggingface_hub in `fetch.py` instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

from ..errors import CheckpointError, HieraxError, IntegrityError
from .integrity import cache_root, forget, known_hash, last_hash, locked, matches, remember, say, sha256_of

ATTEMPTS = 5
RETRIED_STATUS = (408, 429, 500, 502, 503, 504)
_FIRST_WAIT_S, _LONGEST_WAIT_S, _LONGEST_RETRY_AFTER_S = 0.5, 8.0, 30.0
_CHUNK_BYTES = 1 << 18
# A server that sends less than this within ten timeouts has stalled, though each byte keeps the socket alive.
_DRIP_BYTES = 1 << 14
_T = TypeVar("_T")


class Transient(Exception):
    """A failure that may pass; carries what to raise if it does not, and how long the server asks to wait."""

    def __init__(self, final: HieraxError, wait_s: float | None = None) -> None:
        super().__init__(str(final))
        self.final, self.wait_s = final, wait_s


def patiently(call: Callable[[], _T], attempts: int = ATTEMPTS) -> _T:
    """Call until it succeeds, waiting longer each time.

    Raises:
        HieraxError: It still failed at the last attempt; what the last `Transient` carries.
    """
    wait = _FIRST_WAIT_S
    for attempt in range(attempts):
        try:
            return call()
        except Transient as failure:
            if attempt == attempts - 1:
                raise failure.final from failure
            asked = failure.wait_s
            time.sleep(wait if asked is None else min(asked, _LONGEST_RETRY_AFTER_S))
            wait = min(2 * wait, _LONGEST_WAIT_S)
    raise AssertionError("attempts must be positive")


def retry_after(headers: Any) -> float | None:
    """Seconds that a server asks to wait, where it says so as a number."""
    with contextlib.suppress(TypeError, ValueError, AttributeError):
        return max(0.0, float(headers.get("Retry-After")))
    return None


def download(
    url: str, *, wanted: tuple[str, ...] = (), superseded: tuple[str, ...] = (), progress: bool = True
) -> Path:
    """Path of a URL's file in the cache, downloaded if it is not there whole.

    Args:
        url: http or https.
        wanted: SHA-256 hashes that the file may have; empty accepts any and remembers the first.
        superseded: Hashes of earlier files, accepted with a note.
        progress: Show a bar on stderr.

    Raises:
        CheckpointError: The address is wrong, refused, unreachable, or offline mode is on and nothing is cached.
        IntegrityError: The bytes are not the published ones, twice.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise CheckpointError(
            f"A download address must start with http:// or https://; got {shown(url)!r}. "
            "A local file is named by its path."
        )
    # An address given as "#..." is the same file; the query is part of what the server sends.
    key = hashlib.sha256(url.partition("#")[0].encode()).hexdigest()[:16]
    name = re.sub(r"[^\w.+-]", "_", urllib.parse.unquote(Path(parts.path).name)) or "file"
    path = cache_root() / "urls" / key / name[-120:]
    with locked(shown(url)):
        if path.is_file():
            if _is_whole(path, wanted, superseded):
                return path
            forget(path)
        _refuse_offline(url)
        digest = ""
        for _ in range(2):
            digest = _transfer(url, path, progress)
            if not wanted or matches(path, wanted, superseded):
                return path
            forget(path)
            say(f"{shown(url)} has not the published bytes (sha256 {digest[:12]}...); deleted.")
    raise IntegrityError(
        f"{shown(url)} must have sha256 {wanted[0]}; got {digest}, twice. The file at the origin was changed or "
        "something on the way alters it. Try another network, or a mirror through HIERAX_CATALOG."
    )


def shown(url: str) -> str:
    """A URL fit for messages: without user, password, query and fragment."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _is_whole(path: Path, wanted: tuple[str, ...], superseded: tuple[str, ...]) -> bool:
    """Whether the cached file is the one that was downloaded, and the published one where that is known."""
    if wanted:
        return matches(path, wanted, superseded)
    first = last_hash(path)
    return first is None or known_hash(path) is not None or matches(path, (first,))


def _refuse_offline(url: str) -> None:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(
            f"Offline mode (HF_HUB_OFFLINE) allows only what is cached; {shown(url)} is not, or was corrupted. "
            f"Unset HF_HUB_OFFLINE once to download it, or copy the cache {cache_root()} from another machine."
        )


def _transfer(url: str, path: Path, progress: bool) -> str:
    """Download to a temporary file, then give it its name; returns its hash, which is also remembered."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        patiently(lambda: _receive(url, part, progress))
        part.replace(path)
        _tag(part).unlink(missing_ok=True)
        digest = sha256_of(path)
        remember(path, digest)
    except OSError as error:
        if isinstance(error, HieraxError):
            raise
        raise CheckpointError(
            f"The cache must be writable to download {shown(url)}; {path.parent}: {error.strerror or error}. "
            "Free some space, or point HF_HOME to another folder."
        ) from error
    return digest


def _receive(url: str, part: Path, progress: bool) -> None:
    """One attempt: continue the partial file if the server still has the same one, else start again.

    Raises:
        Transient: Worth another attempt.
        CheckpointError: Refused for good.
    """
    start, tag = _partial(part)
    # "identity": a compressed body has another length than the file.
    headers = {"User-Agent": "hierax", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": tag}
    with (
        _translated(url, part),
        _opener().open(urllib.request.Request(url, headers=headers), timeout=_timeout_s()) as r,
    ):
        if r.headers.get_content_type() == "text/html":
            raise CheckpointError(
                f"{shown(url)} answered with a web page where a weights file was expected. "
                "Check the address; a login or proxy page may be in the way."
            )
        continued = r.status == 206 and (r.headers.get("Content-Range") or "").startswith(f"bytes {start}-")
        if r.status == 206 and not continued:
            part.unlink(missing_ok=True)
            raise Transient(_short_body(url, start, None))
        start = start if continued else 0
        length = r.headers.get("Content-Length")
        total = int(length) + start if length is not None and length.isdigit() else None
        _check_space(part, (total or 0) - start)
        _tag(part).write_text(r.headers.get("ETag") or r.headers.get("Last-Modified") or "", "utf-8")
        with part.open("ab" if continued else "wb") as stream:
            received = start + _copy(r, stream, url, start, total, progress)
        if total is not None and received != total:
            raise Transient(_short_body(url, received, total))


def _copy(response: Any, stream: IO[bytes], url: str, start: int, total: int | None, progress: bool) -> int:
    """Write the body as it comes; returns the number of bytes, and stops a server that only drips."""
    written, since, at = 0, 0, time.monotonic()
    with _bar(shown(url), start, total, progress) as advance:
        while chunk := response.read1(_CHUNK_BYTES):
            stream.write(chunk)
            written += len(chunk)
            since += len(chunk)
            advance(len(chunk))
            now = time.monotonic()
            if now - at > 10 * _timeout_s():
                if since < _DRIP_BYTES:
                    raise TimeoutError("stalled")
                since, at = 0, now
    return written


def _partial(part: Path) -> tuple[int, str]:
    """Size and validator of a partial file that can be continued; (0, "") where there is none."""
    with contextlib.suppress(OSError):
        tag = _tag(part).read_text("utf-8")
        # Quirk(HTTP): a weak validator does not promise the same bytes.
        if tag and not tag.startswith("W/"):
            return part.stat().st_size, tag
    return 0, ""


def _tag(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _check_space(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise CheckpointError(
            f"The download needs {needed / 1e6:.0f} MB on {part.parent}; {free / 1e6:.0f} MB are free. "
            "Free some space, or point HF_HOME to another folder."
        )


def _short_body(url: str, got: int, total: int | None) -> IntegrityError:
    whole = f"{total} bytes" if total is not None else "the range that was asked for"
    return IntegrityError(
        f"{shown(url)} must send {whole}; it stopped at {got}, also after {ATTEMPTS} attempts. Try again later."
    )


@contextlib.contextmanager
def _translated(url: str, part: Path) -> Iterator[None]:
    """Turn what the standard library raises into our errors, or into `Transient` where waiting may help."""
    place = shown(url)
    try:
        yield
    except urllib.error.HTTPError as error:
        with error:
            final = refusal(place, error.code, str(error.reason))
            if error.code == 416:  # the partial file is as long as the whole, or longer: start again
                part.unlink(missing_ok=True)
                raise Transient(final, 0.0) from error
            if error.code in RETRIED_STATUS:
                raise Transient(final, retry_after(error.headers)) from error
            raise final from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise Transient(
            CheckpointError(
                f"{place} must be reachable; {ATTEMPTS} attempts ended with: {reason or type(error).__name__}. "
                "Check the network and proxy settings, or name a local copy of the file."
            )
        ) from error


def refusal(place: str, status: int, reason: str = "") -> HieraxError:
    """The error for an HTTP status that is not success."""
    if 300 <= status < 400:
        return CheckpointError(
            f"{place} redirects in a circle, too often, or to a forbidden kind of address (HTTP {status}). "
            "Check the address or the mirror in HF_ENDPOINT."
        )
    remedies = {
        401: "It needs a login: set HF_TOKEN for a hub repository, or check the address.",
        403: "Access is refused: accept the repository's conditions in a browser and set HF_TOKEN.",
        404: "There is no such file: check the name and the revision; see `hierax list`.",
        410: "The file was removed: see `hierax list` for others.",
        429: "Too many requests: wait a few minutes, or set HF_TOKEN for higher limits.",
    }
    otherwise = "The server has a problem: try again later." if status >= 500 else "Check the address."
    answer = f"HTTP {status} {reason}".strip()
    return CheckpointError(
        f"{place} must be downloadable; the server answered {answer}. {remedies.get(status, otherwise)}"
    )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """At most ten, to the web only, and never from https down to http."""

    max_redirections = 10
    max_repeats = 2

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """The next request, or a refusal."""
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme == "http"):
            raise urllib.error.HTTPError(req.full_url, code, f"redirect to {scheme}:", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Redirects())


def _timeout_s() -> float:
    from huggingface_hub import constants

    return float(constants.HF_HUB_DOWNLOAD_TIMEOUT)


@contextlib.contextmanager
def _bar(label: str, start: int, total: int | None, progress: bool) -> Iterator[Callable[[int], object]]:
    """A progress bar on stderr where a person is watching."""
    from huggingface_hub.utils import are_progress_bars_disabled
    from tqdm.auto import tqdm

    silent = True if not progress or are_progress_bars_disabled() else None
    name = label.rpartition("/")[2][-40:]
    with tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=name, disable=silent) as bar:
        yield bar.update
