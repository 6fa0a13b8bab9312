"""The pictures of a run; one that fails never stops it: hours of training are worth more."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..data.datasets.samples import TrainingData
from ..data.decode import decode_image
from ..errors import HieraxError, MissingExtraError
from ..model.metrics import Accuracy
from ..visualize import charts, sheets
from ..visualize.charts import Points
from .batches import Part, Views
from .bounds import Levels
from .devices import Devices
from .methods import Method
from .report import PROBE

_log = logging.getLogger(__name__)
_LOOKED_AT = 10_000  # samples among which those of a method's picture are chosen
_CLASSES = 2000  # a larger confusion matrix takes gigabytes to draw and cannot be read
_MISTAKES = 16  # on the sheet


def draw_run(
    losses: Sequence[float],
    baseline: float | None,
    result: Accuracy | None,
    classes: Sequence[str],
    folder: Path,
    *,
    step: int,
    levels: Levels | None = None,
) -> list[str]:
    """Write `curves.png`, and after validation `confusion.png` and `mistakes.png`; which there are not, and why."""
    measured = result if result is not None and result.total else None
    if measured is not None:
        with at_most_a_warning("mistakes.png"):
            images, captions = [], []
            for confidence, name, truth, answer, index, _ in measured.worst[:_MISTAKES]:
                with contextlib.suppress(HieraxError, OSError):  # a clip, or a file that is gone
                    images.append(decode_image(measured.data.read(index)))
                    seen = f"labelled {classes[truth]}\nseen as {classes[answer]} {confidence:.2f}"
                    captions.append(f"{PurePosixPath(name).name}\n{seen}")
            if images:
                wrong = measured.total - measured.correct1
                shown = f"the {len(images)} surest of them" if len(images) < wrong else "the surest first"
                note = f"{wrong} of {measured.total} answered wrong; {shown}."
                sheet = sheets.stack_sheets([sheets.contact_sheet(images, captions)], note=note)
                sheets.write_picture(sheet, folder / "mistakes.png")
    if importlib.util.find_spec("matplotlib") is None:
        return [f"charts are not drawn. {MissingExtraError('viz', 'matplotlib')}"]
    if losses:
        with at_most_a_warning("curves.png"):
            below, validation = history(folder / "log.jsonl", step, measured)
            found, levels = logged(folder / "log.jsonl", levels or {}), levels or {}
            below |= {name.replace("_", " "): points for name, points in found.items()}
            known = {name.replace("_", " "): level for name, level in levels.items()}
            shown = {"baseline": baseline, "validation": validation, "below": below, "levels": known}
            charts.training_curves(losses, folder / "curves.png", **shown)
    if measured is not None and len(classes) > _CLASSES:
        return [f"confusion.png is not drawn: {len(classes)} classes are more than the {_CLASSES} that can be read"]
    if measured is not None:
        with at_most_a_warning("confusion.png"):
            matrix = np.zeros((len(classes), len(classes)), dtype=np.int64)
            for (truth, answer), count in measured.confusion.items():
                matrix[truth, answer] = count
            charts.confusion(matrix, classes, folder / "confusion.png")
    return []


def history(log: Path, step: int, result: Accuracy | None) -> tuple[dict[str, Points], Points]:
    """Accuracy and learning rate by step, by name, and the validation's loss: as logged, and of the result.

    Args:
        log: The log of the run.
        step: Steps after which the weights of the result were.
        result: What was measured of them.
    """
    names = {
        "validation_top1": "Validation top-1", PROBE: "kNN probe", "lr": "Learning rate", "validation_loss": "loss",
    }  # fmt: skip
    found: dict[str, dict[int, float]] = {name: {} for name in names.values()}
    for line in log.read_text("utf-8").splitlines() if log.is_file() else ():
        record = json.loads(line)
        for key, name in names.items():
            if isinstance(value := record.get(key), (int, float)):
                found[name][record["step"]] = value
    if result is not None:
        found["Validation top-1"][step], found["loss"][step] = result.top1, result.loss
    points = {name: sorted(values.items()) for name, values in found.items()}
    loss = points.pop("loss")
    return dict(points), loss


def logged(log: Path, names: Iterable[str]) -> dict[str, Points]:
    """Values of these names by step, as logged; of those that were."""
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in names}
    for line in log.read_text("utf-8").splitlines() if found and log.is_file() else ():
        record = json.loads(line)
        for name, points in found.items():
            if isinstance(value := record.get(name), (int, float)):
                points.append((record["step"], value))
    return {name: points for name, points in found.items() if points}


def draw_method(method: Method, views: Views, devices: Devices, folder: Path) -> None:
    """Write the method's own picture, always of the same views.

    The main process writes. Where weights are spread over processes, all of them must compute.
    """
    if method.picture is None or not (devices.main or devices.sharded):
        return
    part = None
    with at_most_a_warning(method.picture):
        part = first_views(views, method.shown)
    empty = part is None or not len(part)
    found = devices.gather(empty) if devices.sharded else [empty]  # first: a process that leaves alone hangs the others
    if part is None or any(found):
        return
    with at_most_a_warning(method.picture):
        sheet = method.draw(part)
        if devices.main:
            sheets.write_picture(sheet, folder / method.picture)


def first_views(views: Views, count: int) -> Part:
    """One view of each of a few samples of several classes."""
    items = [views[index, 0] for index in spread(views.data, count)]
    return views.collate([(draw, found if isinstance(found, str) else found[:1]) for draw, found in items])


def spread(data: TrainingData, count: int) -> list[int]:
    """Positions of a few samples, of as many classes as there are, or folders where there are no classes."""
    groups: dict[Any, list[int]] = {}
    for index in np.unique(np.linspace(0, len(data) - 1, min(len(data), _LOOKED_AT)).round().astype(int)).tolist():
        label = int(data.labels[index])
        groups.setdefault(PurePosixPath(data.name(index)).parent if label < 0 else label, []).append(index)
    members = list(groups.values())
    if len(members) > count:
        members = [members[place] for place in np.linspace(0, len(members) - 1, count).round().astype(int)]
    in_turn = [index for turn in itertools.zip_longest(*members) for index in turn if index is not None]
    return sorted(in_turn[:count])


@contextlib.contextmanager
def at_most_a_warning(name: str) -> Iterator[None]:
    """Turn whatever goes wrong into a warning."""
    try:
        yield
    except Exception as error:
        _log.warning("%s was not drawn, the run goes on: %s: %s", name, type(error).__name__, error)
