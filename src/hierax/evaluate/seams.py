"""Seams: how much more neighbouring cells differ across the borders of windows than inside windows, stage by stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from .. import console
from ..config import PreprocessSpec
from ..data.datasets.open import open_data
from ..data.datasets.samples import ShapeData, TrainingData
from ..data.inputs import image_input
from ..errors import InputError, brief
from ..model.encoder import Encoder
from ..predictor import Predictor
from ..provenance import provenance
from ..registry import create
from ..schema import positive
from ..weights.adapt import at_size
from ..weights.card import ModelCard, Weights
from ..weights.network import from_module, to_module
from .borders import Period, Stage, border_ratios, stages_of
from .result import SeamScores
from .rows import named

_SEED = 97  # of the rendered images


def seams(
    models: Any = None,
    *,
    size: int | tuple[int, int] | None = None,
    data: Any = None,
    images: int = 4,
    random_weights: bool = False,
    progress: bool = False,
) -> SeamScores:
    """Measure how much the borders of windows show in the maps of a network.

    The measure is the mean distance of neighbouring cells across a border over that of neighbours with no border
    between them: 1 where windows leave no trace. A pair that crosses borders of several windows counts for the largest.
    The same of the pixels, averaged over cells, says what the images themselves have of it.

    Args:
        models: As for `knn`.
        size: Height and width of the inputs in pixels, multiples of 32; None is each network's own.
        data: Images, as for `pretrain`; None is rendered shapes.
        images: How many of them; the first.
        random_weights: Whether models are names of architectures, to be judged with random weights.
        progress: A progress bar.

    Returns:
        A row a network, stage and window, with `ratio`, its `spread` (standard deviation over images), and `pixels`;
        where windows are filled up with padding the `strip`, and `strip_ratio` at its border.

    Raises:
        UnknownNameError: No such network.
        InputError: No image can be read, an impossible size, an exported program, or a network of clips.
    """
    positive(images=images)
    settings = {"size": size, "images": images, "random_weights": random_weights}
    name = "rendered shapes" if data is None else str(data)
    scores = SeamScores("seams", {"name": name}, settings)
    for name, predictor in _untrained(models) if random_weights else named(models):
        network = _at_size(predictor, size)
        samples = _samples(data, images, network.encoder.input_size)
        scores.total = min(images, len(samples))
        found: list[_Ratios] = []
        with console.bar("seams", total=scores.total, unit="img", wanted=progress) as bar:
            for index in range(scores.total):
                try:
                    image = _input(network, samples.read(index), whole=data is None)
                    found.append(_ratios(network, image))
                except (InputError, OSError) as error:
                    scores.unreadable.append((samples.name(index), str(error) or type(error).__name__))
                bar.update(1)
        scores.unreadable = list(dict(scores.unreadable).items())
        if not found:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in scores.unreadable[:3])
            raise InputError(f"Seams are measured on images; none of the first {scores.total} can be read. {reasons}")
        about = {"model": name, "provenance": provenance(network)}
        scores.results += [{**about, **row} for row in _rows(network, found)]
    return scores


# By stage, of the map and of the pixels.
_Ratios = dict[int, tuple[dict[Period | str, float], dict[Period | str, float]]]


@torch.no_grad()
def _ratios(network: Predictor, x: Float[Tensor, "1 3 h w"]) -> _Ratios:
    """What the borders of every stage show in one image."""
    maps = network.encoder.stages(x)
    if not maps[-1].isfinite().all():
        raise InputError(network.not_finite(x.dtype))
    found = {}
    for stage, grid in zip(stages_of(network.encoder.config), maps, strict=True):
        pixels = F.avg_pool2d(x.float(), stage.stride).movedim(1, -1)[0]
        found[stage.number] = (border_ratios(_numbers(grid[0]), stage), border_ratios(_numbers(pixels), stage))
    return found


def _numbers(grid: Float[Tensor, "h w c"]) -> Float[ndarray, "h w c"]:
    return grid.float().cpu().numpy()


def _rows(network: Predictor, found: list[_Ratios]) -> Iterator[dict[str, Any]]:
    """A row for each stage and window."""
    config = network.encoder.config
    for stage in stages_of(config):
        own = [ratios[stage.number] for ratios in found]
        about = {"size": list(config.input_size), "stage": f"stage{stage.number}", "stride": stage.stride}
        about |= {"grid": list(stage.grid), "images": len(own), **_strip(stage, own)}
        for period in stage.periods or (None,):
            row: dict[str, Any] = {**about, "window": period and list(period), "ratio": None}
            if period is not None:
                ratios = np.array([maps[period] for maps, _ in own])
                row["ratio"] = float(ratios.mean())
                row["spread"] = float(ratios.std(ddof=1)) if len(ratios) > 1 else None
                row["pixels"] = float(np.mean([pixels[period] for _, pixels in own]))
            yield row


def _strip(stage: Stage, own: list[tuple[dict[Period | str, float], dict[Period | str, float]]]) -> dict[str, Any]:
    """What is known of the strip that padding enters; nothing where there is none."""
    if not any(stage.strip):
        return {"strip": None}
    ratio = float(np.mean([maps["strip"] for maps, _ in own]))
    return {"strip": {"bottom": stage.strip[0], "right": stage.strip[1]}, "strip_ratio": ratio}


def _untrained(models: Any) -> Iterator[tuple[str, Predictor]]:
    """Architectures with random weights, always the same."""
    names = [models] if isinstance(models, str) else list(models or [])
    if not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"Random weights are for names of architectures; got {brief(models)}. Try 'sam2_hiera_tiny'.")
    for name in names:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = create(name, num_classes=0)
        module = getattr(made, "encoder", made)
        spec = PreprocessSpec().with_size(module.config.input_size)
        card = ModelCard(name=name, config=module.config, preprocess=spec)
        yield f"{name}, random weights", Predictor(module, from_module(module, Weights(card=card)))


def _at_size(predictor: Predictor, size: Any) -> Predictor:
    """The network as it is built for a size: windows that are a fraction of the side follow it."""
    if not isinstance(predictor.encoder, Encoder):
        raise InputError(
            f"Seams are measured in a network; {predictor.card.name!r} is an exported program. Load the weights that "
            "it was made from."
        )
    if predictor.encoder.config.is_video:
        raise InputError(f"Seams are measured in maps of images; {predictor.card.name!r} takes clips.")
    if size is None or predictor.encoder.config.full_size(size) == predictor.encoder.input_size:
        return predictor
    weights = at_size(predictor.weights(), size)
    return Predictor(to_module(weights).to(predictor.device), weights)


def _samples(data: Any, images: int, size: tuple[int, ...]) -> TrainingData:
    if data is None:
        return ShapeData(images, _SEED, max(size))
    samples = open_data(data, labelled=False)
    for note in samples.notes:
        console.say(note)
    return samples


def _input(network: Predictor, image: Any, *, whole: bool) -> Float[Tensor, "1 3 h w"]:
    """An image as the network's input; `whole` without a crop."""
    spec = network.preprocess
    if whole:
        spec = dataclasses.replace(spec, resize="squash", crop_ratio=1.0, resize_to=None)
    parameter = next(network.encoder.parameters())
    return image_input(image, spec)[0][None].to(parameter.device, parameter.dtype)
