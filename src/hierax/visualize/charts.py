"""Charts of a training run, drawn by matplotlib (extra "viz"); equal numbers give equal bytes.

Each is one picture; what draws into axes serves the charts of a page (`hierax.visualize.figures`) too.
"""

from __future__ import annotations

import contextlib
import itertools
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from ..atomic import atomic_file
from ..errors import InputError, MissingExtraError, writing

Points: TypeAlias = Sequence[tuple[int, float]]  # (step, value)
BLUE, RED, ORANGE, INK, FAINT, RULE, PAPER = (
    "#2662c4", "#ce3c28", "#c06a00", "#20242c", "#7a808a", "#e4e5e7", "#fcfcfa",
)  # fmt: skip
_LOG_FROM = 30  # largest over smallest loss at which the low end of a linear axis can no longer be read
_PAIRS_FROM, _PAIRS = 30, 10  # classes from which on confused pairs are listed, and how many
_SMOOTHED_FROM, _MEAN_OF = 100, 5  # steps from which on a mean is drawn, and the fewest that it is of
_COUNTS_UP_TO, _LABELS_UP_TO = 20, 60  # classes whose cells have room for a count, and labels that fit on an axis
_SMALL_LABELS_UP_TO = 100  # classes that all have a label, in small type; of more, some have one
_CELLS_UP_TO = 300  # classes whose cells are larger than a pixel of the picture
_STYLE = {
    "agg.path.chunksize": 10_000,  # without it Agg refuses noisy lines of some hundred thousand points
    "axes.edgecolor": "#c8cad0",
    "axes.labelcolor": FAINT,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11.0,
    "figure.facecolor": PAPER,
    "font.size": 9.0,
    "savefig.dpi": 130,
    "text.color": INK,
    "svg.fonttype": "none",  # text stays text: the reader's fonts have every script
    "svg.hashsalt": "hierax",
    "xtick.color": FAINT,
    "ytick.color": FAINT,
}


def training_curves(
    losses: Sequence[float],
    path: Path,
    *,
    baseline: float | None = None,
    validation: Points = (),
    below: Mapping[str, Points] = types.MappingProxyType({}),
    levels: Mapping[str, tuple[float | None, str]] = types.MappingProxyType({}),
) -> None:
    """Draw the loss of every step, faintly, and its moving mean; values that are not finite leave a gap.

    Args:
        losses: Loss of step 1, 2, ...
        path: Image file to write.
        baseline: The loss at which nothing has been learned, drawn as a dashed line.
        validation: Loss of the validation, as (step, value).
        below: What is drawn in panels of its own below the loss, by name, as (step, value); without values no panel.
        levels: Of some of these panels a value to hold theirs against, drawn as a dashed line, and what it is.

    Raises:
        InputError: No loss is finite.
        MissingExtraError: matplotlib is not installed.
    """
    values = finite_losses(losses)
    panels = {name: points for name, points in below.items() if points}
    with canvas(path, (8, 4.5 + 1.3 * len(panels)), panels=len(panels)) as (axes, *lower):
        draw_loss(axes, values, baseline=baseline, validation=validation)
        for (name, points), panel in zip(panels.items(), lower, strict=True):
            level, kind = levels.get(name, (None, ""))
            draw_series(panel, points, level=level)
            told = "" if level is None else f" (dashed: {kind}, {level:.4g})"
            panel.set_title(f"{name}: {points[-1][1]:.4g}{told}", fontsize=9.0)
            panel.set_xlim(axes.get_xlim())
        (lower[-1] if lower else axes).set_xlabel("step")


def finite_losses(losses: Sequence[float]) -> Float[ndarray, " n"]:
    """Losses with NaN for what is not finite.

    Raises:
        InputError: None is finite.
    """
    values = np.asarray(losses, np.float64)
    values = np.where(np.isfinite(values), values, np.nan)
    if np.isnan(values).all():
        raise InputError(f"Curves need at least one finite loss; none of {len(values)} is.")
    return values


