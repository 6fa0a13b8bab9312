"""What goes in and out of a dialect, free of any web framework, and the one way to refuse."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import brief

if TYPE_CHECKING:
    from .service import Service

JSON = "application/json"


class Refusal(Exception):
    """Why a request gets no answer.

    Attributes:
        status: HTTP's.
        kind: One word for programs, `error_type`.
        message: Rule, value and remedy; nothing of this machine.
        retry_after: Seconds after which the same request may be answered.
    """

    def __init__(self, status: int, kind: str, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.retry_after = status, kind, message, retry_after

    def reply(self) -> Reply:
        """What the client is sent."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return Reply.of({"error": self.message, "error_type": self.kind}, status=self.status, headers=headers)


def invalid(message: str) -> Refusal:
    """The request is understood and wrong: 422."""
    return Refusal(422, "Validation", message)


def overloaded(message: str) -> Refusal:
    """There is no room at the moment: 429."""
    return Refusal(429, "Overloaded", message, retry_after=1)


def unhealthy(message: str, *, retry_after: int = 2) -> Refusal:
    """The server cannot answer at the moment: 503."""
    return Refusal(503, "Unhealthy", message, retry_after=retry_after)


@dataclass(frozen=True)
class Ask:
    """A request whose body is here.

    Attributes:
        body: All of it.
        headers: Names in lower case.
        query: Names and values of the address, in order.
        path: Parts of the address that stand for something.
        files: Of a form, the content of each file.
    """

    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Sequence[tuple[str, str]] = ()
    path: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[bytes] = ()

    @property
    def kind(self) -> str:
        """The body's media type, without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def values(self, name: str) -> list[str]:
        """All values of a name of the address."""
        return [value for key, value in self.query if key == name]

    def known(self, *names: str) -> None:
        """Refuse what nobody would heed.

        Raises:
            Refusal: The address has another name.
        """
        for name, _ in self.query:
            if name not in names:
                known = f"the names are {', '.join(names)}" if names else "there are none"
                raise invalid(f"Names in the address must be known: {known}; got {brief(name)}.")

    def number(self, name: str, default: int, *, most: int) -> int:
        """A whole number of the address, at least 1.

        Raises:
            Refusal: It is none.
        """
        text = (self.values(name) or [str(default)])[-1]
        if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most):
            raise invalid(f"{name} is a whole number from 1 to {most}; got {brief(text)}.")
        return int(text)


@dataclass(frozen=True)
class Reply:
    """An answer."""

    body: bytes
    kind: str = JSON
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, data: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
        """JSON."""
        return cls(json.dumps(data, separators=(",", ":")).encode(), status=status, headers=headers or {})


Handler = Callable[["Service", Ask], Awaitable[Reply]]


@dataclass(frozen=True)
class Route:
    """An address, and who answers there.

    Attributes:
        method: GET or POST.
        path: With `{name}` for the parts that stand for something.
        answer: Who answers; its docstring is the address's in the documentation.
        takes: Media types of the body and their JSON schemas.
        gives: Media type of the answer.
        query: Name and meaning of what the address may hold.
        documented: Whether /docs and the OpenAPI description have it.
    """

    method: str
    path: str
    answer: Handler
    takes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    gives: str = JSON
    query: Mapping[str, str] = field(default_factory=dict)
    documented: bool = True
