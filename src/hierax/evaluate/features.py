"""Frozen features of labelled images: what a network, or a baseline, makes of each, computed once and kept."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from .. import console
from ..config import STAGE_NAMES
from ..data.datasets.samples import TrainingData
from ..data.files import open_regular
from ..data.rows import map_rows
from ..errors import InputError, UnknownNameError, brief, nearest
from ..predictor import Predictor
from ..provenance import provenance
from ..weights.adapt import to_encoder
from ..weights.digest import weights_digest
from ..weights.network import to_module
from . import baseline
from .kept import KeptFeatures

EMBEDDING, STAGES = "embedding", "stages"
_VERSION = 1  # raise it when the same network gives other numbers: features are kept
_READERS = 4
_AT_ONCE = 2048  # images between two times that features are kept


@dataclass(frozen=True)
class Describer:
    """What makes a vector of an image.

    Attributes:
        name: What it is called in a table.
        features: Which of its features.
        space: Digest of everything that decides the numbers; None where that is not known.
        prepare: One image as an input.
        vectors: Vectors of a batch of inputs.
        empty: Shape of an input.
        widths: Numbers of each part of a vector; parts are of one weight where vectors are compared by cosine.
        about: Provenance, JSON-able.
        columns: Which numbers of what `vectors` gives are taken; None is all.
    """

    name: str
    features: str
    space: str | None
    prepare: Callable[[Any], Tensor]
    vectors: Callable[..., Any]
    empty: tuple[int, ...]
    widths: tuple[int, ...]
    about: dict[str, Any] = dataclasses.field(default_factory=dict)
    columns: Int[ndarray, " c"] | None = None


@dataclass(frozen=True)
class Described:
    """The vectors of those samples of a set that could be read.

    Attributes:
        vectors: One a sample.
        labels: Class of each.
        unreadable: The others, as (name, reason).
        digests: Of the bytes of each sample.
    """

    vectors: Float[ndarray, "n c"]
    labels: Int[ndarray, " n"]
    unreadable: list[tuple[str, str]]
    digests: list[bytes]


def network(predictor: Predictor, features: str, name: str | None = None) -> Describer:
    """A frozen network.

    Args:
        predictor: The network.
        features: "embedding"; "stages", the average over the area of each stage's map; or some of these, such as
            "stage3" or "stage2,stage4".
        name: What to call it; None is the name on its card.

    Raises:
        UnknownNameError: No such features.
    """
    stages = _stages(predictor, features)
    channels = dict(zip(STAGE_NAMES, predictor.encoder.return_channels, strict=False))
    starts = dict(zip(channels, np.cumsum([0, *channels.values()]), strict=False))

    def pooled(batch: Tensor, batch_size: int) -> ndarray:
        maps = predictor.features(batch, batch_size=batch_size)
        return np.concatenate([found.mean(tuple(range(2, found.ndim))) for found in maps.values()], 1)

    return Describer(
        name=name or predictor.card.name,
        features=features,
        space=_state(predictor, STAGES if stages else EMBEDDING),
        prepare=predictor.prepare,
        vectors=pooled if stages else predictor.embed,
        empty=(3, *predictor.encoder.config.input_size),
        widths=tuple(channels[stage] for stage in stages) or (predictor.encoder.embedding_size,),
        about=provenance(predictor),
        columns=np.concatenate([starts[s] + np.arange(channels[s]) for s in stages]) if stages else None,
    )


def histograms() -> Describer:
    """Colours and edges, made by hand."""

    def prepare(image: Any) -> Tensor:
        return torch.from_numpy(baseline.colour_and_edges(image))

    def same(batch: Tensor, batch_size: int) -> ndarray:
        return batch.numpy()

    size = baseline.SIZE
    space = f"{baseline.NAME}-{baseline.VERSION}"
    return Describer(baseline.NAME, "histograms", space, prepare, same, (size,), (size,))


def untrained(predictor: Predictor, seed: int = 0) -> Predictor:
    """The same network with random weights."""
    weights = to_encoder(predictor.weights())
    weights = dataclasses.replace(weights, tensors={}, names={}, raw=None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = to_module(weights).to(predictor.device).eval()
    return Predictor(module, weights.with_card(path=None, sha256=None))


def described(
    describer: Describer, data: TrainingData, *, keep: bool = True, batch_size: int = 32, progress: bool = False
) -> Described:
    """The vectors of a set, equal images computed once.

    Args:
        describer: What makes them.
        data: Labelled samples.
        keep: Whether to use features that are on disk, and to keep new ones there.
        batch_size: Images at a time.
        progress: Progress bars.
    """
    kept = KeptFeatures(describer.space if keep else None)
    keys, errors = _keys(data, progress)
    first: dict[bytes, int] = {}
    for index, key in keys.items():
        first.setdefault(key, index)
    found = kept.find(first.keys())
    missing = [index for key, index in first.items() if key not in found]
    failed: set[bytes] = set()
    rows = _computed(describer, data, missing, batch_size, progress)
    while part := list(itertools.islice(rows, _AT_ONCE)):
        new = {keys[index]: value for index, value, _ in part if value is not None}
        errors |= {index: error for index, _, error in part if error is not None}
        failed |= {keys[index] for index, _, error in part if error is not None}
        if new:
            kept.add(list(new), np.stack(list(new.values())))
        found |= new
    # A reason names its file: what has the bytes of one that failed has a reason of its own.
    again = [index for index, key in keys.items() if key in failed and index not in errors]
    retried = _computed(describer, data, again, batch_size, False)
    errors |= {index: error or "An equal file could not be read." for index, _, error in retried}
    good = [index for index, key in keys.items() if key in found]
    vectors = np.stack([found[keys[index]] for index in good]) if good else np.zeros((0, 1), np.float32)
    if describer.columns is not None and good:
        vectors = vectors[:, describer.columns]
    unreadable = [(data.name(index), errors[index]) for index in sorted(errors)]
    return Described(vectors, data.labels[good], unreadable, [keys[index] for index in good])


def balanced(vectors: Float[ndarray, "n c"], widths: Sequence[int]) -> Float[ndarray, "n c"]:
    """Vectors whose parts have length 1 each, so that a cosine is the mean of those of the parts."""
    if len(widths) == 1:
        return vectors
    parts = np.split(vectors.astype(np.float64), np.cumsum(widths)[:-1], axis=1)
    return np.concatenate([part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-300) for part in parts], 1)


def _stages(predictor: Predictor, features: str) -> list[str]:
    """The stages that are meant, in order; none is the embedding."""
    known = predictor.encoder.config.stage_names
    wanted = [] if features == EMBEDDING else list(known) if features == STAGES else features.split(",")
    for name in (name.strip() for name in wanted):
        if name not in known:
            raise UnknownNameError(
                f"Features are {EMBEDDING}, {STAGES}, or some of {', '.join(known)} with commas between; got "
                f"{brief(name)}. {nearest(name, (EMBEDDING, STAGES, *known))}".strip()
            )
    chosen = {name.strip() for name in wanted}
    return [name for name in known if name in chosen]


def _state(predictor: Predictor, kind: str) -> str | None:
    """A digest of all that decides a network's numbers: parameters, structure, preprocess and engine."""
    encoder, digest = predictor.encoder, hashlib.sha256()
    state = encoder.state_dict()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    file = None if state else weights_digest(predictor.card)
    if file == "":
        return None
    said = [encoder.config.to_dict(), predictor.preprocess.to_dict(), predictor.views, getattr(encoder, "choice", None)]
    known = [_VERSION, kind, *said, file]
    digest.update(json.dumps(known, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:32]


def _keys(data: TrainingData, progress: bool) -> tuple[dict[int, bytes], dict[int, str]]:
    """The digest of each sample's bytes, or why it cannot be read, by position."""

    def digest(index: int) -> bytes | str:
        try:
            return _content(data.read(index))
        except (InputError, OSError, MemoryError) as error:
            return str(error) or type(error).__name__

    keys: dict[int, bytes] = {}
    errors: dict[int, str] = {}
    with (
        ThreadPoolExecutor(_READERS) as pool,
        console.bar("reading", total=len(data), unit="img", wanted=progress) as bar,
    ):
        for start in range(0, len(data), _AT_ONCE):
            part = range(start, min(start + _AT_ONCE, len(data)))
            for index, found in zip(part, pool.map(digest, part), strict=True):
                if isinstance(found, bytes):
                    keys[index] = found
                else:
                    errors[index] = found
            bar.update(len(part))
    return keys, errors


def _content(sample: Any) -> bytes:
    """The digest of a sample as `TrainingData.read` gives it."""
    digest = hashlib.sha256()
    if isinstance(sample, Path):
        with open_regular(sample) as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    elif isinstance(sample, np.ndarray):
        digest.update(f"{sample.shape} {sample.dtype}".encode() + sample.tobytes())
    else:
        digest.update(sample)
    return digest.digest()[:16]


def _computed(
    describer: Describer, data: TrainingData, indices: list[int], batch_size: int, progress: bool
) -> Iterator[tuple[int, ndarray | None, str | None]]:
    """Position, vector and error of samples."""

    def prepare(index: Any) -> Tensor:
        try:
            return describer.prepare(data.read(index))
        except OSError as error:
            raise InputError(str(error)) from error

    options: dict[str, Any] = {"empty": describer.empty, "batch_size": batch_size, "progress": progress}
    places: list[Any] = list(indices)  # in the place of paths
    for row in map_rows(places, prepare, describer.vectors, **options):
        index: Any = row.path
        yield index, row.value, row.error
