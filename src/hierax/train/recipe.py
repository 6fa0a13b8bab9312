"""A recipe: every setting of a training run, as plain data; `train.reading` turns presets and TOML files into recipes.

The method's own settings are a table that bears its name. One more table is allowed, `[before]`: a recipe that runs
first and whose result the run then starts from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ..errors import RecipeError
from ..schema import Between, Natural, NonNegative, Positive, ProperShare, Share, conform

Task = Literal["finetune", "pretrain"]
MoreThanZero = Annotated[float, Between(above=0)]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of one run; counts are in optimiser steps and samples, ratios in 0..1.

    Attributes:
        task: What the recipe is for.
        method: How to train, by its name in `train.methods.METHODS`.
        settings: The method's own, which stand in the table of its name.
        model: Architecture, catalogue name, hub id or path; the `model` argument of a run overrules it.
        pretrained: Whether a catalogue name means its published weights; False starts from random ones.
        input_size: Pixels per side, or (height, width); None keeps the model's.
        steps: Optimiser steps; overrules `epochs`.
        epochs: Passes over the data; repeated views of a sample count.
        batch_size: Samples of one optimiser step, over all devices and accumulated parts.
        accumulate: Parts that a step's batch is cut into on each device.
        seed: Every random number follows from it.
        optimizer: "adamw" or "sgd".
        lr: Peak learning rate.
        lr_batch: The batch size that `lr` is quoted at; None takes `lr` as it is.
        lr_scaling: How it goes with the batch: "linear", or "sqrt" with its square root.
        min_lr: Where the cosine ends.
        betas: Of AdamW.
        momentum: Of SGD.
        weight_decay: Decay of matrices and kernels; `groups` says what else decays.
        groups: "meta" spares vectors and position tables, its head shares the last block's rate; "birder"
            spares only norms, its head is one layer later.
        layer_decay: Factor on the learning rate from each layer to the one before it; 1 is off.
        schedule: "cosine" or "constant", after the warm-up.
        warmup_epochs: Linear warm-up in passes over the data, but at most a fifth of the run.
        warmup_steps: Linear warm-up in steps, as they are; overrules `warmup_epochs`.
        clip_norm: Largest gradient norm; None does not clip.
        ema_decay: Decay of the averaged weights, which then are the result; 0 is off.
        ema_every: Steps between two averages.
        ema_warmup: The t-th average takes a decay of at most (1 + t) / (10 + t), so that a short run is not averaged
            with where it began.
        drop_path: Rate at the last block; None keeps the model's.
        checkpoint_blocks: Compute blocks again for the gradient instead of keeping what is inside them: less
            memory, more time, the same result.
        repeats: Augmented views of each sample that is read.
        frame_stride: Source frames from one frame of a clip to the next.
        split: Split of the data to train on, where the data names splits.
        validation: Data or split to validate on; None takes a split that the data has, or holds some out.
        validation_fraction: Share held out where the data has no validation split.
        workers: Processes that read and augment; 0 reads in the main one.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        precision: "auto" is bf16 where it is native, else fp32; "fp32", "bf16" or "fp16".
        sharding: "ddp", or "fsdp2" to shard weights and optimiser over processes.
        checkpoint_every: Steps from one checkpoint to the next; 0 keeps only the last.
        validate_every: Steps from one validation to the next; 0 validates at the end.
        patience: Validations without a better one after which the run stops early; 0 never does.
        result: Which weights are the result, "last" or "best" (of validation); the others lie beside them. None is
            "best" with patience, else "last".
        probe: Labelled data, as for fine-tuning, on which the features are probed during the run: which share of the
            images (at most 1000) their 20 nearest neighbours name right. It changes nothing of the result.
        probe_every: Steps from one probe to the next; None probes 20 times. The start and the end are always probed.
        log_every: Steps a log line stands for.
        max_bad_steps: Steps in a row that may be skipped for NaN or infinity before the run stops.
        data: What a stage trains on instead of the data that the run was given.
        before: A recipe that runs first, MAE unless it says otherwise; it may have a stage before it too.
    """

    task: Task = "finetune"
    method: str = "supervised"
    settings: Any = None
    model: str | None = None
    pretrained: bool = True
    input_size: Positive | tuple[Positive, ...] | None = None
    steps: Positive | None = None
    epochs: MoreThanZero | None = None
    batch_size: Positive = 64
    accumulate: Positive = 1
    seed: Natural = 0
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: NonNegative = 5e-4
    lr_batch: Positive | None = None
    lr_scaling: Literal["linear", "sqrt"] = "linear"
    min_lr: NonNegative = 0.0
    betas: tuple[ProperShare, ProperShare] = (0.9, 0.999)
    momentum: NonNegative = 0.9
    weight_decay: NonNegative = 0.05
    groups: Literal["meta", "birder"] = "meta"
    layer_decay: Share = 1.0
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: NonNegative = 0.0
    warmup_steps: Natural | None = None
    clip_norm: MoreThanZero | None = None
    ema_decay: ProperShare = 0.0
    ema_every: Positive = 1
    ema_warmup: bool = False
    drop_path: ProperShare | None = None
    checkpoint_blocks: bool = False
    repeats: Positive = 1
    frame_stride: Positive = 4
    split: str = "train"
    validation: str | None = None
    validation_fraction: ProperShare = 0.1
    workers: Natural = 2
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    sharding: Literal["ddp", "fsdp2"] = "ddp"
    checkpoint_every: Natural = 500
    validate_every: Natural = 0
    patience: Natural = 0
    result: Literal["last", "best"] | None = None
    probe: str | None = None
    probe_every: Positive | None = None
    log_every: Positive = 1
    max_bad_steps: Positive = 5
    data: str | None = None
    before: Recipe | None = None

    def __post_init__(self) -> None:
        conform(self, RecipeError)
        if self.batch_size % (self.accumulate * self.repeats):
            raise RecipeError(
                f"batch_size must be a multiple of accumulate x repeats = {self.accumulate * self.repeats}; "
                f"got {self.batch_size}."
            )

    @property
    def peak_lr(self) -> float:
        """The learning rate scaled from the batch that it is quoted at."""
        share = self.batch_size / self.lr_batch if self.lr_batch else 1.0
        return self.lr * (share if self.lr_scaling == "linear" else math.sqrt(share))
