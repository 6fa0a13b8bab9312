"""What a server is told: the model, and the limits that are on unless somebody says otherwise."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from typing import Annotated, Any

from ..errors import InputError, brief
from ..schema import Between, NonNegative, Positive, conform, parse_json, plain, read

VARIABLE = "HIERAX_SERVE"  # settings as JSON, for servers that take an application by name
KEY_VARIABLE = "HIERAX_SERVE_KEY"
ANY_HOST = "*"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}\Z")
Seconds = Annotated[float, Between(above=0, most=86_400)]
Count = Annotated[int, Between(least=1, most=1 << 20)]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one client may cost the others.

    Attributes:
        body_bytes: Of one request.
        held_bytes: Of all requests that are being read or answered; as much again of their answers.
        answer_bytes: Of what the model gives for one request.
        pixels: Of one image, as it declares them.
        items: Images in one request.
        requests: Under way at a time.
        connections: Open at a time, idle ones too.
        queue: Images that wait for the model.
        queue_bytes: Of their inputs.
        headers_s: Seconds for a client to send the head of a request.
        receive_s: Seconds for a client to send the rest.
        send_s: Seconds for a client to take an answer, and again as many for each 8 MiB of it.
        answer_s: Seconds for an image to wait and be answered.
        batch_s: Seconds for the model to answer one batch, after which it is started again.
    """

    body_bytes: Positive = 20_000_000
    held_bytes: Positive = 1 << 29
    answer_bytes: Positive = 1 << 28
    pixels: Positive = 50_000_000
    items: Count = 32
    requests: Count = 128
    connections: Count = 512
    queue: Count = 256
    queue_bytes: Positive = 1 << 30
    headers_s: Seconds = 10.0
    receive_s: Seconds = 30.0
    send_s: Seconds = 30.0
    answer_s: Seconds = 120.0
    batch_s: Seconds = 120.0

    def __post_init__(self) -> None:
        conform(self)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A server.

    Attributes:
        model: What `hierax.load` takes; None is the model that made the store, or the small embedded one.
        device: Where it runs.
        dtype: Parameter type.
        engine: A fast engine, or "none".
        input_size: Pixels, one side or (height, width); None is the model's own.
        store: A store of embeddings to search.
        key: What a client must send as `Authorization: Bearer KEY`; None asks for none.
        hosts: Names under which it is asked for, beside those of this machine; "*" is any. None is any as well, but for
            a server without a key that is reached on a loopback address: under names of this machine alone.
        batch_size: Most images that the model is given at a time.
        decoders: Threads that decode; None is one for each processor, up to 4.
        notice_s: Seconds from "not ready" to refusing new work, for a balancer to take notice.
        drain_s: Seconds for what was accepted to be answered, once the server was asked to stop.
        limits: What one client may cost the others.
    """

    model: str | None = None
    device: str = "cpu"
    dtype: str | None = None
    engine: str = "none"
    input_size: int | tuple[int, int] | None = None
    store: str | None = None
    key: str | None = field(default=None, repr=False)
    hosts: tuple[str, ...] | None = None
    batch_size: Count = 8
    decoders: Count | None = None
    notice_s: NonNegative = 0.0
    drain_s: Seconds = 30.0
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        conform(self)
        if self.key is not None and not (self.key.isascii() and self.key.isprintable() and self.key.strip()):
            raise InputError("A key is printable ASCII, as it travels in a header; got another. Choose another key.")
        for host in self.hosts or ():
            if host != ANY_HOST and not _NAME.match(host) and not _is_address(host):
                raise InputError(f"A host is a name or an address, without port or scheme, or *; got {brief(host)}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data; `from_dict` inverts it."""
        return plain(self)

    @classmethod
    def from_dict(cls, data: Any) -> Settings:
        """Read what `to_dict` wrote.

        Raises:
            InputError: An unknown key, or a value of another type or out of its bounds.
        """
        return read(cls, data, where="A server's settings")

    @classmethod
    def of_environment(cls) -> Settings:
        """What `HIERAX_SERVE` says, JSON such as {"model": "hiera_tiny_224"}, with the key of `HIERAX_SERVE_KEY`.

        Raises:
            InputError: It is no JSON of settings.
        """
        data = parse_json(os.environ.get(VARIABLE) or "{}", where=VARIABLE)
        if isinstance(data, dict) and os.environ.get(KEY_VARIABLE):
            data = {"key": os.environ[KEY_VARIABLE], **data}
        return cls.from_dict(data)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
