"""Losses and rates over the steps of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..errors import InputError
from .paper import FAINT, GRID, INK, LINES, SMOOTHING, TEXT, font_of, paper, write_picture


def curves(
    history: Sequence[Mapping[str, object]], path: str | Path, *, baselines: Mapping[str, float] | None = None
) -> Path:
    """Draw a run's logged numbers against its steps and write the picture.

    Every logged name gets a panel; names that differ only before their last "/" ("train/loss", "eval/loss") share
    one. Values that are not finite leave a gap.

    Args:
        history: One mapping per log line, with "step" (or "epoch") and any numbers.
        path: Image file to write.
        baselines: Per panel, a value to mark with a dashed line.

    Raises:
        InputError: Nothing in the history can be drawn.
    """
    axis = next((name for name in ("step", "epoch") if any(name in row for row in history)), None)
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for position, row in enumerate(history):
        x = row.get(axis) if axis else position
        for name, value in row.items():
            if name in ("step", "epoch") or not _is_number(value) or not _is_number(x):
                continue
            series = panels.setdefault(name.rpartition("/")[2], {}).setdefault(name, [])
            series.append((float(x), float(value)))  # pyright: ignore[reportArgumentType]
    panels = {title: series for title, series in panels.items() if _finite(series)}
    if not panels:
        raise InputError("Curves need at least one logged number; the history holds none.")
    columns = min(len(panels), 2)
    width, height = 480, 260
    sheet = paper(columns * width, -(-len(panels) // columns) * height)
    for k, (title, series) in enumerate(panels.items()):
        chart = _chart((width, height), title, axis or "row", series, (baselines or {}).get(title))
        sheet.paste(chart, (k % columns * width, k // columns * height))
    return write_picture(sheet, path)


def _chart(
    size: tuple[int, int],
    title: str,
    axis: str,
    series: Mapping[str, list[tuple[float, float]]],
    baseline: float | None,
) -> Image.Image:
    """One panel: title, ticks, one line per series."""
    s = SMOOTHING
    image = paper(size[0] * s, size[1] * s)
    draw, font = ImageDraw.Draw(image), font_of((TEXT - 1) * s)
    points = _finite(series)
    x_ticks, y_ticks = _ticks([x for x, _ in points]), _ticks([y for _, y in points] + [baseline or points[0][1]])
    label = max(font.getlength(_number(tick)) for tick in y_ticks)
    left, top, right, bottom = int(label) + 22 * s, 38 * s, (size[0] - 18) * s, (size[1] - 40) * s

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]), (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return left + across * (right - left), bottom - up * (bottom - top)

    for tick in y_ticks:
        y = place(x_ticks[0], tick)[1]
        draw.line([(left, y), (right, y)], GRID, s)
        draw.text((left - 8 * s, y), _number(tick), FAINT, font, anchor="rm")
    for tick in x_ticks:
        draw.text((place(tick, y_ticks[0])[0], bottom + 6 * s), _number(tick), FAINT, font, anchor="ma")
    draw.text(((left + right) / 2, bottom + 21 * s), axis, FAINT, font, anchor="ma")
    draw.text((left, 12 * s), title, INK, font_of((TEXT + 1) * s))
    if baseline is not None:
        y = place(x_ticks[0], baseline)[1]
        for x in range(left, right, 9 * s):
            draw.line([(x, y), (x + 5 * s, y)], FAINT, s)
        draw.text((right, y - 3 * s), f"baseline {baseline:.4g}", FAINT, font, anchor="rd")
    legend = right
    for k, (name, values) in enumerate(series.items()):
        color = LINES[k % len(LINES)]
        for run in _runs(values):
            spots = [place(*point) for point in run]
            if len(spots) > 1:
                draw.line(spots, color, round(1.8 * s), joint="curve")
            else:
                _dot(draw, spots[0], 2.5 * s, color)
        if len(series) > 1:
            draw.text((legend, 14 * s), name, color, font, anchor="ra")
            legend -= int(font.getlength(name)) + 12 * s
    return image.reduce(s)


def _dot(draw: ImageDraw.ImageDraw, center: tuple[float, float], radius: float, color: tuple[int, int, int]) -> None:
    x, y = center
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)


def _finite(series: Mapping[str, list[tuple[float, float]]]) -> list[tuple[float, float]]:
    return [point for values in series.values() for point in values if all(map(math.isfinite, point))]


def _runs(values: list[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Stretches of finite points between the gaps."""
    runs: list[list[tuple[float, float]]] = [[]]
    for point in values:
        if all(map(math.isfinite, point)):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _ticks(values: list[float], count: int = 4) -> list[float]:
    """Round numbers, evenly spaced, that enclose all values."""
    low, high = min(values), max(values)
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-30):
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [k * step for k in range(first, last + 1)]


def _number(value: float) -> str:
    if value and (abs(value) < 1e-4 or abs(value) >= 1e6):
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.6g}"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
