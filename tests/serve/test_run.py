"""`hierax serve` as a process: what it says, how it stops, and what it answers the shell."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from hierax.cli import main
from hierax.serve import Settings, create_app
from hierax.serve.run import configured

from ..members import plain_image
from .conftest import PATIENCE_S, SOON_S, until

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")


@dataclass
class Process:
    """The command, and what it said on stderr."""

    process: subprocess.Popen
    lines: list[str] = field(default_factory=list)

    @property
    def url(self) -> str | None:
        said = re.search(r"served at (http://\S+)", "".join(self.lines))
        return None if said is None else said[1]

    def worker(self) -> int:
        """The model's process: the only child."""
        found = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True).stdout
        return int(found)


@pytest.fixture
def command(request) -> Iterator[Process]:
    """The command, with the options that a test names."""
    process = subprocess.Popen(
        [sys.executable, "-m", "hierax", "serve", "--port", "0", *getattr(request, "param", [])],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    found = Process(process)
    threading.Thread(target=lambda: found.lines.extend(process.stderr), daemon=True).start()
    try:
        until(lambda: found.url or process.poll() is not None)
        assert found.url, found.lines
        yield found
    finally:
        process.kill()
        process.wait()


def test_stops_in_order(command):
    """Not ready, then no new work, then what was accepted is answered, then 0."""
    worker = command.worker()
    os.kill(worker, signal.SIGSTOP)
    said = []
    asked = threading.Thread(target=lambda: said.append(_classify(command.url)))
    asked.start()
    client = httpx.Client(base_url=command.url)
    until(lambda: "hierax_active_requests 2.0" in client.get("/metrics").text)  # that one, and this
    command.process.send_signal(signal.SIGTERM)
    until(lambda: client.get("/v2/health/ready").status_code == 503)
    until(lambda: _classify(command.url).status_code == 503)
    assert client.get("/v2/health/live").status_code == 200
    os.kill(worker, signal.SIGCONT)
    asked.join(PATIENCE_S)
    assert said[0].status_code == 200
    assert command.process.wait(PATIENCE_S) == 0
    assert not os.path.exists(f"/proc/{worker}")
    assert command.process.stdout.read() == ""


def test_second_signal__ends_at_once(command):
    worker = command.worker()
    os.kill(worker, signal.SIGSTOP)
    threading.Thread(target=lambda: _classify(command.url), daemon=True).start()
    until(lambda: "hierax_active_requests 2.0" in httpx.get(f"{command.url}/metrics").text)
    command.process.send_signal(signal.SIGINT)
    until(lambda: httpx.get(f"{command.url}/v2/health/ready").status_code == 503)
    command.process.send_signal(signal.SIGTERM)
    assert command.process.wait(SOON_S) == 130
    until(lambda: not os.path.exists(f"/proc/{worker}"))


@pytest.mark.parametrize("command", [["--drain", "0.3"]], indirect=True)
def test_what_is_left_at_the_end__is_told(command):
    """Cut off in the midst, a client would not know that it may ask again, and the log would be full of our own code."""
    os.kill(command.worker(), signal.SIGSTOP)
    said = []
    asked = threading.Thread(target=lambda: said.append(_classify(command.url)))
    asked.start()
    until(lambda: "hierax_active_requests 2.0" in httpx.get(f"{command.url}/metrics").text)
    command.process.send_signal(signal.SIGTERM)
    assert command.process.wait(PATIENCE_S) == 1
    asked.join(PATIENCE_S)
    assert (said[0].status_code, said[0].json()["error_type"]) == (503, "Unhealthy")
    assert "Traceback" not in "".join(command.lines)


def _classify(url):
    try:
        return httpx.post(f"{url}/classify", content=plain_image(), headers={"Content-Type": "image/png"}, timeout=600)
    except httpx.HTTPError as error:
        return httpx.Response(599, text=str(error))


def _taken() -> tuple[socket.socket, str]:
    found = socket.socket()
    found.bind(("127.0.0.1", 0))
    found.listen()
    return found, str(found.getsockname()[1])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "70000"], "0 to 65535"),
        (["--host", "203.0.113.7"], "Cannot listen"),
        (["--host", "no such host"], "Cannot listen"),
        (["--batch-size", "0"], "batch_size"),
        (["--max-bytes", "0"], "body_bytes"),
        (["--timeout", "nan"], "receive_s"),
        (["--replicas", "2"], "--ray"),
        (["--ray", "--port", "0"], "--port"),
        (["--ray", "--replicas", "0"], "--replicas"),
        (["--key-file", "/nowhere/key"], "--key-file"),
        (["--store", "/nowhere/store"], "store"),
        (["--input-size", "x"], "--input-size"),
    ],
)
def test_refused__before_a_model_is_loaded(arguments, words, capsys):
    assert main(["serve", *arguments]) == 1
    said = capsys.readouterr().err
    assert words in said
    assert "internal error" not in said


def test_windows__is_refused(monkeypatch, capsys):
    """A thread that dies there would leave a server that never gets ready."""
    monkeypatch.setattr("hierax.serve.app.sys", SimpleNamespace(platform="win32"))
    assert main(["serve", "--port", "0"]) == 1
    assert "needs Linux or macOS" in capsys.readouterr().err


def test_handlers_of_others__stay_open():
    """Configured as uvicorn does by itself, logging closes them all: one of absl's takes its stream along."""
    closed = []

    class Handler(logging.NullHandler):
        def close(self):
            closed.append(self)
            super().close()

    handler = Handler()
    configured(create_app(Settings()), host="127.0.0.1", port=0).load()
    assert not closed
    handler.close()


def test_port_in_use(capsys):
    taken, port = _taken()
    with taken:
        assert main(["serve", "--port", port]) == 1
    assert "Choose another --host or --port" in capsys.readouterr().err
