"""HTTP as uvicorn speaks it, with an end to waiting: by itself it gives a client for ever to send a head."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from .gate import ABORT
from .replies import unhealthy
from .settings import Limits


def http_protocol(limits: Limits) -> type[asyncio.Protocol]:
    """Uvicorn's protocol, whichever it has, for connections that are few and do not dawdle."""
    from uvicorn.protocols.http import auto

    base: Any = auto.AutoHTTPProtocol

    class Hurried(base):
        """A connection that is closed when no head of a request arrives in time, or an answer is not taken in time."""

        def connection_made(self, transport: Any) -> None:
            """Start the clock; refuse one connection too many."""
            super().connection_made(transport)
            self.app = _with_abort(self.app, transport)
            self._head = _Clock(self.loop, limits.headers_s, self._late)
            self._full = _Clock(self.loop, limits.send_s, transport.abort)
            self._until = 0.0  # when the last answer must be taken
            if len(self.connections) > limits.connections:
                transport.write(_refusal())
                transport.close()
                return
            self._head.start()

        def data_received(self, data: bytes) -> None:
            """Stop the clock while a request is being answered."""
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._head.stop()
            else:
                self._head.start()

        def on_response_complete(self) -> None:
            """Start the clock again: for the next head, and for an answer to be taken."""
            super().on_response_complete()
            self._until = self.loop.time() + limits.send_s
            self._head.start()

        def pause_writing(self) -> None:
            """Start the clock of what is to be sent: whoever sends more waits, and may have none of its own."""
            super().pause_writing()
            self._full.start()

        def resume_writing(self) -> None:
            """Stop that clock, unless the connection is only kept for the rest to be taken."""
            super().resume_writing()
            if not self.transport.is_closing():
                self._full.stop()

        def connection_lost(self, exc: Exception | None) -> None:
            """Stop the clocks."""
            self._head.stop()
            self._full.stop()
            super().connection_lost(exc)

        def _late(self) -> None:
            if self.cycle is not None and not self.cycle.response_complete:
                return
            if self.transport.get_write_buffer_size() and self.loop.time() < self._until:
                self._head.start()
            else:
                self.transport.abort()

    return Hurried


class _Clock:
    """What happens after some seconds, unless it is stopped before."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, then: Callable[[], None]) -> None:
        self._loop, self._seconds, self._then = loop, seconds, then
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start it, if it does not run."""
        if self._handle is None:
            self._handle = self._loop.call_later(self._seconds, self._rings)

    def stop(self) -> None:
        """Stop it, if it runs."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _rings(self) -> None:
        self._handle = None
        self._then()


def _with_abort(application: Any, transport: Any) -> Any:
    """An application whose requests say how to end their connection."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope.setdefault("extensions", {})[ABORT] = transport.abort
        await application(scope, receive, send)

    return app


def _refusal() -> bytes:
    reply = unhealthy("Too many connections are open. Close some, or try again in a moment.").reply()
    head = f"HTTP/1.1 503 Service Unavailable\r\ncontent-type: {reply.kind}\r\ncontent-length: {len(reply.body)}\r\n"
    return f"{head}retry-after: {reply.headers['Retry-After']}\r\nconnection: close\r\n\r\n".encode() + reply.body
