"""What stands before every address: names, the key, limits on reading and on answering, an end for who went away."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import Awaitable, Callable

from . import hosts
from .replies import Refusal, Reply, overloaded, unhealthy
from .service import Service
from .taking import Message, Taking

Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
log = logging.getLogger("hierax")
_LINGER_S = 1.0
ABORT = "hierax.abort"  # an extension of a connection's scope: a function that ends it at once
_HEALTH, _PAGE = "/v2/health/", "/page/"
_OPEN = ("/", "/docs", "/openapi.json")  # without a key: nothing of the model's or the store's is there


class Gate:
    """An ASGI application around another."""

    def __init__(self, app: Callable[..., Awaitable[None]], service: Service) -> None:
        self._app, self._service = app, service
        self._held = 0  # bytes of bodies

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no other protocol is spoken; the server closes the connection
        foreign = hosts.foreign(scope, self._service.settings)
        if foreign is None and scope["path"].startswith(_HEALTH):  # answered whatever else is under way
            await self._app(scope, receive, send)
            return
        start, taking, held = time.perf_counter(), Taking(send, self._service), _Held()
        self._service.active += 1
        try:
            if foreign is not None:
                raise foreign
            body = await self._admitted(scope, receive, held)
            await self._run(scope, body, receive, taking)
        except Refusal as refusal:
            self._service.metrics.rejected(refusal.kind)
            if not held.whole and refusal.status != 408:
                await _read_away(scope, receive, 4 * self._service.settings.limits.body_bytes)
            await send_reply(refusal.reply(), taking, close=refusal.status == 408)
        except asyncio.TimeoutError:
            taking.status = 499
            log.debug("a client did not take its answer")
            await _end(scope, receive)
        except _Gone:
            taking.status = 499
        finally:
            taking.done()
            self._service.active -= 1
            self._held -= held.bytes
            route = getattr(scope.get("route"), "path", "other")
            self._service.metrics.request(route, taking.status, time.perf_counter() - start)

    async def _admitted(self, scope: Message, receive: Receive, held: _Held) -> bytes:
        """The body of a request that may be answered.

        Raises:
            Refusal: It may not.
        """
        service, limits = self._service, self._service.settings.limits
        headers = {name.lower(): value for name, value in scope["headers"]}
        if service.closed:
            raise unhealthy("The server is stopping. Ask another, or try again later.")
        if service.active > limits.requests:
            raise overloaded(f"At most {limits.requests} requests are answered at a time. Try again in a moment.")
        if service.settings.key is not None and not _is_open(scope):
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), service.settings.key.encode()):
                raise Refusal(401, "Unauthorized", "A request must carry the key: Authorization: Bearer KEY.")
        if headers.get(b"content-encoding", b"identity").lower() not in (b"identity", b""):
            raise Refusal(415, "Validation", "A body must be sent as it is; this one has a Content-Encoding.")
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:19]) > limits.body_bytes:
            raise _too_large(limits.body_bytes)
        try:
            return await asyncio.wait_for(self._body(receive, held), limits.receive_s)
        except asyncio.TimeoutError as error:
            words = f"A request must arrive within {limits.receive_s:g} seconds; this one did not. Send it faster."
            raise Refusal(408, "Timeout", words) from error

    async def _body(self, receive: Receive, held: _Held) -> bytes:
        limits, parts = self._service.settings.limits, []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            part = message.get("body", b"")
            held.bytes += len(part)
            self._held += len(part)
            if held.bytes > limits.body_bytes:
                raise _too_large(limits.body_bytes)
            if self._held > limits.held_bytes:
                raise overloaded("Requests under way hold all the memory there is for them. Try again in a moment.")
            parts.append(part)
            if not message.get("more_body"):
                held.whole = True
                return b"".join(parts)

    async def _run(self, scope: Message, body: bytes, receive: Receive, send: Send) -> None:
        """Answer; give up when the client goes away, so that nobody works for nobody."""
        gone = asyncio.ensure_future(receive())
        left = [body]

        async def given() -> Message:
            if left:
                return {"type": "http.request", "body": left.pop(), "more_body": False}
            await asyncio.wait({gone})
            return {"type": "http.disconnect"}

        answer = asyncio.ensure_future(self._app(scope, given, send))
        try:
            await asyncio.wait({gone, answer}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                answer.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await answer
                raise _Gone
            answer.result()
        finally:
            gone.cancel()
            answer.cancel()


class _Gone(Exception):
    """The client went away."""


class _Held:
    """Bytes of one request's body, and whether that is all of it."""

    bytes = 0
    whole = False


def _is_open(scope: Message) -> bool:
    return scope["method"] in ("GET", "HEAD") and (scope["path"] in _OPEN or scope["path"].startswith(_PAGE))


def _too_large(most: int) -> Refusal:
    return Refusal(413, "TooLarge", f"A request may have at most {most:,} bytes. Send fewer or smaller images.")


async def _read_away(scope: Message, receive: Receive, most: int) -> None:
    """Read what is left of a refused body and drop it: a client that is still sending hears no answer otherwise."""
    if any(name.lower() == b"expect" for name, _ in scope["headers"]):
        return  # it waits to be asked for its body

    async def read() -> None:
        left, message = most, await receive()
        while message["type"] == "http.request" and message.get("more_body") and left > 0:
            left -= len(message.get("body", b""))
            message = await receive()

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(read(), _LINGER_S)


async def _end(scope: Message, receive: Receive) -> None:
    """End a connection with an answer that is not taken, where the server has a way to."""
    abort = (scope.get("extensions") or {}).get(ABORT)
    if abort is not None:
        abort()
        while (await receive())["type"] != "http.disconnect":
            pass


async def send_reply(reply: Reply, send: Send, *, close: bool = False) -> None:
    """Send an answer to whoever asked."""
    fields = {**reply.headers, "Content-Type": reply.kind, "Content-Length": str(len(reply.body))}
    if close:  # the rest of the request is not read
        fields["Connection"] = "close"
    headers = [(name.lower().encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
