"""Which explanations to trust, measured: insertion and deletion areas, and a pointing game where objects are known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from .. import console
from ..data.datasets.open import open_data
from ..data.datasets.samples import TrainingData
from ..data.inputs import image_input
from ..data.masks import mask_size, read_mask
from ..data.placing import placed
from ..errors import InputError, UnknownNameError, brief, nearest
from ..model.explainers import EXPLAINERS, heat_maps, predicted, readable, stage_index
from ..predictor import Predictor
from ..provenance import provenance
from ..schema import positive
from .areas import deletion_and_insertion
from .result import ExplanationScores
from .rows import named

RANDOM, CENTRE = "random", "centre"
MEASURES = ("deletion", "insertion", "pointing", "inside")


@dataclass(frozen=True)
class _Sample:
    """One image, ready to be explained.

    Attributes:
        x: The network's input, of one image.
        size: Height and width of the image.
        mask: Its object; None where nobody knows.
    """

    x: Float[Tensor, "1 3 h w"]
    size: tuple[int, int]
    mask: Bool[ndarray, "h w"] | None


def explanations(  # noqa: PLR0913 - a signature is a command's options
    data: Any,
    models: Any = None,
    *,
    methods: Sequence[str] = tuple(EXPLAINERS),
    stage: str | None = None,
    images: int = 50,
    seeds: int = 3,
    steps: int = 20,
    masks: str | Path | None = None,
    progress: bool = False,
) -> ExplanationScores:
    """Measure how well maps say where the most probable class of an image comes from.

    Each seed draws images and random maps anew: the spread is the standard deviation over seeds of their means.

    Args:
        data: Images, labelled or not, as for `pretrain`; of "shapes:COUNT@SEED" the objects are known.
        models: A source as for `hierax.load`, a Predictor, several of these, or a dict of them by name.
        methods: Of "rollout", "gradcam" and "occlusion".
        stage: Whose cells, "stage1" to "stage4"; None is each method's own.
        images: How many for each seed, at most all.
        seeds: How many.
        steps: Parts in which an image is deleted and inserted.
        masks: A folder with a PNG for each image, of the same name and size, in which 0 is not the object.
        progress: A progress bar.

    Returns:
        A row a method, one of random maps, one that names the centre, with the mean probability while the image is
        deleted and inserted, the share of images with the largest value on the object, the share of the map on it.

    Raises:
        UnknownNameError: No such method.
        InputError: No image can be read, a network without classes or of clips, an exported program, or an impossible
            number.
    """
    positive(images=images, seeds=seeds, steps=steps)
    methods = _known(methods)
    samples = open_data(data, labelled=False)
    for note in samples.notes:
        console.say(note)
    draws = [_drawn(len(samples), images, seed) for seed in range(seeds)]
    folder = None if masks is None else _existing(masks)
    settings = {"methods": methods, "stage": stage, "images": len(draws[0]), "seeds": seeds, "steps": steps}
    scores = ExplanationScores("explanations", _about(data, samples), settings, total=len({*np.concatenate(draws)}))
    for name, predictor in named(models):
        judge = _Judge(predictor, samples, methods, stage, steps, folder)
        with console.bar("explaining", total=scores.total, unit="img", wanted=progress) as bar:
            scores.results += judge.rows(name, draws, bar.update)
        scores.unreadable = list((dict(scores.unreadable) | judge.unreadable).items())
        scores.data["object"] = judge.object_share
    return scores


class _Judge:
    """Judges the maps of one network."""

    def __init__(
        self,
        predictor: Predictor,
        data: TrainingData,
        methods: Sequence[str],
        stage: str | None,
        steps: int,
        masks: Path | None,
    ) -> None:
        self.predictor, self.data, self.steps, self.masks = predictor, data, steps, masks
        self.encoder = readable(predictor.encoder, predictor.card.name)
        if not self.encoder.num_classes:
            raise InputError(
                f"Explanations are judged by what becomes of a class; {predictor.card.name!r} has none. Use a "
                "checkpoint with classes (`hierax list`)."
            )
        self.methods, self.stage = methods, None if stage is None else stage_index(self.encoder, stage)
        self.unreadable: dict[str, str] = {}
        self._shares: dict[int, float] = {}

    @property
    def object_share(self) -> float | None:
        """Mean share of an image that is its object, which is what pointing anywhere hits."""
        return float(np.mean(list(self._shares.values()))) if self._shares else None

    def rows(self, name: str, draws: Sequence[Sequence[int]], done: Callable[[int], Any]) -> list[dict[str, Any]]:
        """A row for each method and baseline: means over seeds of the means over images, and their spread.

        Raises:
            InputError: No image can be read.
        """
        found: dict[str, list[dict[int, dict[str, float]]]] = {}
        for index in sorted({index for draw in draws for index in draw}):
            sample = self._sample(index)
            done(1)
            if sample is None:
                continue
            seeds = [seed for seed, draw in enumerate(draws) if index in draw]
            for method, of_seeds, cells in self._maps(sample, index, seeds):
                kept, measured = found.setdefault(method, [{} for _ in draws]), self._measured(sample, cells)
                for seed in of_seeds:
                    kept[seed][index] = measured
        if not found or not all(found[RANDOM]):
            reasons = "; ".join(f"{name}: {reason}" for name, reason in list(self.unreadable.items())[:3])
            raise InputError(f"Explanations are judged on images; a seed has drawn none that can be read. {reasons}")
        about = {"model": name, "provenance": provenance(self.predictor)}
        return [{**about, "method": method, **_summary(kept)} for method, kept in found.items()]

    def _sample(self, index: int) -> _Sample | None:
        try:
            x, size = image_input(self.data.read(index), self.predictor.preprocess)
            mask = self.data.mask(index) if self.masks is None else self._mask(index, size)
        except (InputError, OSError, MemoryError) as error:
            self.unreadable[self.data.name(index)] = str(error) or type(error).__name__
            return None
        if mask is not None:
            self._shares[index] = float(mask.mean())
        parameter = next(self.encoder.parameters())
        return _Sample(x[None].to(parameter.device, parameter.dtype), size, mask)

    def _mask(self, index: int, size: tuple[int, int]) -> Bool[ndarray, "h w"] | None:
        """The object as a file says; None where there is no such file, or no object in it."""
        path = (self.masks or Path()) / Path(self.data.name(index)).with_suffix(".png")
        if not path.is_file():
            return None
        if (own := mask_size(path)) != size:
            raise InputError(f"A mask must be as large as its image, {size}; {path} is {own} (height, width).")
        mask = read_mask(path).values > 0
        return mask if mask.any() else None

    def _maps(self, sample: _Sample, index: int, seeds: list[int]) -> Iterator[tuple[str, list[int], ndarray]]:
        """Every method and baseline: its name, the seeds that one map is for, and the map."""
        classes = predicted(self.encoder, sample.x)
        for method in self.methods:
            cells = heat_maps(method, self.encoder, sample.x, classes, self.stage)[0].cpu().numpy()
            if not np.isfinite(cells).all():
                raise InputError(self.predictor.not_finite(sample.x.dtype))
            yield method, seeds, cells
        stride = self.encoder.strides[-2]
        grid = (sample.x.shape[2] // stride, sample.x.shape[3] // stride)
        for seed in seeds:
            yield RANDOM, [seed], np.random.Generator(np.random.PCG64([seed, index])).random(grid)
        rows, columns = (np.abs(np.arange(side) + 0.5 - side / 2) / side for side in grid)
        yield CENTRE, seeds, 1 - np.hypot(rows[:, None], columns)

    def _measured(self, sample: _Sample, cells: Float[ndarray, "rows columns"]) -> dict[str, float]:
        """What each measure says of one map."""
        deletion, insertion = deletion_and_insertion(self.encoder, sample.x, cells, steps=self.steps)
        found = {"deletion": deletion, "insertion": insertion}
        if sample.mask is not None:
            values = placed(cells, sample.size, self.predictor.preprocess)
            found["pointing"] = float(sample.mask.flat[int(values.argmax())])
            positive_part = np.maximum(values, 0)
            if positive_part.any():
                found["inside"] = float(positive_part[sample.mask].sum() / positive_part.sum())
        return found


def _known(methods: Any) -> list[str]:
    """Methods by name, each once."""
    wanted = [methods] if isinstance(methods, str) else list(methods) if isinstance(methods, Iterable) else []
    if not wanted:
        raise InputError(f"Methods are at least one of {', '.join(EXPLAINERS)}; got {brief(methods)}.")
    for method in wanted:
        if not isinstance(method, str) or method not in EXPLAINERS:
            hint = nearest(str(method), EXPLAINERS)
            raise UnknownNameError(f"Methods are {', '.join(EXPLAINERS)}; got {brief(method)}. {hint}".strip())
    return list(dict.fromkeys(wanted))


def _summary(kept: Sequence[dict[int, dict[str, float]]]) -> dict[str, Any]:
    """Means over seeds, standard deviations, and the numbers of each seed."""
    seeds = []
    for seed, images in enumerate(kept):
        own: dict[str, Any] = {"seed": seed, "images": len(images)}
        for measure in MEASURES:
            values = [found[measure] for found in images.values() if measure in found]
            if values:
                own[measure] = float(np.mean(values))
                own[f"{measure}_images"] = len(values)
        seeds.append(own)
    row: dict[str, Any] = {"images": len({index for images in kept for index in images}), "seeds": seeds}
    for measure in MEASURES:
        means = [own[measure] for own in seeds if measure in own]
        if means:
            row[measure] = float(np.mean(means))
            row[f"{measure}_spread"] = float(np.std(means, ddof=1)) if len(means) > 1 else None
    return row


def _drawn(count: int, images: int, seed: int) -> list[int]:
    """Which of the images a seed draws, in order."""
    rng = np.random.Generator(np.random.PCG64([seed, 2]))
    return sorted(rng.permutation(count)[:images].tolist())


def _existing(folder: str | Path) -> Path:
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise InputError(f"masks is a folder with a PNG for each image; {str(folder)!r} is none.")
    return path


def _about(data: Any, samples: TrainingData) -> dict[str, Any]:
    """What is judged."""
    name = str(data) if isinstance(data, (str, Path)) else type(data).__name__
    return {"name": name, "images": len(samples), "fingerprint": samples.fingerprint()}
