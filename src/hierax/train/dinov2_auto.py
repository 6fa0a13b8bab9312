"""What self-distillation needs beyond what a person asked for, from the number of images, the batch and the device.

The published settings are for a million images and batches of a thousand: with them, a few thousand images in batches
of 32 give every prototype a sample in a thousand steps.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from ..config import ModelConfig
from ..data.multi_crop import LARGE
from ..weights.card import Weights
from .dinov2_start import find_heads, shapes_of
from .recipe import Recipe

_IMAGES = 16  # for each prototype
_FEWEST, _MOST = 256, 65_536  # prototypes
_QUEUE_BYTES = 1 << 28  # of the scores of each head that are remembered, at most
_PASSES, _LEAST_STEPS, _MOST_STEPS = 100, 2000, 50_000
_HALF_LIFE = 0.02  # of the run, of what the teacher averages over at its beginning
_MOMENTUM = (0.95, 0.996)
_KEPT = 27  # numbers for the gradient, a token and channel behind a block; measured with HieraDet-S
_LARGEST = 4 << 30  # bytes of them; beyond it blocks are computed twice


def suited(samples: int, weights: Weights, recipe: Recipe, asked: Collection[str]) -> tuple[dict[str, Any], list[str]]:
    """Keys of a recipe that suit the data, and lines that say which, and why.

    Args:
        samples: Images to train on.
        weights: What the run starts from.
        recipe: What the person asked for, over the preset.
        asked: The keys that are the person's.
    """
    own = recipe.settings
    heads = shapes_of(find_heads(weights, own.heads))
    keys: dict[str, Any] = dict(heads)
    batch = min(recipe.batch_size, max(2, samples)) if "batch_size" not in asked else recipe.batch_size
    batch = max(recipe.accumulate, batch // recipe.accumulate * recipe.accumulate)
    keys["batch_size"] = batch
    steps = min(max(math.ceil(_PASSES * samples / batch), _LEAST_STEPS), _MOST_STEPS)
    if not {"steps", "epochs"} & set(asked):
        keys["steps"] = steps
    else:
        steps = recipe.steps or max(1, round((recipe.epochs or 1) * samples / batch))
    if "prototypes" in asked:
        count, why = own.prototypes, "as asked"
    elif heads:
        count, why = heads["prototypes"], "those of the heads it goes on with"
    else:
        count = min(max(2 ** round(math.log2(max(samples / _IMAGES, 1))), _FEWEST), _MOST)
        why = f"about one for {_IMAGES} images, at least {_FEWEST}"
    keys["prototypes"] = count
    rows = 2 * batch // recipe.accumulate  # that are balanced at once, on all processes
    queue = 0 if rows >= count else min(count - rows, 2 * samples, _QUEUE_BYTES // (4 * count))
    keys["queue"] = queue = own.queue if "queue" in asked else queue
    momentum = round(min(max(1 - math.log(2) / (_HALF_LIFE * steps), _MOMENTUM[0]), _MOMENTUM[1]), 4)
    keys["teacher_momentum"] = momentum = own.teacher_momentum if "teacher_momentum" in asked else momentum
    lines = []
    kept = activations(weights.config, recipe) * batch // recipe.accumulate
    if kept > _LARGEST and "checkpoint_blocks" not in asked:
        keys["checkpoint_blocks"] = True
        lines = [
            f"recipe auto: blocks are computed twice (checkpoint_blocks), a third more time: what they would keep of "
            f"{batch // recipe.accumulate} images takes about {kept / 1e9:.0f} GB"
        ]
    remembered = f"and the {queue} before them" if queue else "without a queue"
    return keys, [
        f"recipe auto: {steps} steps of {batch}; {count} prototypes ({why}), balanced over {rows} crops {remembered}",
        f"recipe auto: the teacher's momentum grows from {momentum:.4g}: at first it averages over {_HALF_LIFE:.0%} of "
        "the run. Published settings: --recipe dinov2, or birder_dinov2",
        *lines,
    ]


def activations(config: ModelConfig, recipe: Recipe) -> int:
    """Bytes that the crops of one image keep for the gradient, roughly; half of them in half precision."""
    height, width = config.input_size[-2:]
    own = recipe.settings
    small = (own.local_size or 96) ** 2 if config.position != "grid" else height * width
    stride = config.strides[0]
    tokens = (LARGE * height * width + own.local_crops * small) / stride**2  # that enter the first stage
    behind = sum(
        depth * stage_dim / 4**stage
        for stage, (depth, stage_dim) in enumerate(zip(config.depths, config.channels, strict=True))
    )
    return int(4 * _KEPT * tokens * behind)
