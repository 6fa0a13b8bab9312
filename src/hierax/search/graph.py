"""Whether the file of an index can be walked without leaving it.

usearch follows whatever numbers a file holds: of 60 files with 20 changed bytes each, 13 ended the process by a signal.
The file lies beside a store, which may have been copied or come from elsewhere, and it is only a cache: one that is not
sound is made anew. Source: `save_to_stream` in usearch 2's index_dense.hpp and index.hpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from numpy import ndarray
from numpy.lib.stride_tricks import sliding_window_view

# The matrix: rows, bytes of each, vectors. The head: magic, version, kinds, counts, width. The graph: five numbers,
# each node's level, nodes. A node: key and level, then lists of neighbours, each a count and room for the most it has.
_MATRIX, _HEAD, _GRAPH, _NODE, _LIST = 8, 64, 40, 10, 4
_SAME = (slice(0, 9), slice(13, 17), slice(33, 42))  # of a head: magic and major version; kinds; width and `multi`
_AT_ONCE = 1 << 16  # nodes


@dataclass(frozen=True)
class _Graph:
    """A file's bytes, where each node starts in them, and its level."""

    data: UInt8[ndarray, " bytes"]
    starts: Int[ndarray, " n"]
    levels: Int[ndarray, " n"]

    def lists_hold(self, nodes: Int[ndarray, " m"], offset: int, most: int, level: int) -> bool:
        """Whether the lists at an offset in nodes are no longer than `most` and name nodes of at least a level."""
        rows = sliding_window_view(self.data, _LIST * (1 + most))
        for first in range(0, len(nodes), _AT_ONCE):
            lists = rows[self.starts[nodes[first : first + _AT_ONCE]] + offset].view("<u4")
            counts, named = lists[:, :1], lists[:, 1:]
            if counts.max() > most:
                return False
            named = named[np.arange(most, dtype=np.uint32) < counts]
            if named.size and (named.max() >= len(self.levels) or (level and self.levels[named].min() < level)):
                return False
        return True


def is_sound(file: Path, empty: Any, rows: int) -> bool:
    """Whether a file holds a graph of so many rows in which every neighbour that is named exists.

    Args:
        file: That `usearch.index.Index.save` wrote.
        empty: An index of the settings that it must have, without rows.
        rows: That it must have.

    Raises:
        OSError: It cannot be read.
    """
    pattern = np.frombuffer(empty.save(), np.uint8)
    each = int(pattern[4:_MATRIX].view("<u4")[0])
    head = _MATRIX + rows * each
    first = head + _HEAD + _GRAPH + 2 * rows  # node
    if rows < 1 or file.stat().st_size < first:
        return False
    data = np.memmap(file, np.uint8, "r")
    own, wanted = data[head : head + _HEAD], pattern[_MATRIX : _MATRIX + _HEAD]
    if data[:_MATRIX].view("<u4").tolist() != [rows, each] or any((own[part] != wanted[part]).any() for part in _SAME):
        return False
    narrow, wide = pattern[_MATRIX + _HEAD :].view("<u8")[1:3].tolist()
    numbers = data[head + _HEAD :][:_GRAPH].view("<u8").tolist()
    levels = data[first - 2 * rows : first].view("<i2").astype(np.int64)
    entry, top = numbers[4], int(levels.max())
    if numbers[:4] != [rows, narrow, wide, top] or entry >= rows or levels[entry] != top or levels.min() < 0:
        return False
    base, step = _NODE + _LIST * (1 + wide), _LIST * (1 + narrow)
    ends = first + np.cumsum(base + step * levels)
    if ends[-1] != len(data):
        return False
    graph = _Graph(data, ends - (base + step * levels), levels)
    said = sliding_window_view(data, 2)[graph.starts + _NODE - 2].view("<i2")[:, 0]
    return (
        np.array_equal(said, levels)
        and graph.lists_hold(np.arange(rows), _NODE, wide, 0)
        and all(
            graph.lists_hold(np.flatnonzero(levels >= level), base + step * (level - 1), narrow, level)
            for level in range(1, top + 1)
        )
    )
