"""A network of a few thousand parameters and data that it can learn in seconds."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from hierax.config import DecoderConfig, ModelConfig, PreprocessSpec
from hierax.model.init import build
from hierax.weights.card import ModelCard, Weights
from hierax.weights.network import from_module
from hierax.weights.write import write_weights

SIZE = 64
CONFIG = ModelConfig(
    name="custom", input_size=(SIZE, SIZE), num_classes=0, embed_dim=8, depths=(1, 1, 1, 1), drop_path=0.0
)
SETTINGS = {"workers": 0, "device": "cpu", "batch_size": 8, "lr": 1e-3, "checkpoint_every": 0, "warmup_epochs": 0.0}


def weights(*, decoder: bool = False, drop_path: float = 0.0, license: str | None = "cc-by-nc-4.0") -> Weights:
    """Random weights of the tiny network, always the same."""
    changes = {"drop_path": drop_path}
    if decoder:
        changes |= {"decoder": DecoderConfig(dim=16, depth=1, num_heads=2), "q_pool": 2, "head": "pool"}
    config = ModelConfig(**{**CONFIG.__dict__, **changes})
    torch.manual_seed(5)
    card = ModelCard(
        name="tiny",
        config=config,
        preprocess=PreprocessSpec(size=(SIZE, SIZE)),
        license=license,
        commercial=False,
        base_model="someone/tiny",
    )
    return from_module(build(config), Weights(card=card))


def classifier(labels: list[str]) -> Weights:
    """The tiny network with a head of random weights for these classes."""
    empty = weights()
    config = dataclasses.replace(empty.config, num_classes=len(labels))
    torch.manual_seed(6)
    module = build(config)
    torch.nn.init.normal_(module.head.projection.weight)
    torch.nn.init.normal_(module.head.projection.bias)
    return from_module(module, dataclasses.replace(empty, labels=labels).with_card(config=config))


def save(folder: Path, **options: object) -> Path:
    """The tiny network as a hierax folder."""
    return write_weights(weights(**options), folder, to="hierax")  # type: ignore[arg-type]


def images(folder: Path, *, per_class: int = 8, classes: int = 3, seed: int = 0) -> Path:
    """One folder a class; a class is a colour under noise."""
    rng = np.random.default_rng(seed)
    for label in range(classes):
        target = folder / f"class_{label}"
        target.mkdir(parents=True, exist_ok=True)
        for index in range(per_class):
            noise = rng.integers(0, 120, (72, 80, 3))
            noise[..., label % 3] += 120
            Image.fromarray(noise.astype(np.uint8)).save(target / f"{index:03}.png")
    return folder


def result(out: Path) -> dict[str, torch.Tensor]:
    """The tensors of a finished run."""
    return load_file(out / "model" / "model.safetensors")


def summary(out: Path) -> dict[str, Any]:
    """The summary that a finished run left."""
    return json.loads((out / "summary.json").read_text("utf-8"))


def identical(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def in_child(work: Callable[[], None], **environment: str) -> int:
    """Start work in a forked process; its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.environ.update(environment)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def finished(child: int) -> int:
    """Exit code of a child; negative is the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_processes(work: Callable[[], None], world: int) -> list[int]:
    """Run work in several processes that know of each other; their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world), "ACCELERATE_USE_CPU": "true"}
    children = [
        in_child(work, RANK=str(rank), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(world), **shared)
        for rank in range(world)
    ]
    return [finished(child) for child in children]


def die() -> None:
    """End this process as the kernel would."""
    os.kill(os.getpid(), signal.SIGKILL)
