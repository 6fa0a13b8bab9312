"""One training step of hiera_tiny_224's masked autoencoder: forward, backward, AdamW; ours, Meta's, transformers'."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

import hierax

from . import measure, peers


def mae_step(rounds: int, clock: str = "wall", batch: int = 8, mask_ratio: float = 0.6) -> dict:
    """Seconds a step of each, in turn; losses are first checked to be finite (masks are each package's own draw)."""
    x = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    steps = {name: step(*build(mask_ratio), x) for name, build in BUILD.items()}
    losses = {name: float(run()) for name, run in steps.items()}
    seconds = measure.interleaved(steps, rounds, clock)
    rivals = [name for name in steps if name != "hierax"]
    best = min(rivals, key=lambda name: measure.summary(seconds[name])["median_s"])
    return {
        "best_peer": best,
        "clock": clock,
        "ratios": {name: measure.ratio(seconds[name], seconds["hierax"]) for name in rivals},
        "first_loss": losses,
        "seconds": seconds,
    }


def step(module: nn.Module, loss_of: Callable[[nn.Module, Tensor], Tensor], x: Tensor) -> Callable[[], Tensor]:
    """A whole optimizer step."""
    optimizer = torch.optim.AdamW(module.train().parameters(), lr=1e-5)

    def run() -> Tensor:
        loss = loss_of(module, x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return run


def _ours(mask_ratio: float) -> tuple[nn.Module, Callable]:
    return hierax.create("mae_hiera_tiny_224"), lambda m, x: m(x, mask_ratio=mask_ratio).loss


def _meta(mask_ratio: float) -> tuple[nn.Module, Callable]:
    peers.prepare()
    module = importlib.import_module("hiera").mae_hiera_tiny_224(pretrained=False)
    return module, lambda m, x: m(x, mask_ratio=mask_ratio)[0]


def _transformers(mask_ratio: float) -> tuple[nn.Module, Callable]:
    peers.prepare()
    transformers = importlib.import_module("transformers")
    config = transformers.HieraConfig(
        embed_dim=96,
        depths=[1, 2, 7, 2],
        num_heads=[1, 2, 4, 8],
        num_query_pool=2,
        mask_ratio=mask_ratio,
        decoder_hidden_size=512,
        decoder_depth=8,
        decoder_num_heads=16,
    )
    return transformers.HieraForPreTraining(config), lambda m, x: m(x).loss


BUILD = {"hierax": _ours, "meta": _meta, "transformers": _transformers}
