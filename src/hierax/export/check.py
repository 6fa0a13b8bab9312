"""What a written file must pass: its own runtime, its own metadata, and the answers of the network it was made from."""

from __future__ import annotations

import math
import timeit
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import ModelConfig
from ..errors import ExportError
from ..model.encoder import Encoder
from ..model.programs.encoder import ProgramEncoder

# Largest difference of an output over its own largest magnitude (at least 1), and the smallest cosine of an image.
TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "int8": math.inf}
FEWEST_COSINE = {"float32": 0.9999, "float16": 0.999, "int8": 0.95}
BATCHES = (1, 3)
_ROUNDS = 3


@dataclass(frozen=True)
class Compared:
    """Two networks on the same inputs.

    Attributes:
        difference: Largest difference of an output, over its own largest magnitude where that is above 1.
        cosine: The smallest of an image's output, both flattened.
        where: Output, size and batch of that difference.
        agreement: Share of images with the same best class; None where it was not asked for, or without classes.
    """

    difference: float
    cosine: float
    where: str
    agreement: float | None = None


def sizes_to_check(config: ModelConfig, traced: tuple[int, ...], *, any_size: bool) -> list[tuple[int, ...]]:
    """Sizes at which a file is compared: the network's own, and of one for every size that of the trace and two more.

    Among those are one that is not square, and one at which no window larger than a mask unit divides the grid.
    """
    found = [config.input_size]
    if any_size:
        frames, (height, width) = config.input_size[:-2], config.size_multiple[-2:]
        others = [(*frames, down * height, along * width) for down, along in ((3, 2), (5, 5), (7, 5))]
        found += [size for size in (traced, *others) if size not in found][:3]
    return found


def compare(
    encoder: Encoder,
    program: ProgramEncoder,
    sizes: Sequence[tuple[int, ...]],
) -> Compared:
    """The readable encoder and a program on loud inputs of those sizes, in batches of each of `BATCHES`."""
    worst, cosine, where = 0.0, 1.0, "nothing"
    for size in sizes:
        for batch in BATCHES:
            x = loud((batch, encoder.config.in_channels, *size))
            with torch.no_grad():
                expected = encoder.answers(x, program.outputs)
                found = program.answers(x, program.outputs)
            for name, ours in expected.items():
                place = f"{name} at {'x'.join(map(str, size))}, batch {batch}"
                theirs = found[name]
                if theirs.shape != ours.shape:
                    raise ExportError(
                        f"An exported program must answer in the shapes of its network; got {tuple(theirs.shape)} "
                        f"where {tuple(ours.shape)} was due, in {place}. Nothing was written."
                    )
                off = (theirs - ours).abs().max().item() / max(1.0, ours.abs().max().item())
                alike = F.cosine_similarity(theirs.flatten(1), ours.flatten(1), eps=1e-12).min().item()
                off, alike = (math.inf if math.isnan(off) else off), (-1.0 if math.isnan(alike) else alike)
                cosine = min(cosine, alike)
                if off > worst:
                    worst, where = off, place
    return Compared(worst, cosine, where)


def compare_on(encoder: Encoder, program: ProgramEncoder, images: Tensor) -> Compared:
    """The readable encoder and an int8 program on images, as they are: cosine of embeddings, agreement of classes."""
    name = program.outputs[0]
    with torch.no_grad():
        pairs = [
            (encoder.answers(part, program.outputs), program.answers(part, program.outputs)) for part in images.split(8)
        ]
    ours, theirs = (torch.cat([pair[side][name] for pair in pairs]).flatten(1) for side in (0, 1))
    agreement = None
    if "logits" in program.outputs:
        best = [torch.cat([pair[side]["logits"].argmax(1) for pair in pairs]) for side in (0, 1)]
        agreement = (best[0] == best[1]).float().mean().item()
    off = (theirs - ours).abs().max().item() / max(1.0, ours.abs().max().item())
    cosine = F.cosine_similarity(theirs, ours, eps=1e-12).min().item()
    return Compared(off, cosine, f"{name} of {len(images)} calibration images", agreement)


def require(found: Compared, dtype: str) -> None:
    """Refuse a program that answers otherwise than its network.

    Raises:
        ExportError: It does.
    """
    if found.difference <= TOLERANCE[dtype] and found.cosine >= FEWEST_COSINE[dtype]:
        return
    within = f"within {TOLERANCE[dtype]:g} and " if math.isfinite(TOLERANCE[dtype]) else ""
    raise ExportError(
        f"An exported program must answer as its network does, {within}at a cosine of {FEWEST_COSINE[dtype]:g} or more "
        f"in {dtype}; {found.where} differs by {found.difference:.3g}, at a cosine of {found.cosine:.5f}. "
        "Nothing was written. "
        + ("Use --dtype float32." if dtype != "float32" else "Try another version of the exporter's packages.")
    )


def speedup(encoder: Encoder, program: ProgramEncoder, size: tuple[int, ...]) -> float:
    """Seconds of the readable encoder over those of a program, for one image, measured in turn."""
    x = loud((1, encoder.config.in_channels, *size))
    with torch.no_grad():
        runs = [lambda each=each: each.answers(x, program.outputs) for each in (encoder, program)]
        rounds = [[timeit.timeit(run, number=1) for run in runs] for _ in range(_ROUNDS)]
    eager, exported = map(min, zip(*rounds, strict=True))
    return eager / exported


def loud(shape: tuple[int, ...]) -> Tensor:
    """Seeded inputs on which tokens out of order, a wrong window or a wrong table show: patches and grain, all unlike.

    White noise alone is much alike everywhere to a network that pools it.
    """
    generator = torch.Generator().manual_seed(shape[0] * 1009 + sum(shape[2:]))
    *rest, height, width = shape
    patches = torch.randn(*rest, -(-height // 8), -(-width // 8), generator=generator)
    patches = patches.repeat_interleave(8, -2).repeat_interleave(8, -1)[..., :height, :width]
    return patches + 0.5 * torch.randn(shape, generator=generator)


def known_outputs(config: ModelConfig) -> tuple[str, ...]:
    """What a network of that config can be asked for."""
    logits = ("logits",) if config.num_classes else ()
    return ("embedding", *logits, *config.stage_names)
