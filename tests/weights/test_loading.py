"""The lines that `hierax convert` prints are run as they stand, by a Python that has nothing but the original package."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import hierax
from hierax.cli import main
from hierax.config import ARCHITECTURES
from hierax.weights.formats import by_name
from hierax.weights.network import to_module
from hierax.weights.write import write_weights

from ..members import MEMBERS, tiny_sam2, weights_of
from ..tolerance import FP32

__all__ = ["tiny_sam2"]
ROOT = Path(__file__).parents[2]
PACKAGES = {"hierax": "hierax", "meta": "hiera", "transformers": "transformers", "timm": "timm", "birder": "birder", "sam2": "sam2"}  # fmt: skip
# Executes what was printed, nothing else; then asks the network, as tests of parity do.
CHILD = """
import json, sys, torch
from tests.peers import ask_birder, ask_hf, ask_hf_sam2, ask_meta, ask_timm, named_stages, prepare

prepare()
for case in json.load(open("cases.json")):
    names = {}
    exec(case["lines"], names)
    model = names["model"] if "model" in names else names["predictor"].model
    assert not model.training, case["member"]
    kept = torch.load(case["kept"], weights_only=True)
    if case["masked"]:
        found = dict(model.named_parameters())
        assert any(value.shape == kept["token"].shape and torch.equal(value, kept["token"]) for value in found.values())
        continue
    ask = {"meta": ask_meta, "timm": ask_timm, "birder": ask_birder}.get(sys.argv[1])
    if sys.argv[1] == "sam2":
        ask = lambda m, x: named_stages(m(x))
    elif sys.argv[1] == "hierax":
        ask = lambda m, x: m.detection_features(x)
    elif ask is None:
        ask = ask_hf_sam2 if "HieraDet" in type(model).__name__ else (lambda m, x: {"logits": m(x).logits})
        if type(model).__name__ == "HieraModel":
            ask = lambda m, x: {"embedding": m(x).pooler_output}
    with torch.no_grad():
        said = ask(model, kept["x"])
    compared = [key for key in said if key in kept and key not in case["skip"]]
    assert compared, said.keys()
    for key in compared:
        difference = (said[key] - kept[key]).abs().max() / kept[key].abs().max().clamp(min=1)
        assert difference <= case["tolerance"], (case["member"], key, difference)
print("ran", sys.argv[1])
"""


def converted(folder: Path, member: str, config, to: str, suffix: str, capsys) -> dict:
    """One member by the command line: the lines that were printed, and what the network must answer."""
    weights = weights_of(config)
    start = write_weights(weights, folder / f"{member} start", to="hierax")
    target = folder / f"{member} it's {to} {suffix[1:]}{suffix}"
    assert main(["convert", str(start), str(target), "--to", to]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(str(target))
    assert len(captured.out.splitlines()) == 1
    said = captured.err.partition("loads it by these lines:\n")[2]
    assert said, captured.err
    module = to_module(weights).eval()
    kept = folder / f"{member} {to}{suffix}.kept"
    masked = config.decoder is not None
    x = torch.randn(1, 3, *config.input_size, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        answers = {"token": weights.tensors["mask_token"]} if masked else {
            **module.detection_features(x), "embedding": module.embedding(x), "logits": module(x), "x": x,
        }  # fmt: skip
    torch.save(answers, kept)
    skip = ["embedding", "logits"] if member == "SAM 2 trunk" else [] if config.num_classes else ["logits"]
    lines = textwrap.dedent(said)
    assert len(lines.splitlines()) <= 7
    return {"member": member, "lines": lines, "kept": str(kept), "masked": masked, "skip": skip, "tolerance": FP32}


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.usefixtures("tiny_sam2")
@pytest.mark.parametrize("to", sorted(PACKAGES))
def test_printed_lines_run(to, tmp_path, capsys):
    """A line that names another class, argument or path sends people to a search engine right after a success."""
    if importlib.util.find_spec(PACKAGES[to]) is None:
        pytest.skip(f"{PACKAGES[to]} is not installed; it comes with the parity group")
    known = dataclasses.replace(ARCHITECTURES["hieradet_d_small"], num_classes=5, input_size=(64, 64))
    members = {**MEMBERS, "registered": known} if to != "hierax" else {"Hiera": MEMBERS["Hiera"]}
    suffixes = {"meta": [".pth", ".safetensors"], "timm": ["", ".pth", ".safetensors"], "birder": [".pt", ".safetensors"],
                "sam2": [".pt"]}.get(to, [""])  # fmt: skip
    cases = []
    for member, config in members.items():
        if by_name(to).obstacle(config, weights_of(config).tensors):
            continue
        many = suffixes if member in ("Hiera", "SAM 2 trunk") else suffixes[:1]
        cases += [converted(tmp_path, member, config, to, suffix, capsys) for suffix in many]
    assert cases
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, to], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{Path(hierax.__file__).parents[1]}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == f"ran {to}"


def test_quiet__and_the_path_alone(tmp_path, capsys):
    """`MODEL=$(hierax convert ...)` must stay a path."""
    assert main(["-q", "convert", "hiera_nano_96", str(tmp_path / "a"), "--to", "timm"]) == 0
    assert capsys.readouterr() == (f"{tmp_path / 'a'}\n", "")
    assert main(["convert", "hiera_nano_96", str(tmp_path / "b"), "--to", "hierax"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'b'}\n"
    names: dict = {}
    exec(textwrap.dedent(captured.err.partition("lines:\n")[2]), names)
    assert names["predictor"].card.architecture == "hiera_nano_96"
