"""What the web process and the model's process say to each other: a JSON head, then plain arrays."""

from __future__ import annotations

import json
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy import ndarray


def send(connection: Connection, head: dict[str, Any], arrays: Sequence[ndarray] = ()) -> None:
    """Send one message.

    Raises:
        OSError: Nobody is there.
    """
    described = [[str(array.dtype), list(array.shape)] for array in arrays]
    connection.send_bytes(json.dumps({**head, "arrays": described}).encode())
    for array in arrays:
        if array.size:
            connection.send_bytes(np.ascontiguousarray(array).data.cast("B"))


def receive(connection: Connection) -> tuple[dict[str, Any], list[ndarray]]:
    """Take in one message; waits for it.

    Raises:
        EOFError: Nobody is there any more.
        OSError: As well.
    """
    head = json.loads(connection.recv_bytes())
    arrays = []
    for dtype, shape in head.pop("arrays"):
        array: ndarray = np.empty(shape, dtype)
        if array.size:
            connection.recv_bytes_into(array.data.cast("B"))
        arrays.append(array)
    return head, arrays
