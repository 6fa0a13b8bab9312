"""Pictures of what a model sees and how a run went: feature maps, MAE triptychs, confusion matrices, curves.

Everything is drawn with Pillow and its built-in font, so that no plotting package is needed.
"""

from __future__ import annotations

import bisect
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont

from .config import PreprocessSpec
from .errors import InputError

PAPER, INK, FAINT, GRID = (252, 252, 250), (32, 36, 44), (122, 128, 138), (228, 229, 231)
LINES = ((38, 98, 196), (217, 95, 42), (34, 139, 97), (150, 75, 170), (196, 152, 20), (90, 96, 106))
CORRECT, WRONG = (38, 98, 196), (206, 60, 40)
GAP, TEXT = 12, 13
SMOOTHING = 3  # Charts are drawn this much larger and averaged down, since Pillow's lines have hard edges.


# Feature maps.


def pca_maps(
    features: Mapping[str, Float[ndarray, "n c h w"]],
) -> dict[str, UInt8[ndarray, "n h w 3"]]:
    """Colour feature maps by their three strongest directions, red the strongest.

    One basis and one scale are shared by all images of a stage, so that equal colours mean equal features across
    the batch. Colours of different stages are unrelated.

    Args:
        features: Per stage, the maps of a batch.

    Returns:
        Per stage, RGB maps of the same height and width.

    Raises:
        InputError: A stage is not an array (n, c, h, w), is empty, or has values that are not finite.
    """
    return {stage: _pca(stage, torch.as_tensor(_array(maps))) for stage, maps in features.items()}


def _pca(stage: str, maps: torch.Tensor) -> UInt8[ndarray, "n h w 3"]:
    if maps.ndim != 4 or maps.numel() == 0:
        raise InputError(f"Feature maps must be (n, c, h, w) with no empty axis; {stage!r} is {tuple(maps.shape)}.")
    if not bool(torch.isfinite(maps).all()):
        raise InputError(f"Feature maps must be finite; {stage!r} holds NaN or infinity.")
    n, c, h, w = maps.shape
    cells = maps.movedim(1, -1).reshape(-1, c).double()  # (n * h * w, c)
    cells = cells - cells.mean(0)
    strengths, basis = torch.linalg.eigh(cells.T @ cells)  # ascending
    basis = basis[:, -3:].flip(1)  # (c, at most 3)
    # A direction has no sign of its own; making its largest loading positive keeps colours stable between runs.
    largest = basis.abs().argmax(0, keepdim=True)
    basis = basis * torch.where(basis.gather(0, largest) < 0, -1.0, 1.0)
    # Directions that carry nothing but rounding stay grey instead of being stretched to full contrast.
    basis = basis * (strengths[-3:].flip(0) > 1e-12 * strengths[-1].clamp_min(1e-300))
    colors = np.full((len(cells), 3), 0.5)
    for channel, values in enumerate((cells @ basis).T.numpy()):
        colors[:, channel] = _stretched(values)
    return np.round(colors * 255).astype(np.uint8).reshape(n, h, w, 3)


def _stretched(values: Float[ndarray, " cells"]) -> Float[ndarray, " cells"]:
    """Values in 0..1, from the 1st to the 99th percentile; a constant becomes 0.5."""
    low, high = np.percentile(values, (1, 99))
    if high <= low:
        low, high = values.min(), values.max()
    return np.clip((values - low) / (high - low), 0, 1) if high > low else np.full_like(values, 0.5)


def feature_sheet(
    image: UInt8[ndarray, "h w 3"],
    maps: Mapping[str, UInt8[ndarray, "rows columns 3"]],
    *,
    tile: int = 224,
    channels: Mapping[str, int] | None = None,
) -> Image.Image:
    """One image beside its stage maps, cells enlarged without smoothing.

    Args:
        image: RGB pixels.
        maps: Per stage, one image's map as `pca_maps` colours it.
        tile: Longer side of each panel in pixels.
        channels: Per stage, the channels of the features, for the captions.
    """
    height, width = image.shape[:2]
    panels = [(_fit(image, tile, Image.Resampling.LANCZOS), "image", f"{width} x {height} px")]
    for stage, cells in maps.items():
        size = f"{cells.shape[1]} x {cells.shape[0]}"
        detail = f"{size}, {channels[stage]} channels" if channels and stage in channels else size
        # Maps share the panel of the image, whose shape squash preprocessing may have changed.
        panel = Image.fromarray(cells).resize(panels[0][0].size, Image.Resampling.NEAREST)
        panels.append((panel, stage, detail))
    return _row(panels)


