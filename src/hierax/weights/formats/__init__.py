"""The six checkpoint formats, in the order in which content is tried against them."""

from __future__ import annotations

from ...errors import CheckpointError, UnknownNameError, nearest
from ..files import RawCheckpoint
from .base import Format, listed
from .birder import Birder
from .hierax import Hierax
from .meta import Meta
from .sam2 import Sam2
from .timm import Timm
from .transformers import Transformers

FORMATS: tuple[Format, ...] = (Hierax(), Transformers(), Sam2(), Birder(), Timm(), Meta())
_IN_A_DETECTOR = "body.encoder.patch_embed.proj.weight"  # of a detector or segmenter around a `Backbone`
FORMAT_NAMES = tuple(format.name for format in FORMATS)


def recognise(raw: RawCheckpoint) -> Format:
    """The format of a file, by its content.

    Raises:
        CheckpointError: No format has such names; lists the first ten.
    """
    for candidate in FORMATS:
        if candidate.matches(raw):
            return candidate
    inside = next((name for name in raw.tensors if name.endswith(_IN_A_DETECTOR)), "")
    remedy = (
        f" A backbone of hierax is inside ({inside.removesuffix(_IN_A_DETECTOR)}body): read the file with the library "
        "that wrote it, then call save(folder) of that module, and name the folder here."
    )
    raise CheckpointError(
        f"{raw.path} is in none of the known formats ({', '.join(FORMAT_NAMES)}). "
        f"Its first tensors are: {listed(list(raw.tensors))}.{remedy if inside else ''}"
    )


def by_name(name: str) -> Format:
    """A format by its public name.

    Raises:
        UnknownNameError: No such format.
    """
    for candidate in FORMATS:
        if candidate.name == name:
            return candidate
    raise UnknownNameError(
        f"Unknown format {name!r}. {nearest(name, FORMAT_NAMES)}Formats are {', '.join(FORMAT_NAMES)}."
    )
