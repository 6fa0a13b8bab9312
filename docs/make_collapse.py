"""Draws docs/pictures/dinov2-healthy.png and dinov2-collapsed.png: the curves of two short runs on rendered shapes.

Run `python docs/make_collapse.py`; it takes a minute on an idle core. The runs are alike but for centring.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path

import torch
from make_tutorials import keep

import hierax
from hierax.config import PreprocessSpec
from hierax.weights.card import ModelCard, Weights
from hierax.weights.network import from_module
from hierax.weights.write import write_weights

PICTURES = Path(__file__).with_name("pictures")
SMALL = {"embed_dim": 16, "depths": (1, 1, 2, 1), "global_blocks": (), "input_size": 64}
SETTINGS = {
    "method": "dinov2", "steps": 120, "batch_size": 16, "workers": 0, "device": "cpu", "checkpoint_every": 0,
    "local_crops": 2, "local_size": 32, "prototypes": 128, "head_dim": 64, "bottleneck": 32, "warm_start_heads": 0,
}  # fmt: skip
RUNS = {"healthy": {}, "collapsed": {"centring": "centre", "centre_momentum": 0.99999}}


def start(folder: Path) -> Path:
    """A small HieraDet with random weights."""
    torch.manual_seed(0)
    network = hierax.create("hieradet_d_small", **SMALL)
    config = dataclasses.replace(network.config, name="toy")
    weights = Weights(card=ModelCard(config=config, preprocess=PreprocessSpec(size=(64, 64))))
    return write_weights(from_module(network, weights), folder / "start", to="hierax")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        begun = start(Path(name))
        for kind, changes in RUNS.items():
            out = hierax.pretrain("shapes:512@3x64", Path(name, kind), model=begun, **SETTINGS, **changes).out
            keep(out / "curves.png", picture := PICTURES / f"dinov2-{kind}.png")
            sys.stderr.write(f"{picture}\n")
