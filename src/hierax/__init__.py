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
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .errors import (
    CheckpointError,
    ExportError,
    HieraxError,
    InputError,
    IntegrityError,
    MissingExtraError,
    RecipeError,
    UnknownNameError,
)

if TYPE_CHECKING:
    from .accelerate import Acceleration, accelerate, is_accelerated, restore
    from .backbones import Backbone, backbone
    from .bulk.embed import EmbedSummary, embed
    from .config import ModelConfig, PreprocessSpec
    from .explain import explain
    from .export import ExportReport, export
    from .model.encoder import Encoder
    from .model.engines import optimize
    from .model.mae import MAEOutput, MaskedAutoencoder
    from .predictor import Prediction, Predictor
    from .registry import convert, create, describe, load, save
    from .search import Hit, Store, open_store
    from .train import finetune, pretrain
    from .view import view
    from .weights.card import ModelCard
    from .weights.catalog import list_models

__version__ = "0.1.0"
__all__ = [
    "Acceleration", "Backbone", "CheckpointError", "EmbedSummary", "Encoder", "ExportError", "ExportReport",
    "HieraxError", "Hit", "InputError", "IntegrityError", "MAEOutput", "MaskedAutoencoder", "MissingExtraError",
    "ModelCard", "ModelConfig", "Prediction", "Predictor", "PreprocessSpec", "RecipeError", "Store", "UnknownNameError",
    "__version__", "accelerate", "backbone", "convert", "create", "describe", "embed", "explain", "export",
    "finetune", "is_accelerated", "list_models", "load", "open_store", "optimize", "pretrain", "restore", "save",
    "view",
]  # fmt: skip

_HOMES = {
    "accelerate": ("Acceleration", "accelerate", "is_accelerated", "restore"),
    "backbones": ("Backbone", "backbone"),
    "bulk.embed": ("EmbedSummary", "embed"),
    "config": ("ModelConfig", "PreprocessSpec"),
    "explain": ("explain",),
    "export": ("ExportReport", "export"),
    "model.encoder": ("Encoder",),
    "model.engines": ("optimize",),
    "model.mae": ("MAEOutput", "MaskedAutoencoder"),
    "predictor": ("Prediction", "Predictor"),
    "registry": ("convert", "create", "describe", "load", "save"),
    "search": ("Hit", "Store", "open_store"),
    "train": ("finetune", "pretrain"),
    "view": ("view",),
    "weights.card": ("ModelCard",),
    "weights.catalog": ("list_models",),
}


if not TYPE_CHECKING:  # to an editor a public name is one of the imports above, and no other exists

    class _Package(ModuleType):
        """The package, whose public names stay: importing a room of the same name would take the place of one."""

        def __setattr__(self, name: str, value: Any) -> None:
            if not (name in __all__ and isinstance(value, ModuleType)):
                super().__setattr__(name, value)

    sys.modules[__name__].__class__ = _Package

    def __getattr__(name: str) -> Any:
        """Load a public name from its module on first use."""
        for module, names in _HOMES.items():
            if name in names:
                globals()[name] = value = getattr(importlib.import_module(f".{module}", __name__), name)
                return value
        raise AttributeError(f"module 'hierax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