def draw_loss(
    axes: Any,
    values: Float[ndarray, " n"],
    *,
    baseline: float | None = None,
    validation: Points = (),
    most: int | None = None,
) -> None:
    """Draw the loss of every step, faintly, its moving mean, and the loss of the validation.

    Args:
        axes: Where.
        values: Loss of step 1, 2, ..., as `finite_losses` gives them.
        baseline: The loss at which nothing has been learned.
        validation: Loss of the validation, as (step, value).
        most: Points that a line may have: of longer ones the extremes of equal pieces are drawn.
    """
    window = max(_MEAN_OF, len(values) // 50) if len(values) >= _SMOOTHED_FROM else 1
    means, steps = smoothed(values, window), np.arange(1, len(values) + 1)
    measured = [value for _, value in validation if np.isfinite(value)]
    spread = [*means[~np.isnan(means)], *measured, *([] if baseline is None else [baseline])]
    alone, shown = window == 1, extremes(values, most or len(values))
    dots = "o" if len(values) < 50 else None  # a line alone shows nothing of a value between two gaps
    faint = {"alpha": 1 if alone else 0.3, "color": BLUE, "lw": 1, "label": "loss"}
    axes.plot(steps[shown], values[shown], marker=dots, ms=3.5, **faint)
    if not alone:
        kept = extremes(means, most or len(values))
        axes.plot(steps[kept], means[kept], color=BLUE, lw=2, label=f"mean of {window} steps")
    if measured:
        dots = "o" if len(validation) < 50 else None
        axes.plot(*zip(*validation, strict=True), marker=dots, ms=4, color=ORANGE, lw=1.5, label="validation")
    if baseline is not None:
        axes.axhline(baseline, color=FAINT, ls="--", lw=1.2, label=f"nothing learned ({baseline:.4g})")
    if np.nanmin(values) > 0 and min(measured, default=1) > 0 and max(spread) > _LOG_FROM * min(spread) > 0:
        axes.set_yscale("log")
    last = np.flatnonzero(~np.isnan(means))[-1]
    axes.set_title(f"Training loss: {means[last]:.4g} at step {last + 1:,}")
    axes.legend(loc="best", frameon=False)
    _plain(axes)


def draw_series(axes: Any, points: Points, *, level: float | None = None) -> None:
    """Draw values by step, and a dashed line at a level."""
    at, seen = zip(*points, strict=True)
    if level is not None:
        axes.axhline(level, color=FAINT, ls="--", lw=1.2)
    axes.plot(at, seen, color=BLUE, lw=1.5, marker="o" if len(at) < 50 else None, ms=3.5)
    _plain(axes)


def _plain(axes: Any) -> None:
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(color=RULE, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def extremes(values: Float[ndarray, " n"], most: int) -> Int[ndarray, " kept"]:
    """Places of the smallest and largest value of equal pieces, at most `most` in all: what a thinned line keeps."""
    if len(values) <= most:
        return np.arange(len(values))
    edges = np.linspace(0, len(values), max(1, most // 2) + 1).astype(int)
    kept = set()
    for start, stop in itertools.pairwise(edges):
        piece = values[start:stop]
        if np.isnan(piece).all():
            kept.add(int(start))  # a gap stays one
        else:
            kept |= {int(start + np.nanargmin(piece)), int(start + np.nanargmax(piece))}
    return np.array(sorted(kept))


def smoothed(values: Float[ndarray, " n"], window: int) -> Float[ndarray, " n"]:
    """The mean of each value and the `window - 1` before it, of those that are known; NaN before step `window`."""
    known = ~np.isnan(values)
    sums, counts = (np.cumsum([0, *series]) for series in (np.where(known, values, 0), known))
    means = np.full(len(values), np.nan)
    count = counts[window:] - counts[:-window]
    np.divide(sums[window:] - sums[:-window], count, out=means[window - 1 :], where=count > 0)
    return means


def confusion(matrix: Int[ndarray, "classes classes"], classes: Sequence[str], path: Path) -> None:
    """Draw counts by true class (rows) and answered class (columns): right answers blue, mistakes red.

    The shade is the share of the row; a few classes have their counts in the cells, many have only some labels, and
    the pairs that are confused most often are listed below.

    Args:
        matrix: Counts.
        classes: One name per class.
        path: Image file to write.

    Raises:
        InputError: The matrix is not square, is empty, or does not have one row per class.
        MissingExtraError: matplotlib is not installed.
    """
    counts = np.asarray(matrix)
    side = matrix_side(counts, classes)
    with canvas(path, (side, side)) as (axes,):
        draw_confusion(axes, counts, classes)
        names = [shortened(name) for name in classes]
        if len(classes) >= _PAIRS_FROM and (pairs := worst_pairs(counts, names)):
            axes.set_xlabel("\n".join(["answered", "", *pairs]), parse_math=False)


def matrix_side(counts: Int[ndarray, "classes classes"], classes: Sequence[str]) -> float:
    """Inches of a side at which a confusion matrix can be read.

    Raises:
        InputError: The matrix is not square, is empty, or does not have one row per class.
    """
    total = len(classes)
    if not total or counts.shape != (total, total):
        raise InputError(f"A confusion matrix has one row and column per class; got {counts.shape}, {total} classes.")
    return float(np.clip(2 + 0.4 * total, 4.5, 12))


def draw_confusion(axes: Any, counts: Int[ndarray, "classes classes"], classes: Sequence[str]) -> None:
    """Draw a confusion matrix, as `confusion` does, without a list of pairs."""
    total = len(classes)
    names = [shortened(name) for name in classes]
    labelled = np.arange(0, total, -(-total // (_LABELS_UP_TO if total > _SMALL_LABELS_UP_TO else total)))
    # A page holds a cell as a pixel, however large it is shown; of very many cells a picture needs means.
    axes.imshow(shades(counts), aspect="equal", interpolation="none" if total <= _CELLS_UP_TO else "auto")
    size = next(size for size, most in ((9, _COUNTS_UP_TO), (7, _LABELS_UP_TO), (5.5, total)) if total <= most)
    small = {"fontsize": size, "color": INK, "parse_math": False}
    axes.set_xticks(labelled, [names[k] for k in labelled], rotation=90, **small)
    axes.set_yticks(labelled, [names[k] for k in labelled], **small)
    right, seen = np.trace(counts), counts.sum()
    axes.set(xlabel="answered", ylabel="true", title=f"{right:,.0f} of {seen:,.0f} right ({right / max(seen, 1):.1%})")
    if total > _COUNTS_UP_TO:
        return
    axes.set_xticks(np.arange(1, total) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, total) - 0.5, minor=True)
    axes.grid(which="minor", color=RULE, lw=0.8)
    axes.tick_params(which="minor", length=0)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    for row, column in zip(*np.nonzero(counts), strict=True):
        ink = PAPER if shares[row, column] > 0.45 else INK
        axes.text(column, row, f"{counts[row, column]:.4g}", color=ink, ha="center", va="center", fontsize=8)


def worst_pairs(counts: Int[ndarray, "classes classes"], names: Sequence[str]) -> list[str]:
    """The mistakes made most often, a line each; of equally frequent ones the larger share of their class first."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    wrong = [(counts[k, j], shares[k, j], k, j) for k, j in zip(*np.nonzero(counts), strict=True) if k != j]
    worst = sorted(wrong, key=lambda pair: (-pair[0], -pair[1]))[:_PAIRS]
    return [f"{names[k]} seen as {names[j]}: {count:,.0f} of {counts[k].sum():,.0f}" for count, _, k, j in worst]


def shades(counts: Int[ndarray, "classes classes"]) -> Float[ndarray, "classes classes 4"]:
    """Blue on the diagonal, red elsewhere, opaque (RGBA) by share; the square root lifts rare mistakes into sight."""
    blue, red = ([int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)] for color in (BLUE, RED))
    color = np.where(np.eye(len(counts), dtype=bool)[..., None], blue, red)
    amount = np.sqrt(counts / np.maximum(counts.sum(1, keepdims=True), 1))[..., None]
    return np.concatenate([color, amount], -1)


@contextlib.contextmanager
def canvas(path: Path, size: tuple[float, float], *, panels: int = 0) -> Iterator[tuple[Any, ...]]:
    """Axes to draw on, and those of low panels below them, written when the block ends well.

    No pyplot is used, whose figures and backend are the process's.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("viz", "matplotlib") from error
    # The person's own settings (usetex, say) neither change the picture nor are changed.
    default = matplotlib.rcParamsDefault
    style: Any = {**{key: default[key] for key in default if "backend" not in key}, **_STYLE}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a script that the font lacks shows as boxes
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.add_gridspec(1 + panels, 1, height_ratios=[3.5, *[1] * panels])
        lower = [figure.add_subplot(grid[1 + k]) for k in range(panels)]
        yield figure.add_subplot(grid[0]), *lower
        with writing(path), atomic_file(path) as partial:
            if path.suffix == ".svg":  # of a page, whose paper shows through
                figure.savefig(
                    partial, transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
                )
            else:
                figure.savefig(partial)


def shortened(name: str, length: int = 24) -> str:
    """A name on one line, cut where it is longer."""
    name = " ".join(name.split())
    return name if len(name) <= length else name[: length - 3].rstrip() + "..."
