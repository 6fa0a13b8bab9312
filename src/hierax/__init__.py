"""hierax: the Hiera family of vision encoders; every checkpoint, any input size, one readable implementation.

    import hierax

    predictor = hierax.load()  # the small embedded model: no network, no files
    predictor.classify("photo.jpg")
    predictor.embed(["a.jpg", "b.jpg"])
    predictor.features("photo.jpg")

Importing hierax imports no torch; each name below is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .errors import (
    CheckpointError,
    HieraxError,
    InputError,
    IntegrityError,
    MissingExtraError,
    RecipeError,
    UnknownNameError,
)

if TYPE_CHECKING:
    from .config import ModelConfig as ModelConfig
    from .config import PreprocessSpec as PreprocessSpec
    from .model.encoder import Encoder as Encoder
    from .model.engines import optimize as optimize
    from .model.mae import MAEOutput as MAEOutput
    from .model.mae import MaskedAutoencoder as MaskedAutoencoder
    from .predictor import Prediction as Prediction
    from .predictor import Predictor as Predictor
    from .registry import convert as convert
    from .registry import create as create
    from .registry import describe as describe
    from .registry import list_models as list_models
    from .registry import load as load
    from .train import finetune as finetune
    from .train import pretrain as pretrain
    from .weights.card import ModelCard as ModelCard

__version__ = "0.1.0"

_HOMES = {
    "Encoder": "model.encoder",
    "MAEOutput": "model.mae",
    "MaskedAutoencoder": "model.mae",
    "ModelCard": "weights.card",
    "ModelConfig": "config",
    "Prediction": "predictor",
    "Predictor": "predictor",
    "PreprocessSpec": "config",
    "convert": "registry",
    "create": "registry",
    "describe": "registry",
    "finetune": "train",
    "list_models": "registry",
    "load": "registry",
    "optimize": "model.engines",
    "pretrain": "train",
}

__all__ = [
    "CheckpointError",
    "HieraxError",
    "InputError",
    "IntegrityError",
    "MissingExtraError",
    "RecipeError",
    "UnknownNameError",
    "__version__",
    *_HOMES,
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'hierax' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
