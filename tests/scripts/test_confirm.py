"""The script that people with a network run: nothing stops it, nothing is done twice, its exit code is true."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hierax

SCRIPT = Path(__file__).parents[2] / "scripts" / "confirm_published.py"
SOURCE = str(Path(__file__).parents[2] / "src")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("confirm_published", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def catalogue(web, tmp_path):
    """Four small checkpoints of a server: a good one, one that is gone, one with other bytes, one that is a page."""
    good = hierax.load().save(tmp_path / "good.safetensors", format="timm").read_bytes()
    web.plain |= {"good.safetensors": good, "wrong.safetensors": good[:-1] + b"!", "page.safetensors": b"<html>"}
    lines = []
    for name in ("good", "gone", "wrong", "page"):
        digest = hashlib.sha256(good).hexdigest() if name in ("good", "wrong") else ""
        known = f'sha256 = "{digest}"\n' if digest else ""
        lines.append(
            f'[[model]]\nname = "{name}"\narchitecture = "hiera_nano_96"\ninput_size = [96, 96]\nnum_classes = 16\n'
            f'format = "timm"\nurl = "{web.url}/plain/{name}.safetensors"\nlicense = "apache-2.0"\n{known}'
        )
    path = tmp_path / "catalog.toml"
    path.write_text("\n".join(lines))
    return path


def run(catalogue: Path, *arguments: str) -> subprocess.CompletedProcess:
    folder = catalogue.parent
    unwanted = ("HF_HUB_OFFLINE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
    environment = {key: value for key, value in os.environ.items() if key not in unwanted}
    environment |= {"HIERAX_CATALOG": str(catalogue), "HF_HOME": str(folder / "cache"), "PYTHONPATH": SOURCE}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_one_failure_stops_nobody(catalogue, web):
    """The good one is confirmed among three bad ones, the table names each, and a second run asks for those alone."""
    names = ("gone", "wrong", "page", "good")
    first = run(catalogue, *names)
    assert first.returncode == 1, first.stderr
    rows = {line.split("`")[1]: line for line in first.stdout.splitlines() if line.startswith("| `")}
    assert list(rows) == list(names)
    assert "| confirmed |" in rows["good"]
    assert "as published" in rows["good"]
    assert "1,389,040" in rows["good"]
    for name in ("gone", "wrong", "page"):
        assert "| failed " in rows[name], rows[name]
    asked = web.count("GET", "good.safetensors")
    results = catalogue.with_name("confirmed.jsonl")
    with results.open("a") as file:
        file.write('{"name": "good", "resu')  # a kill in the middle of a line
    web.plain["gone.safetensors"] = web.plain["good.safetensors"]
    second = run(catalogue, "gone", "good")
    assert second.returncode == 0, second.stdout + second.stderr
    assert web.count("GET", "good.safetensors") == asked
    assert hashlib.sha256(web.plain["good.safetensors"]).hexdigest() + "  gone" in second.stdout
    assert [json.loads(line)["name"] for line in results.read_text().splitlines()[:4]] == list(names)


@pytest.mark.slow
def test_list_and_unknown(catalogue):
    """A pattern without a match is a usage error, not an empty success; --list reaches out to nobody."""
    listed = run(catalogue, "--list", "g*")
    assert (listed.returncode, listed.stdout.split()) == (0, ["good", "gone"])
    assert run(catalogue, "nonsense*").returncode == 2


def test_wanted(script):
    """All published checkpoints without the embedded one; an alias stands for its name."""
    every = script.wanted([])
    assert sorted(every) == sorted(set(hierax.list_models(pretrained=True)) - {"hiera_nano_96"})
    assert script.wanted(["hieradet_small_dino-v2-imagenet12k"]) == ["hieradet_d_small_dino-v2-imagenet12k"]
    assert set(script.GOLDEN) <= set(every)


def test_process_that_dies(script, monkeypatch):
    """A child that the system kills for its memory is a failed row."""
    monkeypatch.setattr(script, "__file__", "no such script")
    record = script.apart("good", "image")
    assert record["result"] == "failed"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hiera_tiny_224", "mae_hiera_tiny_224"])
def test_published_values__computed(script, name, tmp_path):
    """The comparisons run on networks of the right shape; random weights are far from the published values."""
    from PIL import Image

    from hierax.predictor import Predictor
    from hierax.weights.card import ModelCard, Weights

    model = hierax.create(name)
    folder = Predictor(model, Weights(card=ModelCard(config=model.config))).save(tmp_path / "x", format="transformers")
    image = Image.new("RGB", (640, 480), (90, 120, 30))
    for check in (script.autoencoder,) if name.startswith("mae") else (script.classifier, script.encoder):
        assert check(str(folder), image) > script.ATOL
