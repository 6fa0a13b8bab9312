"""What values of a run must not lie beyond, and the bounds within which self-distillation has not collapsed.

Collapse is one answer for every crop, or none; `model.targets` has what is measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..schema import Positive, Share

_FEW = 4  # rows among which as many have the same answer by accident as in a collapse
# Values that a person is shown, by name: a level to hold them against, if there is one, and what it is.
Levels = dict[str, tuple[float | None, str]]


@dataclass(frozen=True)
class Bound:
    """What the mean of a value that `Method.loss` shows must not lie beyond.

    Attributes:
        value: Its name.
        least: The smallest healthy value.
        most: The largest one.
        steps: Steps that the mean is of.
        means: What has happened then, for a person.
        remedy: What to change.
    """

    value: str
    means: str
    remedy: str
    steps: int
    least: float = -math.inf
    most: float = math.inf

    def exceeded(self, value: float) -> bool:
        """Whether a value lies beyond."""
        return not self.least <= value <= self.most

    def told(self, value: float) -> str:
        """The finding, with its numbers."""
        over = value > self.most
        limit = f"{'above' if over else 'below'} {self.most if over else self.least:.4g}"
        return f"{self.value}, on average over {self.steps} steps, is {value:.4g}, {limit}: {self.means}. {self.remedy}"


@dataclass(frozen=True, kw_only=True)
class CollapseSettings:
    """Bounds of what a healthy run shows.

    Measured on six kinds of images: docs/decisions/0018-collapse-bounds.md.

    Attributes:
        collapse_information: Smallest mean share of what would tell crops apart that their targets hold; more where
            the teacher's temperature is above the student's. 0 asks for no warning.
        collapse_share: Largest mean share of crops whose targets are largest for the same prototype; 1 asks for none.
        collapse_steps: Steps that the means are of.
    """

    collapse_information: Share = 0.002
    collapse_share: Share = 0.5
    collapse_steps: Positive = 50


def collapse_bounds(settings: CollapseSettings, rows: int, heat: float = 1.0) -> list[Bound]:
    """The bounds.

    Args:
        settings: What was set of them.
        rows: Large crops of a step, or of a part of one.
        heat: The teacher's temperature over the student's. Above 1 targets are flatter than the answers that are to
            follow them, by the square of it: what little they still hold of images that differ much is no health.
    """
    steps = settings.collapse_steps
    return [
        Bound(
            "target_information",
            least=min(settings.collapse_information * max(heat, 1.0) ** 2, 1.0),
            steps=steps,
            means="the teacher's targets are alike for all crops, so that there is nothing to learn from them",
            remedy="Lower teacher_temperature (0.04 to 0.07 are usual) or lengthen its warm-up; then lower lr.",
        ),
        Bound(
            "prototype_share",
            most=max(settings.collapse_share, min(_FEW / rows, 1.0)),
            steps=steps,
            means="most crops have the same prototype for a target, whatever they show",
            remedy="Set centring='sinkhorn', with queue for small batches; take more images a step, or a lower lr.",
        ),
    ]
