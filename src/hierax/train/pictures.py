"""Pictures of a run; without matplotlib there are none, and the run is the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from ..data.decode import decode_image
from ..errors import HieraxError
from .evaluate import Accuracy
from .feed import Part

if TYPE_CHECKING:
    from .methods import MaskedPretraining

_CELL = 160


class Pictures:
    """Draws what a run shows; subclass it to draw differently."""

    def curves(self, losses: Sequence[float], baseline: float | None, path: Path) -> None:
        """Loss by step, raw and smoothed, with the loss that means nothing was learned."""
        figure = _figure((7, 4))
        if figure is None or not losses:
            return
        axes = figure.add_subplot()
        values = np.asarray(losses, dtype=float)
        axes.plot(np.arange(1, len(values) + 1), values, linewidth=0.6, alpha=0.4, label="each step")
        width = max(1, len(values) // 50)
        if width > 1:
            smooth = np.convolve(values, np.ones(width) / width, mode="valid")
            axes.plot(np.arange(width, len(values) + 1), smooth, label=f"mean of {width}")
        if baseline is not None:
            axes.axhline(baseline, linestyle="--", color="grey", label=f"nothing learned: {baseline:.4f}")
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.legend()
        _save(figure, path)

    def confusion(self, result: Accuracy, classes: Sequence[str], path: Path) -> None:
        """Answers by true class, as shares of each row."""
        figure = _figure((8, 7))
        if figure is None or not result.total:
            return
        counts = np.zeros((len(classes), len(classes)))
        for (truth, answer), count in result.confusion.items():
            counts[truth, answer] = count
        axes = figure.add_subplot()
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        figure.colorbar(axes.imshow(shares, vmin=0, vmax=1, cmap="Blues"), label="share of the true class")
        if len(classes) <= 40:
            axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=7)
            axes.set_yticks(range(len(classes)), classes, fontsize=7)
        axes.set_xlabel("answer")
        axes.set_ylabel("truth")
        axes.set_title(str(result))
        _save(figure, path)

    def mistakes(self, result: Accuracy, classes: Sequence[str], path: Path) -> None:
        """The most confident mistakes, with their images."""
        if not result.worst or result.data is None or (figure := _figure((10, 10))) is None:
            return
        for place, (confidence, _, truth, answer, index) in enumerate(result.worst[:16]):
            axes = figure.add_subplot(4, 4, place + 1)
            axes.axis("off")
            axes.set_title(f"{classes[answer]} {confidence:.0%}\nis {classes[truth]}", fontsize=8)
            try:
                image = Image.fromarray(decode_image(result.data.read(index)))
            except HieraxError:  # a clip
                continue
            axes.imshow(image.resize((_CELL, _CELL)))
        _save(figure, path)

    @torch.no_grad()
    def triptychs(self, method: MaskedPretraining, part: Part, path: Path) -> None:
        """Image, what was visible, and the reconstruction of what was not.

        Targets are normalised patch by patch, so a prediction has no brightness or contrast of its own; both are
        taken from the original, which the title says.
        """
        if part.pixels.ndim != 4 or (figure := _figure((6, 2 * len(part.pixels)))) is None:
            return
        images = reconstructions(method, part)
        titles = ("image", "visible", "reconstruction\n(un-normalised with the original)")
        for row, triple in enumerate(images):
            for column, image in enumerate(triple):
                axes = figure.add_subplot(len(images), 3, 3 * row + column + 1)
                axes.axis("off")
                axes.imshow(image)
                if row == 0:
                    axes.set_title(titles[column], fontsize=8)
        _save(figure, path)


def reconstructions(method: MaskedPretraining, part: Part) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Per image: the original, its visible part on grey, and the original with hidden squares rebuilt."""
    from .methods.base import normalized

    module, spec = method.module.eval(), method.weights.preprocess
    x = normalized(part.pixels, spec, next(module.parameters()).device)
    size = tuple(x.shape[2:])
    output = module(x, visible=method.visible(part).to(x.device))
    p = module.pixels
    rows, columns = size[0] // p, size[1] // p
    patches = x.reshape(len(x), 3, rows, p, columns, p).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    masked = module.masked_tokens(output.visible, size)[..., None]  # (b, masked, 1)
    original = patches.take_along_dim(masked, dim=1)
    rebuilt = output.prediction
    if module.normalize_target:
        deviation = (original.var(-1, keepdim=True) + 1e-6).sqrt()
        rebuilt = rebuilt * deviation + original.mean(-1, keepdim=True)
    index = masked.expand(-1, -1, patches.shape[-1])
    triples = []
    mean, std = torch.tensor(spec.mean).view(3, 1, 1), torch.tensor(spec.std).view(3, 1, 1)
    for values in (patches, patches.scatter(1, index, torch.zeros_like(original)), patches.scatter(1, index, rebuilt)):
        pixels = values.reshape(len(x), rows, columns, 3, p, p).permute(0, 3, 1, 4, 2, 5).reshape(len(x), 3, *size)
        shown = (pixels.cpu() * std + mean).clamp(0, 1).mul(255).byte()
        triples.append(shown.permute(0, 2, 3, 1).numpy())
    return list(zip(*triples, strict=True))


def _figure(size: tuple[float, float]) -> Any:
    """A figure that needs no display, None without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=size, layout="tight")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> None:
    """Write under another name first."""
    partial = path.with_suffix(".partial.png")
    figure.savefig(partial, dpi=100)
    partial.replace(path)