def stack_sheets(sheets: Sequence[Image.Image]) -> Image.Image:
    """Several sheets, one below another."""
    if not sheets:
        raise InputError("A stack needs at least one sheet; got none.")
    stack = _paper(max(s.width for s in sheets), sum(s.height for s in sheets))
    top = 0
    for sheet in sheets:
        stack.paste(sheet, (0, top))
        top += sheet.height
    return stack


# Masked autoencoders.


def reconstruction(
    image: Float[ndarray, "3 h w"],
    visible: ndarray,
    prediction: Float[ndarray, "masked pixels"],
    *,
    pixels: int,
    unit: tuple[int, int],
    normalized: bool = True,
) -> Float[ndarray, "3 h w"]:
    """The image with its hidden mask units replaced by a masked autoencoder's prediction.

    A decoder trained on normalised targets predicts each token's square up to its mean and standard deviation;
    those are taken from the true image, which no model has seen: it shows structure, not colour or contrast.

    Args:
        image: One preprocessed image.
        visible: Row-major indices of the mask units that were kept.
        prediction: For each hidden decoder token in raster order, its square as (channel, row, column).
        pixels: Side of a decoder token's square, `MaskedAutoencoder.pixels`.
        unit: Mask unit in decoder tokens, `MaskedAutoencoder.unit`.
        normalized: Whether targets were normalised, `MaskedAutoencoder.normalize_target`.

    Raises:
        InputError: Shapes that do not belong together.
    """
    image, prediction = _array(image).astype(np.float64), _array(prediction).astype(np.float64)
    hidden = ~_visible_tokens(image, visible, pixels, unit)  # (rows, columns)
    if prediction.shape != (hidden.sum(), 3 * pixels**2):
        raise InputError(
            f"prediction must hold {3 * pixels**2} values for each of {hidden.sum()} hidden tokens; "
            f"got {prediction.shape}."
        )
    rows, columns = hidden.shape
    squares = image.reshape(3, rows, pixels, columns, pixels).transpose(1, 3, 0, 2, 4)  # (rows, columns, 3, p, p)
    squares = squares.reshape(rows, columns, -1).copy()
    if normalized:
        true = squares[hidden]
        deviation = np.sqrt(true.var(-1, ddof=1, keepdims=True) + 1e-6)
        prediction = prediction * deviation + true.mean(-1, keepdims=True)
    squares[hidden] = prediction
    squares = squares.reshape(rows, columns, 3, pixels, pixels).transpose(2, 0, 3, 1, 4)
    return squares.reshape(image.shape)


def masked_triptych(
    image: Float[ndarray, "3 h w"],
    visible: ndarray,
    prediction: Float[ndarray, "masked pixels"],
    *,
    pixels: int,
    unit: tuple[int, int],
    normalized: bool = True,
    preprocess: PreprocessSpec | None = None,
    tile: int = 224,
) -> Image.Image:
    """The image, what the masked autoencoder saw of it, and what it made of that.

    Args:
        image: One preprocessed image.
        visible: Row-major indices of the mask units that were kept.
        prediction: One image's `MAEOutput.prediction`.
        pixels: Side of a decoder token's square, `MaskedAutoencoder.pixels`.
        unit: Mask unit in decoder tokens, `MaskedAutoencoder.unit`.
        normalized: Whether targets were normalised, `MaskedAutoencoder.normalize_target`.
        preprocess: Its mean and std turn values back into colours; None is ImageNet's.
        tile: Longer side of each panel in pixels.

    Raises:
        InputError: Shapes that do not belong together.
    """
    spec = preprocess or PreprocessSpec()
    rebuilt = reconstruction(image, visible, prediction, pixels=pixels, unit=unit, normalized=normalized)
    shown = _visible_tokens(_array(image), visible, pixels, unit)
    true = _colors(_array(image), spec)
    seen = np.where(shown.repeat(pixels, 0).repeat(pixels, 1)[..., None], true, np.uint8(205))
    share = f"{shown.mean():.0%} visible"
    note = "un-normalised with the original's patch mean and std" if normalized else "as predicted"
    captions = (("image", f"{true.shape[1]} x {true.shape[0]} px"), ("seen", share), ("reconstruction", note))
    pictures = (true, seen, _colors(rebuilt, spec))
    return _row(
        [
            (_fit(picture, tile, Image.Resampling.LANCZOS), *caption)
            for picture, caption in zip(pictures, captions, strict=True)
        ]
    )


