"""A chart of several models by one or more measures (extra "viz")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from .charts import BLUE, FAINT, INK, ORANGE, RED, RULE, canvas, shortened

_COLORS = (BLUE, ORANGE, RED, FAINT, INK)
_BAR = 0.26  # inches


def compare(
    names: Sequence[str],
    measures: Mapping[str, Sequence[float]],
    path: Path,
    *,
    title: str,
    spreads: Sequence[float] | None = None,
) -> None:
    """Draw bars from 0 to 100 %, a group for each name, with the numbers beside them.

    Args:
        names: Of models.
        measures: For each measure a share of 1 for each name; NaN leaves a gap.
        path: Image file to write.
        title: Of the chart.
        spreads: Standard deviation of the first measure for each name.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    count = len(measures)
    height = 1.2 + len(names) * (count * _BAR + 0.25)
    with canvas(path, (8, height)) as (axes,):
        places = np.arange(len(names), dtype=float)
        thick = 0.8 / max(count, 1)
        for number, (measure, values) in enumerate(measures.items()):
            at = places + (number - (count - 1) / 2) * thick
            share = 100 * np.asarray(values, dtype=float)
            error = 100 * np.asarray(spreads) if spreads is not None and number == 0 else None
            axes.barh(
                at, np.nan_to_num(share), 0.86 * thick, xerr=error, color=_COLORS[number % len(_COLORS)],
                label=measure, error_kw={"ecolor": INK, "lw": 1.2, "capsize": 3},
            )  # fmt: skip
            for place, value, over in zip(at, share, error if error is not None else 0 * share, strict=True):
                text = f"{value:.1f}" + (f" \N{PLUS-MINUS SIGN} {over:.1f}" if error is not None else "")
                if np.isfinite(value):
                    axes.text(value + over + 0.8, place, text, va="center", fontsize=8, color=INK)
        axes.set_yticks(places, [shortened(name, 32) for name in names], color=INK, parse_math=False)
        axes.set(xlim=(0, 118), xlabel="%", xticks=range(0, 101, 20))
        axes.set_title(shortened(title, 90), parse_math=False)
        axes.invert_yaxis()
        axes.grid(axis="x", color=RULE, lw=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if count > 1:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12 * 4 / height), ncols=count, frameon=False)
