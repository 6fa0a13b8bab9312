"""birder's loading functions under the module that it keeps them in, and its lists of classes."""

from __future__ import annotations

from pathlib import Path

from ....errors import InputError
from ...names import refuse_unknown
from ..config import load_model_with_cfg
from ..pretrained import load_pretrained_model, load_pretrained_model_and_transform
from ..reasons import REASONS

__all__ = ["load_model_with_cfg", "load_pretrained_model", "load_pretrained_model_and_transform", "read_class_file"]
__getattr__ = refuse_unknown(__name__, "birder", __all__, REASONS)


def read_class_file(path: str | Path) -> dict[str, int]:
    """Index of each class by name, from a text file with a name on each line.

    Raises:
        InputError: It cannot be read.
    """
    try:
        lines = Path(path).expanduser().read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"A class file is UTF-8 text, a name on each line; {path}: {error}.") from error
    return {name: index for index, name in enumerate(lines)}
