"""Settings for runs of seconds, runs in processes of their own, and what a run left behind."""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ..ports import free_port

SETTINGS = {"workers": 0, "device": "cpu", "batch_size": 8, "lr": 1e-3, "checkpoint_every": 0, "warmup_epochs": 0.0}


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
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(world),
        "ACCELERATE_USE_CPU": "true",
    }
    children = [
        in_child(work, RANK=str(rank), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(world), **shared)
        for rank in range(world)
    ]
    return [finished(child) for child in children]


def die() -> None:
    """End this process as the kernel would."""
    os.kill(os.getpid(), signal.SIGKILL)
