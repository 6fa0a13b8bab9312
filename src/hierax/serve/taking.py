"""An answer on its way out: in parts that wait for the client, with an end to waiting.

Given to the web server whole, an answer lies in its memory, uncounted, for as long as the client likes, and a server
that stops believes it sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from .service import Service

Message = MutableMapping[str, Any]
_PART = 1 << 17  # bytes that the web server is given at a time
_STRETCH = 8 << 20  # bytes of an answer for which a client has the time of one


class Taking:
    """The `send` of one request, for whoever answers it.

    Attributes:
        status: Of the answer, 500 until there is one.
    """

    def __init__(self, send: Callable[[Message], Awaitable[None]], service: Service) -> None:
        self._send, self._service = send, service
        self._held = self._sent = 0
        self._began = asyncio.get_running_loop().time()
        self.status = 500

    async def __call__(self, message: Message) -> None:
        """Send a message, a long body in parts.

        Raises:
            TimeoutError: The client did not take it in time.
        """
        if message["type"] == "http.response.start":
            self.status, self._began = message["status"], asyncio.get_running_loop().time()
            await self._taken(message)
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        self._held += len(body)
        self._service.leaving += len(body)
        for start in range(0, max(len(body), 1), _PART):
            part = body[start : start + _PART]
            await self._taken({**message, "body": part, "more_body": more or start + _PART < len(body)})
            self._sent += len(part)

    async def _taken(self, message: Message) -> None:
        end = self._began + self._service.settings.limits.send_s * (1 + self._sent // _STRETCH)
        await asyncio.wait_for(self._send(message), end - asyncio.get_running_loop().time())

    def done(self) -> None:
        """Forget the answer, whatever became of it."""
        self._service.leaving -= self._held
