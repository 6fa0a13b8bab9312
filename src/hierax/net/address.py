"""Addresses and names from elsewhere: what of them may be said, and what of them may become a path."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit, urlunsplit

# An address, or what a person or Path made of one: "http:/host". One letter and a colon is a drive.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/", re.ASCII)
_INSIDE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{1,30}:/[^\s'\"<>,]*", re.ASCII)
_PLAIN = re.compile(r"[\w-][\w.-]{0,127}", re.ASCII)
_LONGEST = 512


def shown(text: str) -> str:
    """A URL fit for messages and records: without user, password, query and fragment; anything else as it is."""
    if ":/" not in text:
        return text
    if _ADDRESS.match(text):
        return _stripped(text)
    return _INSIDE.sub(lambda found: _stripped(found[0]), text)


def is_address(text: str) -> bool:
    """Whether a text is an address of any kind, rather than a name or a path."""
    return _ADDRESS.match(text) is not None


def _stripped(url: str) -> str:
    scheme, _, rest = url.partition(":")
    try:
        parts = urlsplit(f"{scheme}://{rest.lstrip('/')}")
        parts.port  # noqa: B018  a password that holds a slash is taken for a port
    except ValueError:
        return "an address that is none"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def plain(name: str | None) -> bool:
    """Whether a word from elsewhere may become one part of a path: letters, digits, `_`, `-` and inner dots."""
    return _PLAIN.fullmatch(name or "") is not None


def inner(name: str) -> bool:
    """Whether a name from elsewhere, with `/` between its parts, stays inside the folder it is put in."""
    fine = bool(name) and len(name) <= _LONGEST and name.isprintable() and not set(name) & set('\\:*?"<>|')
    return fine and all(part.strip(". ") and len(part) <= 255 for part in name.split("/"))


def file_name(url: str) -> str:
    """A name for the file that an address means; the query is part of what the server sends, never of a name."""
    last = unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2]
    return re.sub(r"[^\w.+-]", "_", last).lstrip(".")[-120:] or "file"
