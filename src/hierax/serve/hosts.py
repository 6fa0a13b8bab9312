"""Which names a server answers under, so that no web page of a stranger reaches one that listens on this machine alone.

A browser believes a page's own DNS: a name that resolves to 127.0.0.1 a minute later makes a server there one of that
page's origin, which may read every answer (DNS rebinding). An address cannot be made to mean another one, and a browser
always says which name it asked for: in `Host`, and in `Origin` for which page it sends something.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import socket
from collections.abc import Mapping
from typing import Any

from ..errors import brief
from .replies import Refusal
from .settings import ANY_HOST, Settings

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:/@?#\s]+)(?::[0-9]{1,5})?\Z")  # a port of a tunnel's is any
_ORIGIN = re.compile(r"https?://")


def bound_to(settings: Settings, host: str) -> Settings:
    """Settings of a server that listens at `host`: one that others reach as well is asked for by any name."""
    if settings.hosts is not None or settings.key is not None:
        return settings
    if _is_local(host):
        return settings
    try:
        found = {each[4][0] for each in socket.getaddrinfo(host or "0.0.0.0", None)}
    except (OSError, UnicodeError):  # listening there fails, and says why
        return settings
    own = bool(found) and all(_is_local(str(each)) for each in found)
    return dataclasses.replace(settings, hosts=(host,) if own else (ANY_HOST,))


def foreign(scope: Mapping[str, Any], settings: Settings) -> Refusal | None:
    """Why a request is refused that a web page of elsewhere may have sent; None where it is one to answer."""
    if ANY_HOST in (settings.hosts or ()):
        return None
    address = (scope.get("server") or ("", None))[0]
    if settings.hosts is None and (settings.key is not None or not _is_local(address)):
        return None
    own = {address.lower(), *(host.lower() for host in settings.hosts or ())}
    fields = [(name.lower(), value.decode("latin-1")) for name, value in scope["headers"]]
    asked = [value for name, value in fields if name == b"host"]
    if len(asked) != 1 or not _is_named(asked[0], own):
        return _refusal("Host", ", ".join(asked))
    others = dict(fields)
    origin = others.get(b"origin")
    if origin is not None and not (_ORIGIN.match(origin) and _is_named(_ORIGIN.sub("", origin), own)):
        return _refusal("Origin", origin)
    return _refusal("Sec-Fetch-Site", "cross-site") if _is_embedded(others) else None


def _is_embedded(fields: Mapping[bytes, str]) -> bool:
    """Whether a page of another site asks for something of its own; a link that somebody follows is no such thing."""
    return fields.get(b"sec-fetch-site") == "cross-site" and fields.get(b"sec-fetch-mode") != "navigate"


def _is_named(text: str, own: set[str]) -> bool:
    """Whether a host, with a port or without, is one of this server's."""
    found = _HOST.match(text.lower())
    if found is None:
        return False
    host = found[1].strip("[]").removesuffix(".")
    return host in own or _is_local(host)


def _is_local(host: str) -> bool:
    """Whether a host is this machine's own for whoever asks for it, without any DNS."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refusal(field: str, value: str) -> Refusal:
    words = f"This server answers under names of its own machine, such as localhost; the request's {field} is"
    remedy = "Where that is on purpose, the server is told by --allow-host NAME."
    return Refusal(403, "Forbidden", f"{words} {brief(value)}. {remedy}")
