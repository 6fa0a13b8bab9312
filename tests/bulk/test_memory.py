"""Results of any number of files in memory that does not grow with it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from hierax.commands.common import Paths

MEASURE = """
import resource, sys
from pathlib import Path
import numpy as np
from hierax.bulk.files import FileWriter
from hierax.bulk.run import Row
from hierax.bulk.write import write_maps
from hierax.outputs import claimed
from hierax.store.layout import Spec
from hierax.store.tables import Record

out, rows, marks = Path(sys.argv[1]), int(sys.argv[2]), []

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def made(value):
    for index in range(rows):
        if index == 5000:
            marks.append(peak())
        name = Path(f"album/{index:08d}.jpg")
        yield Row(name, None, "cannot be read") if index % 10 == 9 else Row(name, value(index))

def vector(index):
    return np.full(256, index, np.float32)

def maps(index):
    return {"stage1": np.full((8, 8, 8), index, np.float32), "stage4": np.full((16, 2, 2), index, np.float32)}

if "maps" in out.name:
    with claimed(out, (".npz", ".parquet"), overwrite=False) as output:
        write_maps(made(maps), output, stages=("stage1", "stage4"), metadata={})
else:
    with FileWriter.claimed(out, overwrite=False) as output:
        output.begin(Spec({}, {"embedding": 256}))
        for index, row in enumerate(made(vector)):
            values = None if row.error else {"embedding": row.value}
            output.add(Record(index, row.name, error=row.error, values=values))
        output.commit()
print(peak() - marks[0])
"""


def grown(path, rows: int) -> float:
    """Megabytes between row 5,000 and the end."""
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path), str(rows)], capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v.npz", "v.parquet", "maps.npz"])
def test_rows__memory_is_flat(tmp_path, name):
    """Rows that are gathered first: a million of them take gigabytes, and the result comes only if they fit."""
    rows = 60_000
    assert grown(tmp_path / name, rows) < 20
    failed = np.arange(rows) % 10 == 9
    good = np.flatnonzero(~failed)
    if name == "v.parquet":
        table = pytest.importorskip("pyarrow.parquet").read_table(tmp_path / name)
        assert table["id"].to_numpy().tolist() == list(range(rows))
        assert (np.asarray(table["embedding"].is_null()) == failed).all()
        assert (np.stack(table["embedding"].drop_null().to_numpy(zero_copy_only=False))[:, 0] == good).all()
        assert table["path"][-1].as_py() == f"album/{rows - 1:08d}.jpg"
        return
    data = np.load(tmp_path / name)
    assert (data["path"] == [f"album/{index:08d}.jpg" for index in range(rows)]).all()
    assert ((data["error"] == "cannot be read") == failed).all()
    if name == "v.npz":
        assert (np.isnan(data["embedding"][:, 0]) == failed).all()
        assert (data["embedding"][good, -1] == good).all()
    else:
        assert (data["index"] == good).all()
        assert data["stage1"].shape == (len(good), 8, 8, 8)
        assert (data["stage4"][:, 3, 1, 1] == good).all()


def test_paths__as_a_list_of_paths(tmp_path):
    """A hundred thousand path objects take 42 MB."""
    given = [tmp_path / f"{index}.png" for index in range(5)]
    paths = Paths(given)
    assert list(paths) == given
    assert (paths[0], paths[-1], paths[1:3], len(paths)) == (given[0], given[-1], given[1:3], 5)
