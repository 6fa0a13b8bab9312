"""A whole step of DINOv2, ours and birder's: HieraDet-S at 224 pixels, 8 small crops of 96, 8192 prototypes.

    OMP_NUM_THREADS=1 python -m benchmarks.dino [--rounds 3] [--batch 4]

Teacher, student, targets, losses, backward pass, clipping, AdamW and the teacher's average, with the same weights,
crops and hidden cells; the first losses must agree. Ours is a step of the training loop, from bytes on. birder's is the
body of its script's loop, in its words, from normalised crops on. Each runs in a process of its own; they take turns,
and each counts its own processor seconds, because the machine may be busy, and the most memory that it held.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import sys
import tempfile
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import measure, peers, report
from .cases import WrongAnswerError

SMALL, PROTOTYPES, TEMPERATURE = 8, 8192, 0.04
STEPS = 32  # at most
TOLERANCE = 1e-4  # of the first loss, relative
MODELS = {"d": "hieradet_d_small", "fixed windows": "hieradet_small"}
Step = Callable[[int], float]


def our_loop(model: str, batch: int, folder: Path) -> Any:
    """The training loop, ready for its first step."""
    from hierax.config import architecture
    from hierax.data.datasets.samples import TrainingData
    from hierax.train.batches import Views
    from hierax.train.devices import Devices
    from hierax.train.loop import Loop
    from hierax.train.methods.dinov2 import DINOv2
    from hierax.train.presets import PRESETS
    from hierax.train.reading import recipe_of
    from hierax.weights import catalog
    from hierax.weights.card import ModelCard, Weights

    class Noise(TrainingData):
        def name(self, index: int) -> str:
            return str(index)

        def read(self, index: int) -> np.ndarray:
            return np.random.default_rng(index).integers(0, 256, (256, 256, 3), dtype=np.uint8)

    keys = PRESETS["birder_dinov2"] | {
        "model": model, "batch_size": batch, "accumulate": 1, "drop_path": 0.0, "device": "cpu", "precision": "fp32",
        "workers": 0, "prototypes": PROTOTYPES, "augmentation": "none", "local_crops": SMALL, "steps": 1000,
        "teacher_temperature_start": TEMPERATURE, "freeze_steps": 0,
    }  # fmt: skip
    recipe = recipe_of({key: value for key, value in keys.items() if key != "epochs"})
    spec = catalog.resolve(model).preprocess
    torch.manual_seed(0)
    method = DINOv2(Weights(card=ModelCard(config=architecture(model), preprocess=spec)), recipe, [])
    data = Noise(np.full(64, -1), [])
    return Loop(
        method, Views(data, method.views(), method.weights.config, recipe), None, recipe, folder, Devices(recipe)
    )


def ours(model: str, batch: int, folder: Path) -> Step:
    """A step of our loop."""
    loop = our_loop(model, batch, folder)
    part = first_part(loop, batch)

    def step(number: int) -> float:
        loop._step(number, [part], 0.0, threading.Event())
        return loop.report.losses[-1]

    return step


def first_part(loop: Any, batch: int) -> Any:
    """What every step sees."""
    return loop.views.collate([loop.views[index, 0] for index in range(batch)])


def birders(model: str, batch: int, folder: Path) -> Step:
    """The body of the loop of birder's train_dino_v2.py, of what this run needs."""
    import importlib

    from hierax.train.methods.base import StepContext

    loop = our_loop(model, batch, folder)
    method, part = loop.method, first_part(loop, batch)
    peers.prepare()
    dino = importlib.import_module("birder.net.ssl.dino_v2")
    registry = importlib.import_module("birder.model_registry").registry
    importlib.import_module("birder.net.hieradet")
    shape = {"dino_out_dim": PROTOTYPES, "ibot_out_dim": PROTOTYPES, "use_bn": False, "num_layers": 3,
             "hidden_dim": 2048, "head_bottleneck_dim": 256, "ibot_separate_head": True}  # fmt: skip

    def network(kind: Any, module: Any) -> Any:
        backbone = registry.net_factory(model, 0, config={"drop_path_rate": 0.0}, size=(224, 224))
        backbone.load_state_dict(peers.written(module.encoder, "birder"), strict=False)
        made = kind(backbone, config=shape)
        for name in ("dino_head", "ibot_head"):
            state = getattr(module, name).state_dict()
            last = "last_layer.parametrizations.weight.original"
            renamed = {key.replace("last_layer.g", f"{last}0").replace("last_layer.v", f"{last}1"): value.clone()
                       for key, value in state.items()}  # fmt: skip
            getattr(made, name).load_state_dict(renamed)
        return made

    student, teacher = (network(kind, method.module) for kind in (dino.DINOv2Student, dino.DINOv2Teacher))
    teacher.eval().requires_grad_(False)
    dino_loss, koleo_loss = dino.DINOLoss(PROTOTYPES, 0.1, 0.9), dino.KoLeoLoss()
    ibot_loss = dino.iBOTPatchLoss(PROTOTYPES, 0.1, 0.9)
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-6, weight_decay=0.04)
    large, small = (method.input(part, name).transpose(0, 1).flatten(0, 1).contiguous() for name in ("large", "small"))
    temperature, pairs = torch.tensor(TEMPERATURE), 2 + 2 * SMALL
    drawn = [method.hidden(part, StepContext(number, 1000, 0, 1.0, batch, part.places)) for number in range(STEPS)]
    del loop, method  # birder's process must not hold our network

    def step(number: int) -> float:
        masks, indices, weights = drawn[number]
        masks = masks.flatten(1)
        with torch.no_grad():
            of_crops, of_cells = teacher(large, 2, len(indices) + 8, indices)
            targets = dino_loss.sinkhorn_knopp_teacher(of_crops, temperature).view(2, -1, PROTOTYPES)
            cells = ibot_loss.sinkhorn_knopp_teacher(of_cells, temperature)
        out = student(large, small, masks, len(indices) + 8, indices)
        loss = dino_loss(out["local_embedding_after_head"].chunk(SMALL), targets.unbind(0)) / pairs
        loss += dino_loss([out["global_embedding_after_head"]], [targets.flatten(0, 1)]) * 2 / pairs
        loss += 0.1 * sum(koleo_loss(crops) for crops in out["global_embedding"].chunk(2))
        masked = out["global_masked_patch_tokens_after_head"]
        loss += ibot_loss(masked, cells, student_masks_flat=masks, masks_weight=weights, n_masked_patches=len(indices))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 3.0)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), weight=0.008)
        return float(loss.detach())

    return step