def _visible_tokens(image: ndarray, visible: ndarray, pixels: int, unit: tuple[int, int]) -> ndarray:
    """Which decoder tokens lie in visible mask units, as booleans (rows, columns)."""
    side = [u * pixels for u in unit]
    if image.ndim != 3 or image.shape[0] != 3 or image.shape[1] % side[0] or image.shape[2] % side[1]:
        raise InputError(f"The image must be (3, h, w) in whole mask units of {side} pixels; got {image.shape}.")
    units = np.zeros((image.shape[1] // side[0], image.shape[2] // side[1]), bool)
    kept = _array(visible).astype(np.int64)
    if kept.ndim != 1 or not kept.size or kept.min() < 0 or kept.max() >= units.size:
        raise InputError(f"visible must hold indices (n,) in 0..{units.size - 1} of one image; got {kept.shape}.")
    units.flat[kept] = True
    return units.repeat(unit[0], 0).repeat(unit[1], 1)


def _colors(image: Float[ndarray, "3 h w"], spec: PreprocessSpec) -> UInt8[ndarray, "h w 3"]:
    """Undo the statistics of preprocessing."""
    rgb = image.transpose(1, 2, 0) * np.array(spec.std) + np.array(spec.mean)
    return np.round(np.clip(rgb, 0, 1) * 255).astype(np.uint8)


# Evaluation.


def confusion_matrix_picture(matrix: ndarray, labels: Sequence[str]) -> Image.Image:
    """True classes in rows, predicted classes in columns; right answers blue, mistakes red.

    The shade is the share of the row; the number, where cells have room for one, is the count.

    Args:
        matrix: Counts (classes, classes).
        labels: One name per class.

    Raises:
        InputError: The matrix is not square, is empty, or does not have one row per label.
    """
    counts = _array(matrix)
    if counts.ndim != 2 or counts.shape != (len(labels), len(labels)) or not len(labels):
        raise InputError(f"A confusion matrix has one row and column per label; got {counts.shape}, {len(labels)}.")
    classes = len(labels)
    cell = max(2, min(40, 960 // classes))
    named, font = cell >= 14, _font(min(TEXT, cell - 2))
    names = [_shortened(str(label)) for label in labels] if named else []
    margin = int(max((font.getlength(name) for name in names), default=0)) + 2 * GAP
    top, side = margin + 3 * GAP, cell * classes
    title = _summary(counts)
    width = max(margin + side + 2 * GAP, int(_font(TEXT + 2).getlength(title)) + 2 * GAP)
    sheet = _paper(width, top + side + 2 * GAP)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), title, INK, _font(TEXT + 2))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    sheet.paste(Image.fromarray(_shades(shares)).resize((side, side), Image.Resampling.NEAREST), (margin, top))
    for k, name in enumerate(names):
        middle = k * cell + cell / 2
        draw.text((margin - 8, top + middle), name, INK, font, anchor="rm")
        _upright(sheet, name, font, (round(margin + middle), top - 8))
    if cell >= 22:
        edge = range(0, side + 1, cell)
        draw.line([(margin, top), (margin + side, top)], GRID)
        for offset in edge:
            draw.line([(margin + offset, top), (margin + offset, top + side)], GRID)
            draw.line([(margin, top + offset), (margin + side, top + offset)], GRID)
        for row, column in zip(*np.nonzero(counts), strict=True):
            ink = PAPER if shares[row, column] > 0.45 else INK
            place = (margin + (column + 0.5) * cell, top + (row + 0.5) * cell)
            draw.text(place, f"{counts[row, column]:.4g}", ink, _font(cell // 3), anchor="mm")
    return sheet


def _summary(counts: ndarray) -> str:
    total, right = counts.sum(), np.trace(counts)
    return f"{right:.0f} of {total:.0f} right ({right / max(total, 1):.1%}). Rows: true. Columns: predicted."


def _shades(shares: Float[ndarray, "k k"]) -> UInt8[ndarray, "k k 3"]:
    """White to blue on the diagonal, white to red elsewhere; the square root lifts rare mistakes into sight."""
    full = np.where(np.eye(len(shares), dtype=bool)[..., None], CORRECT, WRONG)
    amount = np.sqrt(np.clip(shares, 0, 1))[..., None]
    return np.round(255 + amount * (full - 255.0)).astype(np.uint8)


def contact_sheet(
    images: Sequence[UInt8[ndarray, "h w 3"] | Image.Image],
    captions: Sequence[str],
    *,
    tile: int = 144,
    columns: int | None = None,
) -> Image.Image:
    """A grid of images with a caption each, such as the worst mistakes of an evaluation.

    Args:
        images: RGB images of any sizes.
        captions: One per image; a second line, after a newline, is drawn fainter.
        tile: Side of the square that each image is fitted into, in pixels.
        columns: Images in a row; None makes the sheet about 4:3.

    Raises:
        InputError: No image, or not one caption per image.
    """
    if not images or len(images) != len(captions):
        raise InputError(f"A contact sheet has one caption per image; got {len(images)} and {len(captions)}.")
    columns = columns or min(len(images), max(1, round(math.sqrt(len(images) * 4 / 3))))
    rows = -(-len(images) // columns)
    step_x, step_y = tile + GAP, tile + 3 * GAP + TEXT
    sheet = _paper(columns * step_x + GAP, rows * step_y + GAP)
    for k, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = GAP + k % columns * step_x, GAP + k // columns * step_y
        picture = _fit(image, tile, Image.Resampling.LANCZOS)
        sheet.paste(picture, (x + (tile - picture.width) // 2, y + (tile - picture.height) // 2))
        _caption(sheet, (x, y + tile), tile, *caption.split("\n", 1))
    return sheet


# Training curves.


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
    sheet = _paper(columns * width, -(-len(panels) // columns) * height)
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
    image = _paper(size[0] * s, size[1] * s)
    draw, font = ImageDraw.Draw(image), _font((TEXT - 1) * s)
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
    draw.text((left, 12 * s), title, INK, _font((TEXT + 1) * s))
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


# Paper and ink.


def write_picture(picture: Image.Image, path: str | Path) -> Path:
    """Write a picture whole or not at all, in the format that the file name ends with."""
    target = Path(path)
    partial = target.with_name(f".{target.name}.partial{target.suffix}")
    try:
        picture.save(partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _array(values: object) -> ndarray:
    """NumPy from NumPy or a tensor on any device."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def _paper(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), PAPER)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(max(size, 6))


def _fit(image: UInt8[ndarray, "h w 3"] | Image.Image, tile: int, resample: Image.Resampling) -> Image.Image:
    """Scale an image so that its longer side is `tile`."""
    picture = image.convert("RGB") if isinstance(image, Image.Image) else Image.fromarray(image)
    scale = tile / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    # Small images are shown as what they are: pixels.
    return picture.resize(size, Image.Resampling.NEAREST if scale >= 3 else resample)


def _row(panels: Sequence[tuple[Image.Image, str, str]]) -> Image.Image:
    """Panels side by side, each with a name and a fainter detail below."""
    height = max(panel.height for panel, _, _ in panels)
    columns = [max(panel.width, _caption_width(name, detail)) for panel, name, detail in panels]
    sheet = _paper(sum(columns) + GAP * (len(panels) + 1), height + GAP + 4 * TEXT)
    left = GAP
    for (panel, name, detail), width in zip(panels, columns, strict=True):
        sheet.paste(panel, (left, GAP + (height - panel.height) // 2))
        _caption(sheet, (left, GAP + height), width, name, detail)
        left += width + GAP
    return sheet


def _caption_width(name: str, detail: str) -> int:
    return math.ceil(max(_font(TEXT + 1).getlength(name), _font(TEXT - 1).getlength(detail)))


def _caption(sheet: Image.Image, corner: tuple[int, int], width: int, name: str, detail: str = "") -> None:
    draw, (x, y) = ImageDraw.Draw(sheet), corner
    draw.text((x, y + 5), _clipped(name, _font(TEXT + 1), width), INK, _font(TEXT + 1))
    draw.text((x, y + 9 + TEXT), _clipped(detail, _font(TEXT - 1), width), FAINT, _font(TEXT - 1))


def _clipped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """As much of one line as fits, with dots where it was cut."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    cut = bisect.bisect(range(1, len(text)), width, key=lambda n: font.getlength(text[:n] + "..."))
    return text[:cut].rstrip() + "..."


def _shortened(label: str, length: int = 24) -> str:
    return label if len(label) <= length else label[: length - 3].rstrip() + "..."


def _upright(
    sheet: Image.Image, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, foot: tuple[int, int]
) -> None:
    """Write a line from bottom to top, ending its start at `foot`."""
    size = math.ceil(font.getlength(text)), TEXT + 6
    strip = Image.new("L", size)
    ImageDraw.Draw(strip).text((0, size[1] / 2), text, 255, font, anchor="lm")
    turned = strip.rotate(90, expand=True)
    sheet.paste(INK, (foot[0] - turned.width // 2, foot[1] - turned.height), turned)
