"""What a reader of vectors must know to compare them with others."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .predictor import Predictor

_SCHEMA = 1


def provenance(predictor: Predictor, **more: Any) -> dict[str, Any]:
    """Model, weights, preprocess, pooling and version, as JSON-able data.

    Args:
        predictor: What makes the vectors.
        **more: How they are stored.
    """
    from . import __version__
    from .weights.digest import weights_digest  # torch

    card = predictor.card
    return {
        "model": card.name,
        **{key: getattr(card, key) or "" for key in ("architecture", "license", "base_model")},
        "sha256": weights_digest(card) or _digest(predictor),
        "preprocess": predictor.preprocess.to_dict(),
        "pooling": predictor.encoder.config.head,
        "precision": str(next(predictor.model.parameters()).dtype).removeprefix("torch."),
        "views": predictor.views,
        "version": __version__,
        "schema": _SCHEMA,
        **more,
    }


def _digest(predictor: Predictor) -> str:
    """Of parameters that come from no file."""
    import torch

    found = hashlib.sha256()
    for name, tensor in sorted(predictor.encoder.state_dict().items()):
        found.update(f"{name} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return found.hexdigest()


def origin(predictor: Predictor) -> dict[str, str]:
    """Where relative paths of a run begin, and the file of its weights: of this machine, and no part of provenance."""
    try:
        folder = os.getcwd()
    except OSError:  # it was removed
        folder = ""
    path = predictor.card.path
    return {"folder": folder, "weights": "" if path is None else os.path.abspath(path)}
