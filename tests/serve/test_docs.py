"""The client lines of docs/tasks/serve.md, run against a server; the container files agree with the command."""

from __future__ import annotations

import re
import shlex
import subprocess

import numpy as np
import pytest

from ..blocks import ROOT, blocks, installed
from .conftest import Served

PAGE = ROOT / "docs" / "tasks" / "serve.md"


def test_python_lines(server: Served, monkeypatch):
    """A line that a reader copies and that does not run is worse than none."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    namespace: dict = {}
    for block in blocks(PAGE):
        if block.language == "python" and installed(block):
            code = block.code.replace("127.0.0.1:8000", server.url.removeprefix("http://"))
            exec(compile(code, str(PAGE), "exec"), namespace)
    assert namespace["stage3"].shape == (128, 6, 6)
    assert namespace["classes"][0].label
    if "logits" in namespace:
        best = np.argmax(namespace["logits"][0])
        assert server.service.facts.labels[best] == namespace["classes"][0].label


def test_curl_lines(server: Served):
    lines = [line for block in blocks(PAGE) for line in block.code.splitlines() if line.startswith("curl ")]
    assert lines
    for line in lines:
        words = shlex.split(line.replace("http://127.0.0.1:8000", server.url))
        try:
            said = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        except FileNotFoundError:
            pytest.skip("needs curl")
        assert said.startswith('[{"label":')


def test_table_of_limits(server: Served):
    """The page states the defaults."""
    limits, text = server.service.settings.limits, PAGE.read_text("utf-8")
    for value in (limits.body_bytes, limits.pixels, limits.items, limits.requests, limits.queue):
        assert f"| {value:,} |" in text
    assert f"| {limits.receive_s:g}; {limits.headers_s:g} for its head |" in text


def test_container_files():
    """Docker cannot run here; what can be read off the files is: addresses, the command, and the time to stop."""
    from hierax.serve import Settings

    docker, compose = (ROOT / "Dockerfile").read_text(), (ROOT / "compose.yaml").read_text()
    for text in (docker, compose):
        assert "Untested" in text
        assert "/v2/health/ready" in text
    grace = re.search(r"stop_grace_period: (\d+)s", compose)
    assert grace is not None
    assert int(grace[1]) > Settings().drain_s
    for path in re.findall(r"^COPY (.+) \S+$", docker, re.M):
        assert all((ROOT / each).exists() for each in path.split())
