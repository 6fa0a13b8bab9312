"""What a signature, a table of classes and a path say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ....errors import InputError


def get_size_from_signature(signature: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) in pixels that the network was trained with."""
    return _input_shape(signature)[1:]


def get_channels_from_signature(signature: Mapping[str, Any]) -> int:
    """Channels of the network's input."""
    return _input_shape(signature)[0]


def get_num_labels_from_signature(signature: Mapping[str, Any]) -> int:
    """Classes of the network, 0 without a head."""
    try:
        return int(signature["outputs"][0]["data_shape"][1])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(f"{_RULE}; got {signature!r:.120}.") from error


def class_list_from_class_to_idx(class_to_idx: Mapping[str, int]) -> list[str]:
    """Class names in the order of their indices."""
    return sorted(class_to_idx, key=class_to_idx.__getitem__)


def get_label_from_path(path: str, hierarchical: bool = False, root: str = "", separator: str = "_") -> str:
    """The folder that an image lies in; hierarchical, all folders below the root, joined."""
    folder = os.path.dirname(path)
    return os.path.relpath(folder, root).replace(os.sep, separator) if hierarchical else os.path.basename(folder)


_RULE = "A signature must be {'inputs': [{'data_shape': [0, c, h, w]}], 'outputs': [{'data_shape': [0, k]}]}"


def _input_shape(signature: Mapping[str, Any]) -> tuple[int, int, int]:
    try:
        _, channels, height, width = signature["inputs"][0]["data_shape"]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(f"{_RULE}; got {signature!r:.120}.") from error
    return int(channels), int(height), int(width)
