"""The charts of a page, as SVG that follows the page's colours and fonts, and thumbnails as data URLs."""

from __future__ import annotations

import base64
import io
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Int, UInt8
from numpy import ndarray
from PIL import Image

from . import charts

_MOST_POINTS = 1500  # of a line: more than any screen shows
_FONT = re.compile(r"font: (?:[a-z ]*?)([0-9.]+px) [^;]*;? ?")  # the short form names size and family at once
_SIZE = (4.3, 2.6)  # inches: at the width of a phone its type is as small as a caption's
# What takes the place of a colour: a variable of the page, which has other values in the dark.
_THEME = {
    charts.BLUE: "--blue", charts.RED: "--red", charts.ORANGE: "--orange", charts.INK: "--ink",
    charts.FAINT: "--faint", charts.RULE: "--rule", "#c8cad0": "--rule",
}  # fmt: skip


def loss_figure(losses: Sequence[float], *, baseline: float | None, validation: charts.Points) -> str:
    """Loss of every step, and of the validation, as SVG.

    Raises:
        InputError: No loss is finite.
        MissingExtraError: matplotlib is not installed.
    """
    values = charts.finite_losses(losses)

    def draw(path: Path) -> None:
        with charts.canvas(path, _SIZE) as (axes,):
            charts.draw_loss(axes, values, baseline=baseline, validation=validation, most=_MOST_POINTS)
            axes.set(title="", xlabel="step")

    return _svg(draw, "Loss by step")


def series_figure(
    points: charts.Points, *, title: str, percent: bool = False, best: int | None = None, level: float | None = None
) -> str:
    """Values by step as SVG.

    Args:
        points: (step, value).
        title: What it is called for those who cannot see it.
        percent: Whether values are shares.
        best: Step whose value is marked, among others.
        level: Where a dashed line is drawn.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    kept = charts.extremes(np.array([value for _, value in points], np.float64), _MOST_POINTS)

    def draw(path: Path) -> None:
        with charts.canvas(path, _SIZE) as (axes,):
            charts.draw_series(axes, [points[k] for k in kept], level=level)
            axes.set_xlabel("step")
            if percent:
                axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}%")
            if best is not None and len(points) > 1:
                axes.plot(
                    [best], [dict(points)[best]], marker="o", ms=9, mfc="none", mec=charts.ORANGE, mew=1.8, ls="none"
                )

    return _svg(draw, title)


def confusion_figure(counts: Int[ndarray, "classes classes"], classes: Sequence[str]) -> str:
    """A confusion matrix as SVG; what is drawn is what `charts.confusion` draws, without a list of pairs.

    Raises:
        InputError: The matrix does not have one row and column per class.
        MissingExtraError: matplotlib is not installed.
    """
    side = charts.matrix_side(counts, classes)

    def draw(path: Path) -> None:
        with charts.canvas(path, (side, side)) as (axes,):
            charts.draw_confusion(axes, counts, classes)
            axes.set_title("")

    return _svg(draw, "Confusion matrix")


def _svg(draw: Callable[[Path], None], title: str) -> str:
    """What a chart draws, as an element of a page; only attributes are changed, whatever its texts say."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "chart.svg")
        draw(path)
        root = ElementTree.parse(path).getroot()
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        known = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        if "style" in known:
            known["style"] = _themed(known["style"])
        if element.tag == "g":
            known.pop("id", None)  # figure_1 and the like, the same in every chart
        element.attrib = known
    for styles in root.findall("defs"):
        for style in styles.findall("style"):
            styles.remove(style)  # it would apply to the whole page
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": title}
    return ElementTree.tostring(root, encoding="unicode")


def _themed(style: str) -> str:
    for color, name in _THEME.items():
        style = style.replace(color, f"var({name})")
    return re.sub(r"font-family: [^;]*", "font-family: inherit", _FONT.sub(r"font-size: \1; ", style))


def thumbnail(image: UInt8[ndarray, "h w 3"], side: int, *, quality: int = 80) -> str:
    """A picture of at most `side` pixels a side as a data URL."""
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
