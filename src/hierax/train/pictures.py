"""The pictures of a run; one that fails never stops it: hours of training are worth more."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from ..data.decode import decode_image
from ..errors import HieraxError, MissingExtraError
from ..model.metrics import Accuracy
from ..visualize import charts, sheets
from .batches import Part, Views
from .devices import Devices
from .methods import Method

_log = logging.getLogger(__name__)
_CLASSES = 2000  # a larger confusion matrix takes gigabytes to draw and cannot be read


def draw_run(
    losses: Sequence[float], baseline: float | None, result: Accuracy | None, classes: Sequence[str], folder: Path
) -> list[str]:
    """Write `curves.png`, and after validation `confusion.png` and `mistakes.png`; which there are not, and why."""
    notes = []
    if result is not None and result.total:
        with _at_most_a_warning("mistakes.png"):
            images, captions = mistakes(result, classes)
            if images:
                sheets.write_picture(sheets.contact_sheet(images, captions), folder / "mistakes.png")
    if importlib.util.find_spec("matplotlib") is None:
        return [f"charts are not drawn. {MissingExtraError('viz', 'matplotlib')}"]
    if losses:
        with _at_most_a_warning("curves.png"):
            charts.training_curves(losses, folder / "curves.png", baseline=baseline)
    if result is not None and result.total and len(classes) > _CLASSES:
        notes = [f"confusion.png is not drawn: {len(classes)} classes are more than the {_CLASSES} that can be read"]
    elif result is not None and result.total:
        with _at_most_a_warning("confusion.png"):
            charts.confusion(counts(result, len(classes)), classes, folder / "confusion.png")
    return notes


def draw_method(method: Method, views: Views, devices: Devices, folder: Path) -> None:
    """Write the method's own picture, always of the same views.

    The main process writes. Where weights are spread over processes, all of them must compute.
    """
    if method.picture is None or not (devices.main or devices.sharded):
        return
    part = None
    with _at_most_a_warning(method.picture):
        part = first_views(views, method.shown)
    empty = part is None or not len(part)
    found = devices.gather(empty) if devices.sharded else [empty]  # first: a process that leaves alone hangs the others
    if part is None or any(found):
        return
    with _at_most_a_warning(method.picture):
        sheet = method.draw(part)
        if devices.main:
            sheets.write_picture(sheet, folder / method.picture)


def counts(result: Accuracy, classes: int) -> Int[np.ndarray, "classes classes"]:
    """The confusion matrix, true classes in rows."""
    matrix = np.zeros((classes, classes), dtype=np.int64)
    for (truth, answer), count in result.confusion.items():
        matrix[truth, answer] = count
    return matrix


def mistakes(result: Accuracy, classes: Sequence[str]) -> tuple[list[UInt8[np.ndarray, "h w 3"]], list[str]]:
    """Images of the most confident mistakes, and what to write below them."""
    images, captions = [], []
    for confidence, _, truth, answer, index in result.worst:
        try:
            images.append(decode_image(result.data.read(index)))
        except (HieraxError, OSError):  # a clip, or a file that is gone
            continue
        captions.append(f"{confidence:.0%} {classes[answer]}\nis {classes[truth]}")
    return images, captions


def first_views(views: Views, count: int) -> Part:
    """One view of each of the first samples."""
    items = [views[index, 0] for index in range(min(count, len(views.data)))]
    return views.collate([(draw, found if isinstance(found, str) else found[:1]) for draw, found in items])


@contextlib.contextmanager
def _at_most_a_warning(name: str) -> Iterator[None]:
    """Turn whatever goes wrong into a warning."""
    try:
        yield
    except Exception as error:
        _log.warning("%s was not drawn, the run goes on: %s: %s", name, type(error).__name__, error)
