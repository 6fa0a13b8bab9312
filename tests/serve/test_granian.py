"""The application under another server: it uses nothing of uvicorn's."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest

from hierax.errors import InputError
from hierax.serve import application

from ..members import plain_image
from ..ports import free_port
from .conftest import until

httpx = pytest.importorskip("httpx")
pytest.importorskip("granian")
pytest.importorskip("fastapi")


def test_settings_come_by_the_environment(monkeypatch):
    """A name that nobody knows would be a limit that nobody keeps."""
    monkeypatch.setenv("HIERAX_SERVE", '{"model": "hiera_nano_96", "limits": {"items": 3}}')
    monkeypatch.setenv("HIERAX_SERVE_KEY", "k")
    settings = application().state.service.settings
    assert (settings.model, settings.limits.items, settings.key) == ("hiera_nano_96", 3, "k")
    assert "'k'" not in repr(settings)
    for text in ('{"limits": {"item": 3}}', "[]", "{", '{"batch_size": 0}', '{"key": "\\n"}'):
        monkeypatch.setenv("HIERAX_SERVE", text)
        with pytest.raises(InputError):
            application()


@pytest.mark.nightly
def test_granian(predictor):
    """Settings come by the environment; SIGTERM ends it and the model's process."""
    port = free_port()
    settings = {"batch_size": 2, "key": "k", "limits": {"body_bytes": 50_000}}
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "granian",
            "--interface",
            "asgi",
            "--port",
            str(port),
            "--factory",
            "hierax.serve:application",
        ],
        env={**os.environ, "HIERAX_SERVE": json.dumps(settings)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": "Bearer k"}, timeout=60
        ) as client:

            def ready() -> bool:
                assert process.poll() is None
                try:
                    return client.get("/v2/health/ready").status_code == 200
                except httpx.TransportError:
                    return False

            until(ready)
            image = plain_image(size=(64, 64))
            said = client.post("/classify", content=image, headers={"Content-Type": "image/png"})
            assert said.status_code == 200
            large = client.post("/classify", content=b"x" * 50_001, headers={"Content-Type": "image/png"})
            assert large.status_code == 413
            assert client.get("/v2", headers={"Authorization": ""}).status_code == 401
            workers = _children(process.pid)
        process.terminate()
        process.wait(30)
        until(lambda: not any(os.path.exists(f"/proc/{each}") for each in workers), 30)
    finally:
        with contextlib.suppress(ProcessLookupError):  # its workers outlive one that is killed
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _children(parent: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True).stdout.split()
    return [int(each) for each in found] + [n for each in found for n in _children(int(each))]
