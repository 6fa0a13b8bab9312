"""A head from a few labelled images: logistic regression or nearest neighbours on frozen stage maps.

What it will be worth on a new image is measured by leaving each image out in turn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from .. import console
from ..dense.labels import balanced_choice
from ..dense.linear import Linear, fit, need_scikit_learn, split_by_stage, standard
from ..dense.maps import Dense, default_view
from ..errors import UnknownNameError, nearest
from ..registry import predictor_of
from .head import Head, described
from .samples import Samples, read_samples
from .votes import votes

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C: the inverse of the penalty
KINDS = ("linear", "knn")
_FOLDS = 5  # by which C is chosen
_DIRECTIONS = 64  # of the space in which cells are compared
_SUPPORT = 3000  # cells that a head of the kind "knn" holds
_MISSED = 0.1  # share of right pixels below which a class is as good as unknown
_Fit = Callable[[Float[ndarray, "n c"], Int[ndarray, " n"]], Callable[[Float[ndarray, "m c"]], Int[ndarray, " m"]]]


@dataclass(frozen=True)
class Left:
    """What was right in one image when the others alone were learned from.

    Attributes:
        name: The image.
        right: Labelled pixels that were right.
        pixels: Labelled pixels.
        unseen: Classes that no other image has, and that could not be right.
    """

    name: str
    right: int
    pixels: int
    unseen: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trained:
    """A head and how far to trust it.

    Attributes:
        head: The head.
        left: For each image what was right when it was left out; empty where there is one image.
        by_class: Share of right pixels of each class in that, by name; None where it was never judged.
        largest: Share of the labelled pixels that the largest class has.
        problems: Images and masks that were left out, as (name, reason).
        strength: C of the logistic regression.
    """

    head: Head
    left: tuple[Left, ...]
    by_class: dict[str, float | None]
    largest: float
    problems: tuple[tuple[str, str], ...] = ()
    strength: float | None = None

    @property
    def accuracy(self) -> float | None:
        """Share of labelled pixels that are right when their image is left out."""
        pixels = sum(each.pixels for each in self.left)
        return sum(each.right for each in self.left) / pixels if pixels else None

    @property
    def mean_accuracy(self) -> float | None:
        """The same, of each class by itself, and the mean: what is rare counts as much as what is everywhere."""
        known = [share for share in self.by_class.values() if share is not None]
        return sum(known) / len(known) if known else None

    @property
    def missed(self) -> list[str]:
        """Classes that are right in less than a tenth of their pixels when their image is left out."""
        return [name for name, share in self.by_class.items() if share is not None and share < _MISSED]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data."""
        return {
            "model": self.head.record.model,
            "kind": self.head.record.kind,
            "classes": [dataclasses.asdict(each) for each in self.head.classes],
            "accuracy": self.accuracy,
            "mean_accuracy": self.mean_accuracy,
            "largest_class": self.largest,
            "strength": self.strength,
            "left_out": [{**dataclasses.asdict(each), "accuracy": each.right / each.pixels} for each in self.left],
            "by_class": self.by_class,
            "problems": [{"path": name, "reason": reason} for name, reason in self.problems],
        }


def train(  # noqa: PLR0913 - a signature is a command's options
    labels: str | Path,
    model: Any = None,
    *,
    kind: str = "linear",
    classes: str | Path | None = None,
    unlabelled: str | int | None = None,
    stages: Sequence[str] | None = None,
    size: int | str | None = None,
    tile: int | None = None,
    balance: bool = False,
    neighbours: int = 20,
    seed: int = 0,
    progress: bool = False,
) -> Trained:
    """Make a head from labelled images.

    Args:
        labels: Folder of images and masks: scribbles, or whole masks.
        model: A source as for `hierax.load`, or a Predictor; None is the embedded model.
        kind: "linear" (logistic regression, needs the extra "eval") or "knn".
        classes: A file of classes; None is `classes.csv` or `classes.txt` in the folder, or what masks hold.
        unlabelled: The value of masks that means no class: a number, a colour "#rrggbb", or "none"; None is what the
            file of classes says, else 255 for numbers and black for colours. Clear pixels never mean a class.
        stages: Which maps; None is all.
        size: Pixels of the shorter side at which images are looked at, or "full"; None is the network's own.
        tile: Side of the tiles into which larger images are cut; None is twice the network's own.
        balance: Whether every class weighs the same, however little of it is drawn.
        neighbours: Labelled cells that vote, of the kind "knn".
        seed: Of the choice of cells, where more are labelled than can be used.
        progress: A progress bar.

    Raises:
        InputError: Labels that cannot be used; says which and why.
        MissingExtraError: scikit-learn is not installed.
    """
    if kind not in KINDS:
        raise UnknownNameError(f"Kinds of heads are {', '.join(KINDS)}; got {kind!r}. {nearest(kind, KINDS)}")
    if kind == "linear":
        need_scikit_learn()
    predictor = predictor_of(model)
    view = default_view(predictor, size, tile)
    dense = Dense(predictor, stages, view)
    samples = read_samples(labels, dense, classes=classes, unlabelled=unlabelled, seed=seed, progress=progress)
    learn = _Learn(samples, dense, balance, neighbours)
    strength = learn.strength(seed) if kind == "linear" else None
    method: _Fit = learn.linear(strength) if strength is not None else learn.knn
    left, by_class = _leave_out(samples, method, progress)
    rows, known = samples.joined()
    trained = learn.linear_map(rows, known, strength) if strength is not None else None
    scored = sum(each.pixels for each in left)
    about = {
        "images": len(samples.names),
        "accuracy": sum(each.right for each in left) / scored if scored else -1.0,
        "neighbours": neighbours,
    }
    record = described(dense, "linear" if trained else "knn", samples.classes, **about)
    head = Head(record, trained) if trained else Head(record, *learn.space(rows, known))
    largest = samples.pixels_by_class().max() / samples.pixels_by_class().sum()
    return Trained(head, left, by_class, float(largest), tuple(samples.problems), strength)


