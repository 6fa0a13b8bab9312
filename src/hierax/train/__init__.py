"""Training on a person's own images: supervised fine-tuning and self-supervised pretraining."""

from __future__ import annotations

from .run import RunSummary, finetune, pretrain, run

__all__ = ["RunSummary", "finetune", "pretrain", "run"]
