"""The recipe `auto`: what a run needs beyond what the person asked for, from the data, the model and its weights.

Rules, not a search: the same data and model always give the same recipe, on any number of processes. The measurements
behind the numbers are in docs/decisions/0010-recipe-auto.md.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from dataclasses import dataclass

from ..config import ModelConfig
from ..data.datasets.samples import TrainingData
from ..data.framing import are_far, fitting_size, share_far, usual_stretch
from ..weights.card import Weights
from .devices import Devices
from .look import Look, look
from .presets import PRESETS, Keys
from .probe import told_apart
from .reading import AUTO, with_options
from .recipe import Recipe
from .start import framed

PASSES = 30  # over the data; a smaller set gets more, because what it needs is steps
LEAST_STEPS, LEAST_STEPS_FEWER = 600, 300
_BATCH, _SMALL_BATCH, _SMALL = 32, 16, 1000  # the batch, and the smaller one of sets with fewer samples than that
_NARROW = 64  # channels of the first stage up to which a network is smaller than every published one
_WIDE = 112  # and from which on the paper halves the rate
_WARMUP, _AVERAGED = 0.05, 0.05  # of the run: its warm-up, and the time constant of the averaged weights
_VALIDATIONS, _VALIDATION_TIME = 10, 0.1  # in a run, and the share of its time that they may take
_APART = 20  # steps between two, at least
_FORWARD = 1 / 3  # what validating a sample costs of what training on it does
_FITTING = 0.9  # of images told apart by frozen features, from which on layers before the head hardly move
# Who names one of these decides for the others.
_TOGETHER = ({"steps", "epochs"}, {"warmup_steps", "warmup_epochs"}, {"ema_decay", "ema_warmup"}, {"lr", "lr_batch"})


@dataclass(frozen=True)
class Facts:
    """What the choice depends on.

    Attributes:
        samples: Samples to train on.
        classes: Their classes.
        held: Samples to validate on.
        config: The network.
        started: Whether it starts from weights.
        seen: What some of the images are like; of clips nothing is known.
        told_apart: Share of images whose class a linear classifier on the features at the start finds, by class.
        parts: What the batch must be a multiple of: processes x accumulate x repeats.
    """

    samples: int
    classes: int
    held: int
    config: ModelConfig
    started: bool
    seen: Look
    told_apart: float = 0.0
    parts: int = 1

    @property
    def fitting(self) -> bool:
        """Whether the features at the start fit the classes so well that training them hard would do harm."""
        return self.started and self.told_apart >= _FITTING

    @property
    def narrow(self) -> bool:
        """Whether the network is smaller than every published one."""
        return self.config.embed_dim <= _NARROW


def facts_of(
    train: TrainingData,
    held: TrainingData | None,
    weights: Weights,
    recipe: Recipe,
    asked: Collection[str],
    devices: Devices,
) -> Facts:
    """Facts of a run that is about to begin; some images are read, and embedded with the network it starts from."""
    facts = Facts(
        samples=len(train),
        classes=len(train.classes),
        held=0 if held is None else len(held),
        config=weights.config,
        started=bool(weights.tensors),
        seen=Look() if weights.config.is_video else look(train),
        parts=devices.world * recipe.accumulate * recipe.repeats,
    )
    if weights.config.is_video or not weights.tensors:
        return facts
    keys, _ = _frame(recipe, facts)
    began = framed(weights, with_options(recipe, **{key: keys[key] for key in keys if key not in asked}))
    return dataclasses.replace(facts, told_apart=told_apart(train, began, devices.device))


def chosen(recipe: Recipe, asked: Collection[str], facts: Facts) -> tuple[Recipe, list[str]]:
    """The recipe with what was not asked for chosen, and three lines that say what, and why; more of odd images.

    Args:
        recipe: What the person asked for, over the defaults.
        asked: The keys that are the person's, and stay as they are.
        facts: What the choice depends on.
    """
    keep = set(asked).union(*(group for group in _TOGETHER if not group.isdisjoint(asked)))
    reasons = []
    for choose in (_length, _rates, _views, _frame):
        keys, reason = choose(recipe, facts)
        recipe = with_options(recipe, **{key: value for key, value in keys.items() if key not in keep})
        reasons.append(reason)
    return recipe, [*_lines(recipe, facts, reasons, keep), *facts.seen.remarks()]


def _lines(recipe: Recipe, facts: Facts, reasons: list[str], keep: Collection[str]) -> list[str]:
    """What was chosen and why, in three lines; what the person asked for is said to be so."""
    length, rate, flips = (
        "as asked" if key in keep else reason for key, reason in zip(("steps", "lr", "flip"), reasons[:3], strict=True)
    )
    whole = f"; {reasons[3]}" if reasons[3] and "resize" not in keep else ""
    steps = _steps(recipe, facts)
    kept = f"; validated every {recipe.validate_every} steps" if recipe.validate_every else ""
    known = f" (frozen, the network tells {facts.told_apart:.0%} apart already)" if facts.told_apart else ""
    low, high = recipe.settings.crop_scale
    return [
        f"recipe {AUTO}: {steps} steps of {recipe.batch_size} ({length}) over {facts.samples} samples of "
        f"{facts.classes} classes{kept}",
        f"recipe {AUTO}: learning rate {recipe.peak_lr:.3g} ({rate}), layer decay {recipe.layer_decay:g}{known}, "
        f"averaged weights of decay {recipe.ema_decay:g}",
        f"recipe {AUTO}: flips {'on' if recipe.settings.flip else 'off'} ({flips}), crops of {low:.0%} to {high:.0%} "
        f"of the area{whole}",
    ]


def _steps(recipe: Recipe, facts: Facts) -> int:
    """Steps of the run."""
    return recipe.steps or math.ceil((recipe.epochs or 1) * facts.samples / recipe.batch_size)


def _length(recipe: Recipe, facts: Facts) -> tuple[Keys, str]:
    """Batch and steps."""
    batch = _SMALL_BATCH if facts.samples < _SMALL else _BATCH
    batch = facts.parts * math.ceil(batch / facts.parts)
    passes = math.ceil(PASSES * facts.samples / batch)
    much = (facts.narrow or not facts.started) and not facts.fitting
    least = LEAST_STEPS if much else LEAST_STEPS_FEWER
    reason = f"{PASSES} passes" if passes >= least else f"{PASSES} passes would be {passes} steps, too few to learn in"
    return {"batch_size": batch, "steps": max(passes, least)}, reason


def _rates(recipe: Recipe, facts: Facts) -> tuple[Keys, str]:
    """Learning rates, regularisation and averaging, for a run of known length."""
    steps = _steps(recipe, facts)
    keys: Keys = {
        "warmup_steps": math.ceil(_WARMUP * steps), "clip_norm": 1.0, "ema_warmup": True,
        "ema_decay": round(1 - 1 / max(_AVERAGED * steps, 1.0), 4), "label_smoothing": 0.1,
    }  # fmt: skip
    if recipe.settings.linear_probe:
        probe = PRESETS["linear_probe"]
        return keys | {key: probe[key] for key in ("lr", "weight_decay", "layer_decay", "drop_path")}, "a linear probe"
    scale = math.sqrt(recipe.batch_size / 1024)  # from the paper's batch, by the square root
    if facts.narrow:
        lr, reason = 12e-3 * scale, "a network smaller than the published ones learns at higher rates"
    else:
        lr = (2e-3 if facts.config.embed_dim < _WIDE else 1e-3) * scale
        reason = "the paper's fine-tuning rate, scaled from its batch of 1024 by the square root"
    # Lower rates in earlier layers spare what they learned; what starts at random has nothing to spare.
    decay = 0.1 if facts.fitting else 0.75 if facts.started else 1.0
    keys |= {"lr": float(f"{lr:.2g}"), "layer_decay": decay, "drop_path": 0.1}
    return keys | {"groups": "birder" if facts.fitting else "meta"}, reason  # only birder's spare the last block, too


def _views(recipe: Recipe, facts: Facts) -> tuple[Keys, str]:
    """How images are changed, and how often the run is validated."""
    every = 0
    if facts.held:
        total = _steps(recipe, facts)
        dear = facts.held * _FORWARD / (_VALIDATION_TIME * recipe.batch_size)  # steps that pay for one
        every = math.ceil(max(total / _VALIDATIONS, dear, _APART))
        every = every if every < total else 0  # the end of the run is validated anyway
    mirror = facts.seen.mirror
    keys: Keys = {"flip": 0.5 if mirror.harmless else 0.0, "crop_scale": (0.6, 1.0), "validate_every": every}
    if facts.config.is_video:
        return keys, "clips are not looked at, and mirrored motion may be of another class"
    if not mirror.telling:
        return keys, "thumbnails of these images do not tell whether mirror images keep their class"
    counts = f"of {mirror.looked} thumbnails {mirror.plain} are nearest to their own class, mirrored {mirror.mirrored}"
    return keys, counts


def _frame(recipe: Recipe, facts: Facts) -> tuple[Keys, str]:
    """How images become the input: cropped, as ever, unless that would cut most of many of them away."""
    (height, width), sizes = facts.config.input_size[-2:], facts.seen.sizes
    if recipe.settings.resize == "shortest" or not are_far(sizes, (height, width)):
        return {}, ""
    fit = (height, width) if recipe.input_size else fitting_size(sizes, facts.config)
    keys: Keys = {"resize": "squash"} | ({"input_size": fit} if fit != (height, width) else {})
    return keys, (
        f"images are brought whole to {fit[0]}x{fit[1]}: of {share_far(sizes, (height, width)):.0%} a crop of "
        f"{height}x{width} shows less than half, about {1 / usual_stretch(sizes, (height, width)):.0%}"
    )
