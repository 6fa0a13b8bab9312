"""The model inside its process: one pass for a batch, and where that fails, one for each of its items."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy import ndarray

from ..bulk.worker import checked_engine, in_engine
from ..errors import HieraxError, InputError
from ..model.programs.encoder import ProgramEncoder
from ..predictor import Predictor
from .settings import Settings

log = logging.getLogger("hierax")


class Failed(NamedTuple):
    """Why an input has no answer: whether the input is to blame, and the words."""

    blamed: bool
    message: str


def load(settings: Settings) -> Predictor:
    """The model that a server is told, or the one that made its store.

    Raises:
        HieraxError: It cannot be loaded, takes clips, or did not make the store.
    """
    from .. import load as load_model

    named = settings.model
    if settings.dtype in ("int8", "auto"):
        if settings.engine == "none":
            raise InputError(f"--dtype {settings.dtype} needs an engine; got none. Pass --engine auto.")
        if settings.store is not None:
            raise InputError(f"A query must be embedded as the store was; got --dtype {settings.dtype}. Leave it out.")
        fast = {"fast": True, "engine": settings.engine, "dtype": settings.dtype}
        return load_model(named, device=settings.device, input_size=settings.input_size, **fast)
    options: dict[str, Any] = {"device": settings.device, "dtype": settings.dtype, "input_size": settings.input_size}
    if settings.store is not None:
        from ..search import open_store
        from ..search.queries import stored_model

        store = open_store(settings.store)
        if named is None and settings.dtype is None and settings.input_size is None:
            predictor = stored_model(store, device=settings.device)
        else:
            predictor = stored_model(store, load_model(named, **options))
    else:
        predictor = load_model(named, **options)
    if predictor.encoder.config.is_video:
        raise InputError(f"A server answers images; {predictor.card.name!r} takes clips. Name a model of images.")
    return in_engine(predictor, checked_engine(settings.engine, predictor, few=lambda: False))


class Model:
    """A predictor that answers batches of inputs, item by item.

    Raises:
        HieraxError: As `load`.
    """

    def __init__(self, settings: Settings) -> None:
        self._predictor = load(settings)
        encoder = self._predictor.encoder
        known = ("embedding", "logits", *encoder.config.stage_names)
        self._gives = [name for name in known if name != "logits" or encoder.num_classes]
        if isinstance(encoder, ProgramEncoder):
            self._gives = [name for name in self._gives if name in encoder.outputs]
        # The first pass makes what later ones reuse.
        self._run(np.zeros((1, 3, *self._predictor.preprocess.size), np.float32), self._gives[:1])

    def facts(self) -> dict[str, Any]:
        """What the web process must know."""
        predictor, card = self._predictor, self._predictor.card
        encoder = predictor.encoder
        return {
            "name": card.name,
            "aliases": list(card.aliases),
            "architecture": encoder.config.name,
            "license": card.license,
            "commercial": card.commercial,
            "config": encoder.config.to_dict(),
            "preprocess": predictor.preprocess.to_dict(),
            "labels": [predictor.label(index) for index in range(encoder.num_classes)],
            "embedding_size": encoder.embedding_size,
            "channels": list(encoder.return_channels),
            "strides": list(encoder.strides),
            "gives": self._gives,
            "dtype": str(next(predictor.model.parameters()).dtype).removeprefix("torch."),
        }

    def answer(self, inputs: Sequence[ndarray], names: Sequence[Sequence[str]]) -> list[list[ndarray] | Failed]:
        """For each input what was asked of it, float32, or why there is none.

        Args:
            inputs: Of one shape, (3, h, w).
            names: What is asked of each.
        """
        asked = list(dict.fromkeys(name for each in names for name in each))
        try:
            found = self._run(np.stack(inputs), asked)
        except Exception as error:
            if len(inputs) > 1:  # the others did nothing wrong
                return [self.answer([each], [own])[0] for each, own in zip(inputs, names, strict=True)]
            log.debug("the model failed", exc_info=error)
            blamed = isinstance(error, HieraxError)
            return [Failed(blamed, str(error) if blamed else f"The model failed: {type(error).__name__}.")]
        return [self._own(found, index, own) for index, own in enumerate(names)]

    def _run(self, batch: ndarray, names: Sequence[str]) -> dict[str, ndarray]:
        parameter = next(self._predictor.model.parameters())
        with torch.inference_mode():
            x = torch.from_numpy(batch).to(parameter.device, parameter.dtype)
            found = self._predictor.encoder.answers(x, names)
            return {name: each.float().cpu().numpy() for name, each in found.items()}

    def _own(self, found: dict[str, ndarray], index: int, names: Sequence[str]) -> list[ndarray] | Failed:
        own = [found[name][index] for name in names]
        if all(np.isfinite(each).all() for each in own):
            return own
        return Failed(True, "Answers must be finite; this input gives NaN or infinity. Send pixels of a usual range.")
