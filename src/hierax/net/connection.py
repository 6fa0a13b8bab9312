"""Connections that end: one clock over everything up to the body, and redirects only to where they may lead.

A socket's timeout ends a server that is silent; one that sends a byte now and then keeps it waiting for ever, in the
status line, in headers, in the frames of a chunked body and behind its end. Here every read of the socket looks at a
clock, which the caller of a body winds up again.
"""

from __future__ import annotations

import http.client
import io
import ssl
import string
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

_MOST_REDIRECTS = 10


class Clock:
    """When the phase that is going on must have ended."""

    def __init__(self, seconds: float) -> None:
        self.wind(seconds)

    def wind(self, seconds: float) -> None:
        """Give the next phase so long."""
        self._end = time.monotonic() + seconds

    def check(self) -> None:
        """Raise TimeoutError once it has run out."""
        if time.monotonic() > self._end:
            raise TimeoutError("the server has all but stopped sending")


def open_url(
    url: str,
    headers: Mapping[str, str],
    *,
    timeout_s: float,
    token: str = "",
    method: str = "GET",
    within: bool = False,
) -> tuple[Any, Clock]:
    """The answer to a request, its body unread, and the clock that each read of it obeys.

    Args:
        url: http or https.
        headers: Sent to every host that is asked.
        timeout_s: How long the server may be silent; the whole way to the body may take three times as long.
        token: Sent as a bearer's, only to the scheme, host and port of `url`.
        method: GET or HEAD.
        within: Follow only redirects that name no host; others are an `HTTPError` with their headers.

    Raises:
        OSError: As urllib's; `HTTPError` for what is not success.
        http.client.HTTPException: No HTTP.
        ValueError: No address.
    """
    clock = Clock(3 * timeout_s)
    request = urllib.request.Request(quote(url, safe=string.punctuation), headers=dict(headers), method=method)
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    handlers = (_Http(clock), _Https(clock), Redirects(within))
    return urllib.request.build_opener(*handlers).open(request, timeout=timeout_s), clock


class Redirects(urllib.request.HTTPRedirectHandler):
    """At most ten, to the web only, and never from https down to http; the token goes to its own host alone."""

    max_redirections = _MOST_REDIRECTS
    max_repeats = 2

    def __init__(self, within: bool = False) -> None:
        self.within = within

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """The next request, or a refusal."""
        fp.close()  # the base class reads the body of a redirect to its end, which may never come
        target = urlsplit(newurl)
        if target.scheme not in ("http", "https") or (req.type == "https" and target.scheme == "http"):
            raise urllib.error.HTTPError(req.full_url, code, "redirect to another kind of address", headers, fp)
        if self.within and urlsplit(headers.get("Location") or headers.get("URI") or "").netloc:
            return None
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        token = req.unredirected_hdrs.get("Authorization")
        if following is not None and token and _origin(newurl) == _origin(req.full_url):
            following.add_unredirected_header("Authorization", token)
        return following


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


class _Clocked(io.RawIOBase):
    """A socket's stream of which every read looks at the clock."""

    def __init__(self, stream: io.RawIOBase, clock: Clock) -> None:
        self._stream, self._clock = stream, clock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._clock.check()
        count = self._stream.readinto(buffer)  # type: ignore[attr-defined]
        self._clock.check()
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


def _clocked(plain: type[http.client.HTTPConnection], clock: Clock) -> type[http.client.HTTPConnection]:
    """A kind of connection whose answers obey a clock, those of a proxy before them too."""

    class Response(http.client.HTTPResponse):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.fp = io.BufferedReader(_Clocked(self.fp.detach(), clock))  # type: ignore[attr-defined, assignment]

    class Connection(plain):  # type: ignore[misc, valid-type]
        response_class = Response

    return Connection


class _Http(urllib.request.HTTPHandler):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._kind = _clocked(http.client.HTTPConnection, clock)

    def http_open(self, req: Any) -> Any:
        return self.do_open(self._kind, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, clock: Clock) -> None:
        self._tls = ssl.create_default_context()
        super().__init__(context=self._tls)
        self._kind = _clocked(http.client.HTTPSConnection, clock)

    def https_open(self, req: Any) -> Any:
        return self.do_open(self._kind, req, context=self._tls)
