"""The server that `hierax serve` runs: uvicorn, and an end in order.

The first SIGTERM or Ctrl-C: not ready at once; after `notice_s` no new work; what was accepted is answered, for at most
`drain_s`; then the process ends with 0, or with 1 where something was left. A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import signal
from collections.abc import Iterator
from typing import Any

from .. import console
from ..errors import HieraxError, InputError, MissingExtraError
from .app import create_app
from .hosts import bound_to
from .protocol import http_protocol
from .service import Service
from .settings import Settings

_TICK_S = 0.05
_LAST_WORDS_S = 0.5


def serve(settings: Settings, *, host: str = "127.0.0.1", port: int = 8000) -> bool:
    """Serve until asked to stop; says whether everything that was accepted was answered.

    Raises:
        HieraxError: The model cannot be loaded, or the address is taken.
        MissingExtraError: uvicorn is not installed.
    """
    if importlib.util.find_spec("uvicorn") is None:
        raise MissingExtraError("serve", "uvicorn")
    app = create_app(bound_to(settings, host))
    service: Service = app.state.service
    config = configured(app, host=host, port=port)
    server, ending = _server(config, service)
    with _bound(config) as sockets:
        shown = f"[{host}]" if ":" in host else host
        asyncio.run(_run(server, service, sockets, f"http://{shown}:{sockets[0].getsockname()[1]}"))
    if service.line.failure is not None:
        raise HieraxError(service.line.failure)
    return not ending.left


def configured(app: Any, *, host: str, port: int) -> Any:
    """Uvicorn's configuration of an application that `create_app` made."""
    import uvicorn

    limits = app.state.service.settings.limits
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=http_protocol(limits),
        ws="none",
        lifespan="on",
        log_config=None,  # its own would close every handler of this process, and some close what they write to
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
        backlog=limits.connections,
    )


class _Ending:
    """What becomes of a server that was asked to stop."""

    left = 0  # requests that were accepted and not answered


def _server(config: Any, service: Service) -> tuple[Any, _Ending]:
    import uvicorn

    ending = _Ending()

    class Server(uvicorn.Server):
        """uvicorn's, which heeds signals as this module says."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Heed signals for as long as the server runs."""
            loop = asyncio.get_running_loop()
            numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
            before = {number: signal.signal(number, lambda *_: stop()) for number in numbers}

            def stop() -> None:
                if service.draining:
                    service.line.kill()
                    os._exit(130)
                service.draining = True
                loop.call_soon_threadsafe(lambda: setattr(self, "_draining", loop.create_task(drain())))

            async def drain() -> None:
                console.say("stopping: not ready, what was accepted is answered; again to stop at once")
                await asyncio.sleep(service.settings.notice_s)
                service.closed = True
                await idle(service.settings.drain_s)
                ending.left = service.active
                if ending.left:  # what waits for the model is told so; who does not take an answer is cut off
                    await loop.run_in_executor(None, service.line.close)
                    await idle(_LAST_WORDS_S)
                    for connection in list(self.server_state.connections):
                        connection.transport.abort()
                self.should_exit = True

            async def idle(seconds: float) -> None:
                end = loop.time() + seconds
                while (service.active or service.line.pending) and loop.time() < end:
                    await asyncio.sleep(_TICK_S)

            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    return Server(config), ending


async def _run(server: Any, service: Service, sockets: list[Any], address: str) -> None:
    """Serve, say when it is ready, and stop where the model can never be loaded."""

    async def watch() -> None:
        told = False
        while not server.should_exit:
            if service.line.failure is not None:
                service.draining = service.closed = server.should_exit = True
            elif service.ready and not told:
                told = True
                console.say(f"{service.facts.card['name']} is served at {address}")
            await asyncio.sleep(_TICK_S)

    watcher = asyncio.ensure_future(watch())
    try:
        await server.serve(sockets=sockets)
    finally:
        watcher.cancel()


@contextlib.contextmanager
def _bound(config: Any) -> Iterator[list[Any]]:
    """The socket to listen at, before a model is loaded.

    Raises:
        InputError: The address is taken, or none of this machine.
    """
    import socket

    host, port = config.host, config.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(f"Cannot listen at {host}:{port}: {reason}. Choose another --host or --port.") from error
        yield [bound]
