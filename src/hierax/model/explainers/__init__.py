"""Which parts of an image an answer comes from, as maps on a stage's grid: rollout, Grad-CAM, occlusion.

Defined in docs/decisions/0022.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...errors import InputError
from ..encoder import Encoder
from .gradcam import gradcam
from .occlusion import occlusion
from .rollout import rollout

__all__ = [
    "EXPLAINERS",
    "Explainer",
    "gradcam",
    "heat_maps",
    "occlusion",
    "predicted",
    "readable",
    "rollout",
    "stage_index",
]

Classes: TypeAlias = "Int[Tensor, ' b']"
Maps: TypeAlias = "Float[Tensor, 'b h w']"


@dataclass(frozen=True)
class Explainer:
    """One way to explain.

    Attributes:
        run: (encoder, images, class of each, stage counted from 0) -> maps.
        default: Which stage where none is named, counted from 0; negative from the end.
        needs_class: Whether it answers only for a class.
    """

    run: Callable[[Encoder, Tensor, Tensor, int], Tensor]
    default: int
    needs_class: bool = True


def _of_class(encoder: Encoder, x: Tensor, classes: Tensor, stage: int) -> Tensor:
    """Rollout that begins with the evidence for a class."""
    return rollout(encoder, x, gradcam(encoder, x, classes, stage), stage)


EXPLAINERS = {
    "rollout": Explainer(_of_class, -1, needs_class=False),
    "gradcam": Explainer(gradcam, -1),
    "occlusion": Explainer(occlusion, -2),
}


def heat_maps(
    method: str, encoder: Encoder, x: Float[Tensor, "b 3 h w"], classes: Classes | None, stage: int | None = None
) -> Maps:
    """Maps of images that are preprocessed, float32.

    Args:
        method: Of `EXPLAINERS`.
        encoder: An image network in eval mode.
        x: Preprocessed images.
        classes: Which class of each is explained; None is none in particular, which rollout alone can answer.
        stage: Counted from 0; None is the method's own.
    """
    explainer = EXPLAINERS[method]
    place = range(len(encoder.stage_ends))[explainer.default if stage is None else stage]
    if classes is None:
        return rollout(encoder, x, stage=place)
    return explainer.run(encoder, x, classes, place)


def readable(encoder: nn.Module, name: str) -> Encoder:
    """The network, where it is one of images that can be looked into.

    Args:
        encoder: A predictor's.
        name: What to call it.

    Raises:
        InputError: An exported program, or a network of clips.
    """
    if not isinstance(encoder, Encoder):
        raise InputError(
            f"Explaining looks inside a network; {name!r} is an exported program, which has only answers. Load the "
            "weights that it was made from."
        )
    if encoder.config.is_video:
        raise InputError(f"Images are explained; {name!r} takes clips. Use an image member.")
    return encoder


def stage_index(encoder: Encoder, stage: Any) -> int:
    """A stage by name, counted from 0.

    Raises:
        UnknownNameError: There is none of that name.
    """
    (name,) = encoder.config.known_stages([stage])
    return encoder.config.stage_names.index(name)


def predicted(encoder: Encoder, x: Float[Tensor, "b 3 h w"]) -> Classes:
    """The most probable class of each image."""
    with torch.no_grad():
        return encoder(x).argmax(-1)
