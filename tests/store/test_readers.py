"""Other programs read a store as it lies there: vectors of one length, nothing where an image could not be read."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import subprocess
import sys

import numpy as np
import pytest

import hierax
from hierax.store.tables import reads_null_vectors

from .test_store import fill

pa = pytest.importorskip("pyarrow")


def by_pyarrow(module, store):
    import pyarrow.parquet as pq

    table = pq.read_table(store.path)
    length = (4,) if reads_null_vectors() else ()
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), *length)
    return table["embedding"].to_pylist()


def by_polars(module, store):
    column = module.read_parquet(store.path / "*.parquet")["embedding"]
    assert column.dtype == (module.Array(module.Float32, 4) if reads_null_vectors() else module.List(module.Float32))
    return [vector if vector is None else vector.to_list() for vector in column]


def by_pandas(module, store):
    column = module.read_parquet(store.path)["embedding"]
    assert np.stack(column.dropna()).dtype == np.float32
    return [vector if vector is None else vector.tolist() for vector in column]


def by_duckdb(module, store):
    rows = f"from '{store.path}/*.parquet'"
    near = module.sql(f"select id {rows} order by array_distance(embedding::FLOAT[4], [8.1, 8.1, 8.1, 8.1]::FLOAT[4])")
    assert near.fetchall()[0] == (8,)
    found = module.sql(f"select embedding::FLOAT[4], error is null {rows} order by id").fetchall()
    assert [vector is not None for vector, _ in found] == [good for _, good in found]
    return [vector if vector is None else list(vector) for vector, _ in found]


LANCE = """
import sys, lance
from pyarrow import dataset, types
store, place, fixed = sys.argv[1:]
lance.write_dataset(dataset.dataset(store, format="parquet"), place)  # part by part, however many there are
found = lance.dataset(place)
if fixed == "True":
    assert types.is_fixed_size_list(found.schema.field("embedding").type), found.schema
    near = found.to_table(nearest={"column": "embedding", "q": [8.1] * 4, "k": 1})
    assert near["id"].to_pylist() == [8], near
print(found.to_table()["embedding"].to_pylist())
"""


def by_lance(module, store):
    """In a process of its own: its threads do not survive the forks of other tests."""
    command = [sys.executable, "-c", LANCE, store.path, store.path.parent / "x.lance", str(reads_null_vectors())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return ast.literal_eval(done.stdout)


@pytest.mark.parametrize("read", [by_pyarrow, by_polars, by_pandas, by_duckdb, by_lance])
def test_other_readers(tmp_path, read):
    """A folder that only we can read is a database without a server; a bad row must not come as zeros, or move others."""
    name = read.__name__.removeprefix("by_")
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    module = None if read is by_lance else importlib.import_module(name)
    fill(tmp_path / "s", range(25))
    vectors = read(module, hierax.open_store(tmp_path / "s"))
    assert vectors == [None if index % 7 == 3 else [float(index)] * 4 for index in range(25)]
