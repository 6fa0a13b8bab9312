"""HTTP as uvicorn speaks it, with an end to waiting: by itself it gives a client for ever to send a head."""

from __future__ import annotations

import asyncio
from typing import Any

from .replies import unhealthy
from .settings import Limits


def http_protocol(limits: Limits) -> type[asyncio.Protocol]:
    """Uvicorn's protocol, whichever it has, for connections that are few and do not dawdle."""
    from uvicorn.protocols.http import auto

    base: Any = auto.AutoHTTPProtocol

    class Hurried(base):
        """A connection that is closed when no head of a request arrives in time, or nothing of an answer is taken."""

        _clock: asyncio.TimerHandle | None = None
        _left = 0  # bytes of an answer that the client had not taken at the last look

        def connection_made(self, transport: Any) -> None:
            """Start the clock; refuse one connection too many."""
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.write(_refusal())
                transport.close()
                return
            self._wait()

        def data_received(self, data: bytes) -> None:
            """Stop the clock while a request is being answered."""
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop()
            else:
                self._wait()

        def on_response_complete(self) -> None:
            """Start the clock again: for the next head, and for an answer to be taken."""
            super().on_response_complete()
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            """Stop the clock."""
            self._stop()
            super().connection_lost(exc)

        def _wait(self) -> None:
            if self._clock is None:
                self._clock = self.loop.call_later(limits.headers_s, self._late)

        def _stop(self) -> None:
            if self._clock is not None:
                self._clock.cancel()
                self._clock = None

        def _late(self) -> None:
            self._clock = None
            if self.cycle is not None and not self.cycle.response_complete:
                return
            left = self.transport.get_write_buffer_size()
            if left and left != self._left:  # the client is slow, and takes some
                self._left = left
                self._wait()
                return
            self.transport.abort()

    return Hurried


def _refusal() -> bytes:
    reply = unhealthy("Too many connections are open. Close some, or try again in a moment.").reply()
    head = f"HTTP/1.1 503 Service Unavailable\r\ncontent-type: {reply.kind}\r\ncontent-length: {len(reply.body)}\r\n"
    return f"{head}retry-after: {reply.headers['Retry-After']}\r\nconnection: close\r\n\r\n".encode() + reply.body
