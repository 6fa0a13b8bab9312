"""What a teacher's scores become before a student learns from them: targets that do not collapse.

Either Sinkhorn-Knopp balances the prototypes over the samples at hand, or the average score is subtracted.

Shapes: k prototypes.

Source: DINO arXiv:2104.14294; Sinkhorn-Knopp arXiv:2006.09882; DINOv2 arXiv:2304.07193.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from . import across


@torch.no_grad()
def sinkhorn(
    scores: Float[Tensor, "rows k"],
    temperature: float,
    *,
    iterations: int = 3,
    others: Float[Tensor, "more k"] | None = None,
) -> Float[Tensor, "rows k"]:
    """Targets in which every prototype gets about the same weight over the samples of all processes.

    exp(scores / T) is normalised by turns over the samples, for each prototype, and over the prototypes, for each
    sample; the latter comes last, so rows sum to 1 and prototypes are only approximately balanced. It is computed in
    logarithms of float32, so that no score is too large or too small for it.

    Args:
        scores: Of this process's samples.
        temperature: The teacher's.
        iterations: How often.
        others: Scores of earlier samples, which take part and get no targets.

    Source: arXiv:2006.09882; DINOv2's factors of 1 / k and 1 / rows cancel.
    """
    logs = (scores if others is None else torch.cat([scores, others.to(scores.dtype)])).float() / temperature
    for _ in range(iterations):
        logs = logs - _log_sum_over_samples(logs)
        logs = logs - logs.logsumexp(1, keepdim=True)
    return logs[: len(scores)].exp()


def _log_sum_over_samples(logs: Float[Tensor, "rows k"]) -> Float[Tensor, " k"]:
    """Logarithm of the sum of exponentials over the samples of all processes, for each prototype."""
    if across.world_size() == 1:
        return logs.logsumexp(0)
    peak = across.largest(logs.amax(0) if len(logs) else logs.new_full(logs.shape[1:], -torch.inf))
    return peak + across.summed((logs - peak).exp().sum(0)).log()


class Targets(nn.Module):
    """Turns a teacher's scores into targets, and remembers what that needs: a centre, or earlier scores.

    What is remembered changes only with `remember`, after a step that counted; it is the same on all processes.

    Attributes:
        centre: Average of the teacher's scores.
        queue: The newest scores of the teacher, of all processes; empty without a queue.
        seen: How many scores the queue was given.
    """

    def __init__(
        self, prototypes: int, *, centring: str = "sinkhorn", momentum: float = 0.9, queue: int = 0, iterations: int = 3
    ) -> None:
        super().__init__()
        self.centring, self.momentum, self.iterations = centring, momentum, iterations
        self.centre: Tensor
        self.queue: Tensor
        self.seen: Tensor
        self.register_buffer("centre", torch.zeros(prototypes))
        self.register_buffer("queue", torch.zeros(queue, prototypes))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self._new: list[tuple[Tensor, Tensor]] = []
        self._sum: Tensor | None = None
        self._count: Tensor | None = None

    @torch.no_grad()
    def forward(
        self,
        scores: Float[Tensor, "rows k"],
        temperature: float,
        *,
        order: Int[Tensor, " rows"] | None = None,
        queued: bool = True,
    ) -> Float[Tensor, "rows k"]:
        """Targets of the scores.

        Args:
            scores: Of this process's samples, or of some of them.
            temperature: The teacher's.
            order: A number of each row in the step, by which the queue takes rows, however they are shared out; None
                takes them as they come.
            queued: Whether the queue takes part.
        """
        scores = scores.float()
        if self.centring == "centre":
            rows = torch.tensor(float(len(scores)), device=scores.device)
            self._sum = scores.sum(0) if self._sum is None else self._sum + scores.sum(0)
            self._count = rows if self._count is None else self._count + rows
            return ((scores - self.centre) / temperature).softmax(-1)
        others = None
        if len(self.queue) and queued:
            order = torch.arange(len(scores), device=scores.device) if order is None else order
            self._new.append((across.all_rows(scores)[0], across.all_rows(order)[0]))
            if int(self.seen) >= len(self.queue):
                others = self.queue[across.rank() :: across.world_size()]  # each process sums a share of it
        return sinkhorn(scores, temperature, iterations=self.iterations, others=others)

    @torch.no_grad()
    def remember(self) -> None:
        """Move the centre, and put the scores of the step into the queue."""
        if self._sum is not None and self._count is not None:
            total, count = across.summed(self._sum), across.summed(self._count)
            mean = total / count.clamp(min=1)
            self.centre.lerp_(mean, (1 - self.momentum) * (count > 0))
        if self._new:
            rows, order = (torch.cat(column) for column in zip(*self._new, strict=True))
            new = rows[order.argsort(stable=True)][-len(self.queue) :]
            places = (int(self.seen) + torch.arange(len(new), device=new.device)) % len(self.queue)
            self.queue[places] = new
            self.seen += len(new)
        self.forget()

    def forget(self) -> None:
        """Drop what was not remembered: the scores of a step that was skipped."""
        self._new, self._sum, self._count = [], None, None


@torch.no_grad()
def collapse(targets: Float[Tensor, "rows k"], student: Float[Tensor, "rows k"]) -> dict[str, Tensor]:
    """What tells of collapse, over all processes.

    All is of the targets: before they are balanced, scores share one favourite on images that look alike, and learning
    goes on all the same.

    Returns:
        "target_information": How much of what would tell the crops apart is in their targets, 0..1: the entropy of the
            mean target without the mean entropy of the targets, over the logarithm of the crops, or of the prototypes
            where those are fewer. 0 says the same of every crop.
        "target_entropy": Mean entropy of the targets over that of even ones, 0..1.
        "prototype_share": Share of crops whose target is largest for the most frequent prototype.
        "agreement": Share of crops whose largest score of the student is that of the target.
    """
    count, most = targets.shape[-1], targets.argmax(-1)
    sums = [
        (-(targets * targets.clamp(min=1e-12).log()).sum()).reshape(1),
        (most == student.argmax(-1)).sum().float().reshape(1),
        torch.tensor([float(len(targets))], device=targets.device),
        targets.sum(0),
        torch.bincount(most, minlength=count).float(),
    ]
    entropy, same, rows, mean, chosen = across.summed(torch.cat(sums)).split([1, 1, 1, count, count])
    rows, mean = rows.clamp(min=1), mean / rows.clamp(min=1)
    entropy = entropy / rows
    marginal = -(mean * mean.clamp(min=1e-12).log()).sum()
    found = {
        "target_information": (marginal - entropy) / rows.clamp(min=2, max=max(count, 2)).log(),
        "target_entropy": entropy / math.log(max(count, 2)),
        "prototype_share": chosen.max() / rows,
        "agreement": same / rows,
    }
    return {name: value.squeeze() for name, value in found.items()}
