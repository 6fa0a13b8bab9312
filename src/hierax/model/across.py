"""Sums, maxima and rows over all processes of a run; of one process they are its own.

Every process must call these in the same order, also one that has nothing to give.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is."""
    return dist.get_rank() if world_size() > 1 else 0


def summed(value: Tensor) -> Tensor:
    """Sum over the processes; without gradient."""
    if world_size() == 1:
        return value
    value = value.detach().clone()
    dist.all_reduce(value)
    return value


def largest(value: Tensor) -> Tensor:
    """Maximum over the processes; without gradient."""
    if world_size() == 1:
        return value
    value = value.detach().clone()
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return value


def all_rows(rows: Tensor) -> tuple[Tensor, int]:
    """Rows of all processes in order of rank, and where this one's begin; gradients go back to where rows came from.

    The first axis counts rows; processes may have different numbers of them, or none.
    """
    if world_size() == 1:
        return rows, 0
    counts = torch.zeros(world_size(), dtype=torch.int64, device=rows.device)
    counts[rank()] = len(rows)
    held = summed(counts).tolist()
    return _Gather.apply(rows, held), sum(held[: rank()])


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be spread over processes, in one piece."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[operator]


class _Gather(torch.autograd.Function):
    """Rows of all processes; the gradient of a row is the sum of what every process found."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, held: list[int]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.begin, ctx.count = sum(held[: rank()]), len(rows)
        padded = rows.new_zeros(max(held), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in held]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, held, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return summed(grad)[ctx.begin : ctx.begin + ctx.count], None
