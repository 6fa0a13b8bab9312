"""The ways to train: each turns a part of a batch into a loss."""

from __future__ import annotations

from .base import Method, StepContext
from .finetune import FineTuning
from .mae import MaskedPretraining

__all__ = ["FineTuning", "MaskedPretraining", "Method", "StepContext"]
