"""From a source's item to a row: what this machine's processes and a cluster's share.

maker = InputMaker.of(predictor)           # plain data: travels to any process
made = maker(item)                          # decode and preprocess; never raises for one item
columns = Columns(predictor, ["embedding"]) # where the model is
answers = columns(batch)                    # one pass, every column
record = record_of(item, made, answer)      # a row of a store
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..config import STAGE_NAMES, ModelConfig, PreprocessSpec
from ..data.inputs import image_input, network_input
from ..data.items import Item, content, texts_of
from ..errors import HieraxError, InputError, UnknownNameError, brief, nearest
from ..model.programs.encoder import ProgramEncoder
from ..net.address import shown
from ..store.layout import DTYPES
from ..store.tables import Record

if TYPE_CHECKING:
    from ..predictor import Predictor

TOP = "top5"
_TOP_CLASSES = 5
COLUMNS = ("embedding", *STAGE_NAMES, TOP)


@dataclass(frozen=True)
class Made:
    """What became of an item before the model.

    Attributes:
        input: The network's input, None where there is an error.
        size: (height, width) of the image, where it was read.
        error: Why there is no input.
        reading_s: Seconds until the bytes were there.
        decoding_s: Seconds of decoding and preprocessing.
    """

    input: Tensor | None = None
    size: tuple[int, int] | None = None
    error: str | None = None
    reading_s: float = 0.0
    decoding_s: float = 0.0


@dataclass(frozen=True)
class InputMaker:
    """Makes a network's input of an item; plain data, for processes that have no model.

    Attributes:
        config: Of the network.
        spec: How images become its input.
        views: Clips of each video.
        exact: Decode large JPEGs whole, as `Predictor` does, which takes five to eight times as long.
    """

    config: ModelConfig
    spec: PreprocessSpec
    views: int = 1
    exact: bool = False

    @classmethod
    def of(cls, predictor: Predictor, *, exact: bool = False) -> InputMaker:
        """For a predictor."""
        return cls(predictor.encoder.config, predictor.preprocess, predictor.views, exact)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of every input."""
        if not self.config.is_video:
            return (3, *self.spec.size)
        clip = (3, self.config.input_size[0], *self.spec.size)
        return clip if self.views == 1 else (self.views, *clip)

    def __call__(self, item: Item) -> Made:
        """Decode and preprocess; what fails becomes an error."""
        start = time.perf_counter()
        reading, read = 0.0, False
        try:
            source = item.place if self.config.is_video and item.size is None and item.data is None else content(item)
            if item.error is not None:
                raise InputError(item.error)
            reading, read = time.perf_counter() - start, True
            size = None
            if self.config.is_video:
                made = network_input(source, self.config, self.spec, self.views)
            else:
                made, size = image_input(source, self.spec, item.name, draft=not self.exact)
            return Made(made, size, None, reading, time.perf_counter() - start - reading)
        except (HieraxError, MemoryError) as error:
            reason = str(error) or "The image does not fit into memory."
        seconds = time.perf_counter() - start
        return Made(None, None, reason, reading if read else seconds, seconds - reading if read else 0.0)