class _Learn:
    """Ways to learn from the same samples."""

    def __init__(self, samples: Samples, dense: Dense, balance: bool, neighbours: int) -> None:
        self.samples, self.channels, self.balance, self.neighbours = samples, dense.channels, balance, neighbours
        self.count = len(samples.classes)

    def linear_map(self, rows: ndarray, labels: ndarray, strength: float) -> Linear:
        """Logistic regression."""
        return fit(rows, labels, self.count, self.channels, strength=strength, balance=self.balance)

    def linear(self, strength: float) -> _Fit:
        """Logistic regression of one strength, as something that answers."""

        def learned(rows: ndarray, labels: ndarray) -> Callable[[ndarray], ndarray]:
            found = self.linear_map(rows, labels, strength)
            return lambda asked: found.of_rows(asked).argmax(1)

        return learned

    def knn(self, rows: ndarray, labels: ndarray) -> Callable[[ndarray], ndarray]:
        """Nearest neighbours, as something that answers."""
        space, support, known = self.space(rows, labels)

        def answer(asked: ndarray) -> ndarray:
            places = torch.from_numpy(space.of_rows(asked)).float()
            how = {"classes": self.count, "neighbours": self.neighbours}
            return votes(places, support, known, **how).argmax(1).numpy()

        return answer

    def space(self, rows: ndarray, labels: ndarray) -> tuple[Linear, torch.Tensor, torch.Tensor]:
        """The strongest directions of standardised features, and labelled cells there, of length 1."""
        chosen = balanced_choice(labels, _SUPPORT, np.random.default_rng(0))
        mean, deviation = standard(rows)
        scaled = (rows - mean) / deviation
        _, basis = np.linalg.eigh(scaled.T @ scaled)
        matrix = basis[:, ::-1][:, :_DIRECTIONS].T / deviation
        space = split_by_stage(matrix, -(matrix @ mean), self.channels)
        support = torch.from_numpy(space.of_rows(rows[chosen])).float()
        return space, torch.nn.functional.normalize(support, dim=1), torch.from_numpy(labels[chosen]).long()

    def strength(self, seed: int) -> float:
        """The C with most right pixels when images are left out in up to five groups; of equal ones the strongest."""
        count = len(self.samples.names)
        if count < 2:
            return 1e-2
        groups = np.random.default_rng(seed).permutation(count) % min(_FOLDS, count)
        right = np.zeros(len(STRENGTHS))
        for group in range(groups.max() + 1):
            rows, labels = self.samples.joined(np.flatnonzero(groups != group).tolist())
            for place, strength in enumerate(STRENGTHS):
                answer = self.linear(strength)(rows, labels)
                for image in np.flatnonzero(groups == group).tolist():
                    right[place] += self.samples.right(image, answer(self.samples.rows[image])).sum()
        return STRENGTHS[int(right.argmax())]


def _leave_out(samples: Samples, method: _Fit, progress: bool) -> tuple[tuple[Left, ...], dict[str, float | None]]:
    """What is right in each image when the others alone are learned from; by image and by class."""
    names = [each.name for each in samples.classes]
    count = len(samples.names)
    right, pixels = np.zeros(len(names), np.int64), np.zeros(len(names), np.int64)
    left = []
    with console.bar("leaving one out", total=count if count > 1 else 0, unit="img", wanted=progress) as bar:
        for image in range(count if count > 1 else 0):
            rows, labels = samples.joined([other for other in range(count) if other != image])
            own = samples.labels[image].counts.sum(0)
            hits = samples.right(image, method(rows, labels)(samples.rows[image]))
            seen = set(np.unique(labels).tolist())
            unseen = tuple(names[place] for place in np.flatnonzero(own) if place not in seen)
            left.append(Left(samples.names[image], int(hits.sum()), int(own.sum()), unseen))
            right, pixels = right + hits, pixels + own
            bar.update()
    shares = {n: float(r / p) if p else None for n, r, p in zip(names, right.tolist(), pixels.tolist(), strict=True)}
    return tuple(left), shares if left else dict.fromkeys(names)
