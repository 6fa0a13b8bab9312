"""Commands about programs that are kept on disk: prepare, cache list, cache clear."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from .. import kept
from ..console import emit, say
from ..errors import InputError
from .common import Dtype, load, sides, table

Format = Literal["table", "json"]
Output = Literal["embedding", "stage1", "stage2", "stage3", "stage4"]
Sizes = Annotated[
    tuple[str, ...],
    arg(metavar="SIZE [SIZE ...]", help="Pixels: 512, or 512 768 (height width), or several as 224x224 512x768."),
]


def prepare(
    model: Annotated[Positional[str], arg(help="Catalogue name, hub id or local path.")],
    size: Sizes = (),
    outputs: tuple[Output, ...] = ("embedding",),
    dtype: Dtype = None,
    engine: Annotated[Literal["openvino"], arg(help="The engine whose programs are kept.")] = "openvino",
    format: Format = "table",
) -> None:
    """Convert a model for a fast engine now and keep the program, so that no later process waits for that.

    Args:
        outputs: The embedding, which classes are made of too, and maps of the stages up to one.
        format: How to print.
    """
    if not kept.limit():
        raise InputError("A program needs room to be kept; HIERAX_CACHE_LIMIT is 0. Unset it, or name a size: 5GB.")
    with _told():
        kept.made()
    rows = []
    for pixels in _sizes(size):
        begun, before = time.monotonic(), set(kept.names(""))
        encoder: Any = load(model, input_size=pixels, fast=True, engine=engine, dtype=dtype).encoder
        for output in outputs:
            program = encoder.current().keep((encoder.config.in_channels, *encoder.input_size), output)
            state = "kept already" if program.path.name in before else "made"
            rows.append(_row(program) | {"state": state, "seconds": round(time.monotonic() - begun, 1)})
            begun = time.monotonic()
    _print(rows, format, ("used", "path", "bytes"))


def list_(format: Format = "table") -> None:
    """Show the programs that are kept on disk, the one used last first.

    Args:
        format: How to print.
    """
    with _told():
        rows = [_row(program) for program in kept.entries()]
        place = kept.place()
    total = sum(row["bytes"] for row in rows)
    _print(rows, format, ("path", "bytes"))
    say(f"{_counted(len(rows), total)} in {place}, which may hold {kept.limit() / 1e6:.0f} MB")


def clear(format: Format = "table") -> None:
    """Remove all programs that are kept on disk; what a process is using stays in its hands.

    Args:
        format: How to print.
    """
    with _told():
        count, freed = kept.clear()
        place = kept.place()
    if format == "json":
        emit(json.dumps({"programs": count, "bytes": freed, "folder": str(place)}))
    else:
        emit(f"{_counted(count, freed)} removed from {place}")


def _counted(count: int, size: int) -> str:
    return f"{count} program{'' if count == 1 else 's'} of {size / 1e6:.1f} MB"


def _sizes(typed: Sequence[str]) -> list[str | None]:
    """One size, or several with an x in each."""
    if not typed:
        return [None]
    if len(typed) == 2 and not any("x" in text.lower() for text in typed):
        typed = ["x".join(typed)]
    if len(typed) > 1 and not all("x" in text.lower() for text in typed):
        raise InputError(f"Several sizes are written as 224x224 512x768; got {' '.join(typed)}.")
    for text in typed:
        sides(text, "--size")
    return list(typed)


def _row(program: kept.Kept) -> dict[str, Any]:
    size = program.about.get("input_size")  # another version may have written other things, or none
    return {
        "model": str(program.about.get("model")),
        "input": "x".join(map(str, size)) if isinstance(size, list) else str(size),
        "output": str(program.about.get("output")),
        "precision": str(program.about.get("precision")),
        "MB": f"{program.size / 1e6:.1f}",
        "bytes": program.size,
        "used": time.strftime("%Y-%m-%d %H:%M", time.localtime(program.used)),
        "path": str(program.path),
    }


def _print(rows: list[dict[str, Any]], format: Format, left_out: Sequence[str]) -> None:
    """As JSON all but what is for people, as a table all but what is for programs."""
    left_out = ("MB",) if format == "json" else left_out
    rows = [{key: value for key, value in row.items() if key not in left_out} for row in rows]
    if format == "json":
        emit(json.dumps(rows, indent=2))
    elif rows:
        table(rows)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Say what the system refuses, with the remedy."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"The folder of kept programs must be one that this user can use; {error}. {kept.REMEDY}"
        ) from error