class Columns:
    """The columns that a model gives for preprocessed images, in one pass.

    Attributes:
        vectors: Length of each column of vectors.
        top: Name of the column of classes, if it is wanted.
    """

    def __init__(
        self, predictor: Predictor, names: Sequence[str], *, dtype: str = "float32", normalize: bool = False
    ) -> None:
        names = [names] if isinstance(names, str) else list(names)
        if not names:
            raise InputError(f"columns must name at least one of {', '.join(COLUMNS)}; got none.")
        encoder = predictor.encoder
        for name in names:
            if name not in COLUMNS:
                raise UnknownNameError(
                    f"Columns are {', '.join(COLUMNS)}; got {brief(name)}. {nearest(str(name), COLUMNS)}"
                )
        if dtype not in DTYPES:
            raise InputError(f"Vectors are stored as {' or '.join(DTYPES)}; got {brief(dtype)}.")
        if TOP in names and encoder.num_classes == 0:
            raise InputError(
                f"{TOP} needs a classification head; {predictor.card.name!r} has none. Leave it out, or name a model "
                "with classes (`hierax list`)."
            )
        if isinstance(encoder, ProgramEncoder):
            encoder.require(["logits" if name == TOP else name for name in names])
        self._predictor, self._names, self._normalize = predictor, list(dict.fromkeys(names)), normalize
        sizes = {"embedding": encoder.embedding_size, **dict(zip(STAGE_NAMES, encoder.return_channels, strict=False))}
        missing = [name for name in self._names if name != TOP and name not in sizes]
        if missing:
            raise UnknownNameError(
                f"{predictor.card.name!r} has the stages {', '.join(list(sizes)[1:])}; got {missing[0]}."
            )
        self.vectors = {name: sizes[name] for name in self._names if name != TOP}
        self.dtype, self.top = dtype, TOP if TOP in names else None

    def __call__(self, batch: Tensor) -> list[dict[str, Any] | str]:
        """One answer for each input: its columns, or why there are none.

        Args:
            batch: Preprocessed (b, ...), views of clips stacked before their channels.
        """
        if not len(batch):
            return []
        parameter = next(self._predictor.model.parameters())
        several = batch.ndim > len(self._predictor.encoder.config.input_size) + 2
        flat = batch.flatten(0, 1) if several else batch
        with torch.inference_mode():
            found = self._run(flat.to(parameter.device, parameter.dtype, non_blocking=True))
            found = {name: each.float().cpu() for name, each in found.items()}
        if several:
            found = {name: each.unflatten(0, batch.shape[:2]) for name, each in found.items()}
        tops = self._classes(found.pop(TOP)) if self.top else [None] * len(batch)
        arrays = {name: self._stored(each.mean(1) if several else each) for name, each in found.items()}
        good = np.logical_and.reduce(
            [np.isfinite(array).all(1) for array in arrays.values()] or [np.ones(len(batch), bool)]
        )
        answers: list[dict[str, Any] | str] = []
        for index in range(len(batch)):
            values = {name: array[index] for name, array in arrays.items()}
            if self.top:
                values[self.top] = tops[index]
            bad = not good[index] or (self.top is not None and tops[index] is None)
            answers.append(self._predictor.not_finite(self.dtype) if bad else values)
        return answers

    def _run(self, x: Tensor) -> dict[str, Tensor]:
        asked = ["logits" if name == TOP else name for name in self._names]
        found = self._predictor.encoder.answers(x, asked)
        found = {name: each.flatten(2).float().mean(2) if name in STAGE_NAMES else each for name, each in found.items()}
        if self.top is not None:
            found[TOP] = found.pop("logits").double().softmax(-1)
        return {name: found[name] for name in self._names}

    def _stored(self, vectors: Tensor) -> np.ndarray:
        if self._normalize:  # in a type that holds the square of any float32
            vectors = torch.nn.functional.normalize(vectors.double(), dim=-1).float()
        with np.errstate(over="ignore"):
            return vectors.numpy().astype(self.dtype, copy=False)

    def _classes(self, scores: Tensor) -> list[list[dict[str, Any]] | None]:
        scores = scores.double().mean(1) if scores.ndim == 3 else scores
        best = scores.topk(min(_TOP_CLASSES, scores.shape[-1]), dim=-1)
        label, finite = self._predictor.label, scores.isfinite().all(1).tolist()
        pairs = zip(best.values.tolist(), best.indices.tolist(), finite, strict=True)
        return [
            [{"label": label(i), "index": i, "score": s} for s, i in zip(values, indices, strict=True)]
            if good
            else None
            for values, indices, good in pairs
        ]


def checked_engine(engine: str, predictor: Predictor, *, few: Callable[[], bool]) -> str:
    """The engine that was asked for; "none" where it would take longer to start than it saves.

    Args:
        engine: A fast engine, "auto" or "none".
        predictor: Whose network it is for.
        few: Whether there are few inputs.

    Raises:
        UnknownNameError: No such engine.
    """
    from ..model.engines import ENGINES, FastEncoder

    if engine not in (*ENGINES, "none"):
        raise UnknownNameError(
            f"Engines are {', '.join((*ENGINES, 'none'))}; got {brief(engine)}. {nearest(str(engine), ENGINES)}"
        )
    fast = isinstance(predictor.encoder, FastEncoder)
    exported = isinstance(predictor.encoder, ProgramEncoder)  # runs as it is; any other engine refuses it
    return "none" if fast or (engine == "auto" and (exported or few())) else engine


def in_engine(predictor: Predictor, engine: str) -> Predictor:
    """A predictor in an engine; the same one with "none".

    Raises:
        HieraxError: As `hierax.optimize`.
    """
    from ..model.engines import optimize

    return predictor if engine == "none" else predictor.with_model(optimize(predictor.model, engine=engine))


def record_of(item: Item, made: Made, answer: Mapping[str, Any] | str | None) -> Record:
    """The row of an item.

    Args:
        item: The input.
        made: What became of it before the model.
        answer: What the model gave; None where there was nothing to ask it.
    """
    text, exact = texts_of(item)
    error = made.error if made.error is not None else answer if isinstance(answer, str) else None
    height, width = made.size or (None, None)
    values = None if error is not None or isinstance(answer, str) else answer
    return Record(item.id, shown(text) if error else text, exact, width, height, error, item.shard, item.offset, values)
