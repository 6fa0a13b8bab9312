"""What may go wrong in an ONNX graph without anybody noticing."""

from __future__ import annotations

from typing import Any

import numpy as np


def _tensors(model: Any) -> Any:
    import onnx

    return [(each, onnx.numpy_helper.to_array(each)) for each in model.graph.initializer]


def _replace(tensor: Any, values: np.ndarray) -> None:
    import onnx

    tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))


def wrong_table(model: Any) -> None:
    """Position vectors of the neighbouring token, as an index off by one would give."""
    tables = [
        (t, v) for t, v in _tensors(model) if v.dtype == np.float32 and v.ndim == 4 and v.shape[:3] == (1, 16, 16)
    ]
    assert len(tables) == 1
    _replace(tables[0][0], np.roll(tables[0][1], 1, axis=2))


def swapped_windows(model: Any) -> None:
    """The first two windows of tokens in each other's place."""
    orders = [(t, v) for t, v in _tensors(model) if v.dtype == np.int64 and v.ndim == 1 and v.size == 256]
    assert orders
    for tensor, order in orders:
        _replace(tensor, np.concatenate([order[64:128], order[:64], order[128:]]))


def no_metadata(model: Any) -> None:
    """As every other exporter writes."""
    model.ClearField("metadata_props")


def other_labels(model: Any) -> None:
    """Class names of another model."""
    for each in model.metadata_props:
        if each.key == "hierax.labels":
            each.value = each.value.replace("bird 0", "fish 0")


BREAKAGES = {
    "wrong table": wrong_table,
    "swapped windows": swapped_windows,
    "no metadata": no_metadata,
    "other labels": other_labels,
}
