"""The same application on Ray: what travels is plain data, and a replica that dies takes no request with it unsaid."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from hierax.serve import Settings

from ..members import plain_image
from ..ports import free_port
from .conftest import PATIENCE_S, until

ray = pytest.importorskip("ray")
httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")


def run(app, client) -> list:
    """What a client gets from an application that is started and ended as a replica does it."""

    async def main() -> list:
        inbox: asyncio.Queue = asyncio.Queue()
        outbox: asyncio.Queue = asyncio.Queue()
        life = asyncio.ensure_future(app({"type": "lifespan", "asgi": {"version": "3.0"}}, inbox.get, outbox.put))
        await inbox.put({"type": "lifespan.startup"})
        assert (await outbox.get())["type"] == "lifespan.startup.complete"
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a") as http:
            found = await client(http)
        await inbox.put({"type": "lifespan.shutdown"})
        await life
        return found

    return asyncio.run(main())


def test_application__travels_and_waits_for_its_model(predictor):
    """A replica that called itself up before its model is there would be sent requests that it refuses."""
    from hierax.serve.cluster import Application

    app = pickle.loads(pickle.dumps(Application(Settings(batch_size=2).to_dict())))
    assert app.well

    async def client(http) -> list:
        return [await http.get("/v2/health/ready"), await http.post("/classify", content=plain_image())]

    ready, said = run(app, client)
    assert ready.status_code == 200
    assert said.json()[0]["label"]
    assert app.well


def test_lost_replica__is_told_as_503():
    """Ray's proxy raises, or says nothing, where a replica died; its web server makes a bare 500 of both."""
    from hierax.serve.cluster import Retryable

    async def raises(scope, receive, send):
        raise RuntimeError("the actor died")

    async def silent(scope, receive, send):
        return

    for app in (raises, silent):
        with httpx.Client(transport=_Sync(Retryable(app)), base_url="http://a") as http:
            said = http.get("/classify")
        assert (said.status_code, said.json()["error_type"]) == (503, "Unhealthy")
        assert said.headers["retry-after"]


class _Sync(httpx.BaseTransport):
    def __init__(self, app) -> None:
        self._app = app

    def handle_request(self, request):
        async def ask():
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self._app)) as http:
                return await http.get(request.url)

        found = asyncio.run(ask())
        return httpx.Response(found.status_code, headers=found.headers, content=found.content)


def replicas() -> list[int]:
    """Processes of this machine that are replicas; Ray writes their kind where their command was."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and (folder / "cmdline").read_bytes().startswith(b"ray::ServeReplica:hierax"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_killed_replica__loses_nothing_unsaid():
    """`hierax serve --ray` with two replicas, one killed under load: every request is answered or may be asked again."""
    port = free_port()
    command = [sys.executable, "-m", "hierax", "serve", "--ray", "--replicas", "2", "--port", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    lines: list[str] = []
    threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True).start()
    url, said, stop = f"http://127.0.0.1:{port}", Counter(), threading.Event()

    def load() -> None:
        with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
            while not stop.is_set():
                answer = client.post("/classify", content=plain_image(), headers={"Content-Type": "image/png"})
                said[answer.status_code] += 1
                if answer.status_code != 200:
                    assert answer.json()["error_type"] in ("Unhealthy", "Overloaded")

    try:
        until(lambda: any("served at" in line for line in lines) or process.poll() is not None, 180)
        assert process.poll() is None, lines
        before = replicas()
        assert len(before) == 2
        threads = [threading.Thread(target=load) for _ in range(8)]
        for each in threads:
            each.start()
        until(lambda: said[200] > 50)
        os.kill(before[0], signal.SIGKILL)
        until(lambda: len(replicas()) == 2 and before[0] not in replicas(), 120)
        done = said[200]
        until(lambda: said[200] > done + 50)
        stop.set()
        for each in threads:
            each.join()
        assert set(said) <= {200, 429, 503}, said
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0, lines
        assert replicas() == []
    finally:
        stop.set()
        process.kill()
        process.wait()
