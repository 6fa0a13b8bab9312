"""birder's loading functions under the module that it keeps them in, and its lists of classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ....errors import InputError
from ...names import refuse_unknown
from ..config import load_model_with_cfg
from ..net import Net
from ..pretrained import ModelInfo, load_pretrained_model, load_pretrained_model_and_transform
from ..reasons import REASONS

__all__ = [
    "load_model",
    "load_model_with_cfg",
    "load_pretrained_model",
    "load_pretrained_model_and_transform",
    "read_class_file",
]
__getattr__ = refuse_unknown(__name__, "birder", __all__, REASONS)


def load_model(  # noqa: PLR0913 - birder's signature
    device: torch.device,
    network: str,
    *,
    path: str | Path | None = None,
    config: Mapping[str, Any] | None = None,
    tag: str | None = None,
    epoch: int | None = None,
    new_size: tuple[int, int] | None = None,
    quantized: bool = False,
    inference: bool,
    reparameterized: bool = False,
    pts: bool = False,
    pt2: bool = False,
    st: bool = False,
    dtype: torch.dtype | None = None,
) -> tuple[Net, ModelInfo]:
    """Load a file of your own by the name of its network; other arguments as for `load_pretrained_model`.

    Args:
        device: Where the network goes.
        network: Registered name, e.g. "hiera_tiny".
        path: The file; there is no folder of models here in which a name would be looked up.
        config: birder's options over the file's.
        tag: Refused, as it is part of such a name.
        epoch: Refused likewise.
        new_size: Adjust to another (height, width) after loading.
        quantized: Refused.
        inference: Evaluation mode, without gradients.
        reparameterized: Refused: networks of the family have one form.
        pts: Refused: a program is not run.
        pt2: Refused likewise.
        st: Whether it is safetensors, which is told by content.
        dtype: Type of the parameters.

    Raises:
        InputError: What is refused, no path, or an illegal size or option.
        CheckpointError: The weights are missing, broken, or of another network.
        UnknownNameError: No such network.
    """
    options = {"quantized": quantized, "reparameterized": reparameterized, "pts": pts, "pt2": pt2}
    asked = [name for name, value in {**options, "tag": tag, "epoch": epoch}.items() if value]
    if asked or path is None:
        raise InputError(
            f"load_model takes path=, a .pt or .safetensors file; got {', '.join(asked) or 'no path'}. Name the file."
        )
    return load_pretrained_model(
        network, dst=path, inference=inference, device=device, dtype=dtype, new_size=new_size, custom_config=config
    )


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
