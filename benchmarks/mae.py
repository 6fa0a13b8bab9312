"""One training step of hiera_tiny_224: forward, backward, AdamW; ours, Meta's, transformers', with the same weights.

Both the masked autoencoder's step and a supervised one. Losses must agree before anything is timed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hierax

from . import measure, peers, report
from .cases import WrongAnswerError

TOLERANCE = 1e-4  # of the loss, relative
TINY = {"embed_dim": 96, "depths": [1, 2, 7, 2], "num_heads": [1, 2, 4, 8]}
DECODER = {"decoder_hidden_size": 512, "decoder_depth": 8, "decoder_num_heads": 16}


@dataclass(frozen=True)
class Trainee:
    """A network, the loss of a step, and the loss that must equal everybody's (same mask for all)."""

    module: nn.Module
    loss: Callable[[nn.Module], Tensor]
    same: Callable[[nn.Module], Tensor]


def mae_step(rounds: int, clock: str = "wall", batch: int = 8, mask_ratio: float = 0.6) -> dict:
    """Seconds a masked-autoencoder step of each, in turn; the steps timed draw their own masks.

    Raises:
        WrongAnswerError: The losses differ for the same mask.
    """
    x = pixels(batch)
    noise = torch.rand(batch, 49, generator=torch.Generator().manual_seed(2))  # (b, mask units of 32 pixels)
    visible = noise.argsort(1)[:, : int(49 * (1 - mask_ratio))].sort(1).values
    mask = torch.zeros(batch, 49, dtype=torch.bool).scatter(1, visible, True)  # Meta's polarity: True is kept
    peers.prepare()
    ours = peers.loud(hierax.create("mae_hiera_tiny_224", drop_path=0.0))
    meta = importlib.import_module("hiera").mae_hiera_tiny_224(pretrained=False)
    meta.load_state_dict(peers.written(ours, "meta"), strict=False)
    transformers = importlib.import_module("transformers")
    config = transformers.HieraConfig(**TINY, **DECODER, num_query_pool=2, mask_ratio=mask_ratio)
    theirs = transformers.HieraForPreTraining(config)
    theirs.load_state_dict(peers.written(ours, "transformers"), strict=False)
    return compare(
        {
            "hierax": Trainee(ours, lambda m: m(x, mask_ratio=mask_ratio).loss, lambda m: m(x, visible=visible).loss),
            "meta": Trainee(meta, lambda m: m(x, mask_ratio=mask_ratio)[0], lambda m: m(x, mask=mask)[0]),
            "transformers": Trainee(theirs, lambda m: m(x).loss, lambda m: m(x, noise=noise).loss),
        },
        rounds,
        clock,
    )


def supervised_step(rounds: int, clock: str = "wall", batch: int = 8) -> dict:
    """Seconds a supervised step of each (cross entropy over 1,000 classes), in turn.

    Raises:
        WrongAnswerError: The losses differ.
    """
    x, classes = pixels(batch), torch.arange(batch) * 100
    peers.prepare()
    ours = peers.loud(hierax.create("hiera_tiny_224", drop_path=0.0))
    meta = importlib.import_module("hiera").hiera_tiny_224(pretrained=False)
    meta.load_state_dict(peers.written(ours, "meta"))
    transformers = importlib.import_module("transformers")
    theirs = transformers.HieraForImageClassification(transformers.HieraConfig(**TINY, num_labels=1000))
    theirs.load_state_dict(peers.written(ours, "transformers"), strict=False)

    def entropy(module: nn.Module) -> Tensor:
        return F.cross_entropy(module(x), classes)

    def own(module: nn.Module) -> Tensor:
        return module(x, labels=classes).loss

    return compare(
        {
            "hierax": Trainee(ours, entropy, entropy),
            "meta": Trainee(meta, entropy, entropy),
            "transformers": Trainee(theirs, own, own),
        },
        rounds,
        clock,
    )


def compare(trainees: dict[str, Trainee], rounds: int, clock: str) -> dict:
    """Check the losses, time the steps, and give ratios to ours."""
    for one in trainees.values():
        one.module.train()
    with torch.no_grad():
        losses = {name: float(one.same(one.module)) for name, one in trainees.items()}
    apart = {name: abs(loss - losses["hierax"]) / abs(losses["hierax"]) for name, loss in losses.items()}
    if not all(value <= TOLERANCE for value in apart.values()):
        raise WrongAnswerError(f"refused to time a step whose losses differ: {losses}")
    seconds = measure.interleaved({name: step(one) for name, one in trainees.items()}, rounds, clock)
    rivals = [name for name in trainees if name != "hierax"]
    return {
        "best_peer": report.fastest(seconds, rivals),
        "clock": clock,
        "ratios": {name: measure.ratio(seconds[name], seconds["hierax"]) for name in rivals},
        "losses": losses,
        "seconds": seconds,
    }


def step(one: Trainee) -> Callable[[], Tensor]:
    """A whole optimizer step."""
    optimizer = torch.optim.AdamW(one.module.parameters(), lr=1e-5)

    def run() -> Tensor:
        loss = one.loss(one.module)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return run


def pixels(batch: int) -> Tensor:
    """Seeded N(0, 1) pixels."""
    return torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))
