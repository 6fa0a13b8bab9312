"""One server for most tests: the application in a thread under uvicorn, its model in a process of its own."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import hierax
from hierax.serve import Settings, create_app
from hierax.serve.run import configured

from ..members import encoded, picture

PATIENCE_S = 120.0  # on a machine with other work
SOON_S = 15.0  # at once, on such a machine; less than anything waits by itself


def until(what: Callable[[], Any], seconds: float = PATIENCE_S) -> Any:
    """What a call gives, as soon as it gives anything; fails after a while."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.01)
    return found


@dataclass
class Served:
    """A server that runs."""

    url: str
    app: Any
    client: Any
    server: Any

    @property
    def service(self) -> Any:
        return self.app.state.service

    def post(self, path: str, content: Any = b"", kind: str = "image/png", **options: Any) -> Any:
        headers = {"Content-Type": kind, **options.pop("headers", {})}
        return self.client.post(path, content=content, headers=headers, **options)


@contextlib.contextmanager
def served(settings: Settings, *, wait: bool = True) -> Iterator[Served]:
    """A server of these settings."""
    httpx, uvicorn = pytest.importorskip("httpx"), pytest.importorskip("uvicorn")
    pytest.importorskip("fastapi")
    app = create_app(settings)
    server = uvicorn.Server(configured(app, host="127.0.0.1", port=0))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
            found = Served(url, app, client, server)
            if wait:
                until(lambda: found.service.ready)
            yield found
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def server() -> Iterator[Served]:
    """The small embedded model behind HTTP."""
    with served(Settings(batch_size=4)) as found:
        yield found


@pytest.fixture(scope="session")
def predictor() -> Any:
    """The same model here."""
    return hierax.load()


@pytest.fixture(scope="session")
def images() -> list[bytes]:
    """Three images of three sizes, as PNG."""
    return [encoded(picture(size, seed)) for seed, size in enumerate([(96, 96), (130, 70), (40, 200)])]
