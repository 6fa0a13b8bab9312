"""Maps of many images in one file, in memory that does not grow with their number."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from ..errors import writing
from ..outputs import OutputFile
from .npz import Columns

if TYPE_CHECKING:
    from .run import Row


def write_maps(rows: Iterable[Row], output: OutputFile, *, stages: Iterable[str], metadata: dict[str, str]) -> None:
    """Write stage maps as npz: `path`, `error` per file, `index` of the rows that have maps, one array per stage.

    Raises:
        InputError: The file cannot be written.
    """
    arrays = {"index": np.int64, **dict.fromkeys(stages, np.float32)}
    with writing(output.path), Columns(output.partial, texts=("path", "error"), arrays=arrays) as columns:
        for index, row in enumerate(rows):
            columns.add(path=row.name, error=row.error or "")
            if row.value is not None:
                columns.add(index=index, **row.value)
        columns.write(metadata=np.array(json.dumps(metadata)))