def serve(make: Callable[..., Step], model: str, batch: int, pipe: Connection) -> None:
    """A process of its own: a step for every number that comes, answered by seconds, the loss and memory."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        step = make(model, batch, Path(folder))
        pipe.send(None)
        while (number := pipe.recv()) is not None:
            start = measure.CLOCKS["cpu"]()
            loss = step(number)
            took = measure.CLOCKS["cpu"]() - start
            pipe.send((took, loss, measure.peak_memory_mb()))


def compare(model: str, batch: int, rounds: int) -> dict[str, Any]:
    """Seconds a step of each, in turn, and the most memory that each held.

    Raises:
        WrongAnswerError: The first losses differ.
    """
    context = multiprocessing.get_context("spawn")
    pipes, seconds, memory, first = {}, {"hierax": [], "birder": []}, {}, {}
    for name, make in (("hierax", ours), ("birder", birders)):
        pipes[name], theirs = context.Pipe()
        context.Process(target=serve, args=(make, model, batch, theirs), daemon=True).start()
        pipes[name].recv()
    for number in range(rounds + 1):
        names = list(pipes) if number % 2 else list(reversed(pipes))
        for name in names:
            pipes[name].send(number)
            took, loss, memory[name] = pipes[name].recv()
            first.setdefault(name, loss)
            if number:
                seconds[name].append(took)
            print(f"{model} round {number} {name}: {took:.2f} s, loss {loss:.4f}, {memory[name]:.0f} MiB", flush=True)
        if abs(first["hierax"] - first["birder"]) > TOLERANCE * abs(first["birder"]):
            raise WrongAnswerError(f"refused to time steps whose losses differ: {first}")
    for pipe in pipes.values():
        pipe.send(None)
    return {
        "seconds": seconds, "ratio": measure.ratio(seconds["birder"], seconds["hierax"]), "clock": "cpu",
        "memory_mib": memory, "memory_ratio": memory["birder"] / memory["hierax"], "first_loss": first,
    }  # fmt: skip


def main() -> int:
    """Measure every model and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4)
    given = parser.parse_args()
    found = {label: compare(model, given.batch, given.rounds) for label, model in MODELS.items()}
    now = datetime.datetime.now(datetime.timezone.utc)
    result = {
        "what": "seconds of a whole step of DINOv2, one thread: HieraDet-S 224, 8 crops of 96, 8192 prototypes, fp32",
        "date": now.date().isoformat(),
        "batch": given.batch,
        "models": found,
        "environment": measure.environment(),
    }
    path = report.RESULTS / f"{now:%Y-%m-%d-%H%M%S}-dino.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for label, one in found.items():
        print(f"{label}: step {json.dumps(one['ratio'])}, memory {one['memory_ratio']:.2f}")
    print(path.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
