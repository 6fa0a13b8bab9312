"""What commands share: common options, opening inputs, tables, and the exit code of a run over files."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, overload

from tyro.conf import Positional, arg

from .. import console
from ..errors import InputError
from . import Exit

if TYPE_CHECKING:
    from ..bulk.run import Row
    from ..outputs import OutputFile
    from ..predictor import Predictor

_NARROWEST = 30  # characters of a column that is wrapped
_MODEL = "Catalogue name, hub id or local path; the small embedded model without it."
_INPUTS = "Files, folders, globs, or - for a list on stdin."
Inputs = Annotated[Positional[tuple[str, ...]], arg(help=_INPUTS, help_behavior_hint="(required)")]
Model = Annotated[str | None, arg(aliases=["-m"], help=_MODEL)]
Output = Annotated[Path, arg(aliases=["-o"], metavar="OUT")]
Device = Annotated[str, arg(help="Where to run, e.g. cpu or cuda.")]
Dtype = Annotated[str | None, arg(help="Parameter type, e.g. bfloat16.")]
BatchSize = Annotated[int, arg(help="Images at a time.")]
Fast = Annotated[bool, arg(help="Use a fast engine.")]
Engine = Annotated[str, arg(help="Which one --fast uses: auto, torch, compile or openvino.")]
InputSize = Annotated[str | None, arg(metavar="SIZE", help="Pixels, e.g. 512 or 512x768 (height x width).")]
MaxPixels = Annotated[
    int | None, arg(metavar="PIXELS", help="Largest image that is decoded, e.g. 400000000; 200 million without it.")
]
Views = Annotated[int, arg(help="Clips taken from each video, whose answers are averaged.")]


class Paths(Sequence[Path]):
    """Many paths in a fifth of the memory of their objects, which are made when they are asked for."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._texts = [str(path) for path in paths]

    def __len__(self) -> int:
        """How many."""
        return len(self._texts)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> list[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | list[Path]:
        """One of them, or several."""
        return Path(self._texts[index]) if isinstance(index, int) else [Path(text) for text in self._texts[index]]


def load(
    model: str | None, *, input_size: str | None = None, max_pixels: int | None = None, **options: Any
) -> Predictor:
    """`hierax.load` with the options as they are typed; the largest image is one of this process.

    Raises:
        HieraxError: As `hierax.load`.
    """
    if max_pixels is not None:  # an environment reaches the processes that read, too
        from ..data import decode

        os.environ[decode.PIXELS_VARIABLE] = str(max_pixels)
        decode.max_pixels()
    from .. import load as load_model  # torch, some seconds

    return load_model(model, input_size=None if input_size is None else sides(input_size), **options)


def sides(text: str, option: str = "--input-size") -> int | tuple[int, int]:
    """A size as it is typed: 512, or 512x768."""
    sides = [int(side) for side in text.lower().split("x") if side.isdecimal() and len(side) < 6]
    if len(sides) != text.lower().count("x") + 1 or len(sides) > 2:
        raise InputError(f"{option} is a side, or height x width, in pixels; got {text!r}. Write 512 or 512x768.")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def open_inputs(
    inputs: Sequence[str], model: str | None, views: int = 1, **options: Any
) -> tuple[Predictor, Paths, Callable[..., Iterator[Row]]]:
    """The model, loaded with options, the files for it, and `bulk.run` of both.

    A wrong path is told before a model is loaded, for which nobody should wait.

    Raises:
        InputError: No file that the model takes, or several views for a model of images.
        HieraxError: As `hierax.load`.
    """
    from ..data.sources import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, find_images

    if not inputs:
        raise InputError("Name at least one file, folder or glob, or - for a list on stdin.")
    found = Paths(find_images(inputs, extensions=IMAGE_EXTENSIONS | VIDEO_EXTENSIONS))
    predictor = load(model, **options)
    video = predictor.encoder.config.is_video
    if views < 1 or (views > 1 and not video):
        raise InputError(f"--views is for video models and at least 1; got {views} with {predictor.card.name!r}.")
    predictor.views = views
    other = IMAGE_EXTENSIONS if video else VIDEO_EXTENSIONS
    named = {os.path.abspath(item) for item in inputs}
    paths = Paths(p for p in found if p.suffix.lower() not in other or os.path.abspath(p) in named)
    if not paths:
        kind = "clips" if video else "images"
        raise InputError(f"{predictor.card.name!r} takes {kind}; none are among the {len(found)} files found.")
    if len(paths) < len(found):
        takes, left = ("clips", "images") if video else ("images", "clips")
        console.say(f"{len(found) - len(paths)} {left} were passed over: {predictor.card.name!r} takes {takes}")
    from ..bulk.run import run

    return predictor, paths, functools.partial(run, predictor, paths)


def are_one(a: Path, b: Path) -> bool:
    """Whether two paths lead to one file, under whatever names."""
    try:
        return a.expanduser().samefile(b)
    except OSError:
        return False


def table(rows: Sequence[dict[str, Any]], *, wrap: bool = False) -> None:
    """Print rows of equal keys in columns; what could steer a terminal is shown instead.

    Args:
        rows: The rows.
        wrap: Go on below, in the last column, with what does not fit into the width of the terminal. A path too long
            for half of it pushes its own line to the right, not those of others.
    """
    cells = [list(rows[0]), *([console.printable(str(value)) for value in row.values()] for row in rows)]
    room = shutil.get_terminal_size().columns
    columns = [[len(cell) for cell in column] for column in zip(*cells, strict=True)]
    widths = [max((length for length in column if not wrap or length <= room // 2), default=0) for column in columns]
    for *first, last in cells:
        line = "".join(f"{cell:<{width}}  " for cell, width in zip(first, widths[:-1], strict=True))
        indent = sum(widths[:-1]) + 2 * len(first)
        pieces = textwrap.wrap(last, max(room - indent, _NARROWEST), break_on_hyphens=False, break_long_words=False)
        for number, piece in enumerate(pieces if wrap and pieces else [last]):
            console.emit(((" " * indent if number else line) + piece).rstrip())


def exit_code(total: int, failed: int) -> int:
    """The exit code of a run over files that went to its end."""
    if failed:
        console.complain(f"{failed} of {total} files could not be read")
    return Exit.PARTIAL if failed else Exit.OK


@contextlib.contextmanager
def picture(path: Path | None, overwrite: bool) -> Iterator[OutputFile | None]:
    """Hold a picture's place before any work is done."""
    if path is None:
        yield None
        return
    from ..outputs import claimed

    with claimed(path, (".png",), overwrite=overwrite) as out:
        yield out
        if out.partial.stat().st_size == 0:  # nothing to draw
            out.partial.unlink()
            console.say(f"{path} was not written: there is nothing to show")
