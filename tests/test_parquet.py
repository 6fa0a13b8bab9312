"""Parquet is read on the thread that asks: a thread of pyarrow that still holds a Python file kills an ending process."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

import hierax
from hierax import parquet
from hierax.data.containers import in_tables
from hierax.errors import InputError
from hierax.parquet import parquet_file, rows_at_once
from hierax.search.fresh import look
from hierax.search.notes import write_notes

from .members import write_png

pytest.importorskip("pyarrow")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")

READS = {
    "store": "hierax.open_store('store').to_arrow()",
    "notes": "from hierax.search.notes import read_notes; assert read_notes(pathlib.Path('store'))",
    "nulls": "from hierax.store.tables import reads_null_vectors; reads_null_vectors()",
    "images": "from hierax.data.containers import in_tables; assert len(list(in_tables('images.parquet', bool))) == 3",
    "labels": "from hierax.data.datasets.tables import read_table; read_table(pathlib.Path('labels.parquet'))",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store with its notes, and two tables."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = tmp_path_factory.mktemp("parquet")
    (found / "photos").mkdir()
    images = [write_png(found / "photos" / f"{number}.png", number) for number in range(3)]
    hierax.embed(found / "photos", found / "store", progress=False, workers=0)
    write_notes(found / "store", look(images))
    pq.write_table(
        pa.table({"image": [path.read_bytes() for path in images], "n": [1, 2, 3]}), found / "images.parquet"
    )
    pq.write_table(pa.table({"image": ["a", "b"], "label": ["x", "y"]}), found / "labels.parquet")
    return found


@pytest.mark.parametrize("read", READS)
def test_read__starts_no_thread(folder, read):
    """Duplicates of a store ended with "terminate called without an active exception" in two runs of five."""
    code = (
        "import hierax, os, pathlib, pyarrow.compute, pyarrow.parquet\n"
        "def threads():\n"
        "    names = [pathlib.Path(f'/proc/self/task/{each}/comm').read_text() for each in os.listdir('/proc/self/task')]\n"
        "    return sorted(name for name in names if not name.startswith('jemalloc'))\n"
        "hierax.open_store\n"
        "before = threads()\n"
        f"{READS[read]}\n"
        "print(len(threads()) - len(before))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr


def test_unpacked__is_known_before(tmp_path, monkeypatch):
    """A cell of 1.5 GB took 4.7 GB, from a file of 46 KB; images that take their bytes in the file stay welcome."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def table(cells):
        pq.write_table(pa.table({"n": range(len(cells)), "image": cells}), tmp_path / "t.parquet", compression="zstd")
        return in_tables(str(tmp_path / "t.parquet"), bool)

    monkeypatch.setattr(parquet, "UNPACKED", 1 << 20)
    noise = random.Random(0).randbytes(2 << 20)
    assert [len(item.data) for item in table([noise, b"x"])] == [2 << 20, 1]
    assert len(list(table([bytes(1000)] * 100))) == 100
    with pytest.raises(InputError, match=r"'image' unpacks from [\d,]+ to 2,\d+,\d+ bytes.*smaller row groups"):
        next(table([bytes(1 << 20), bytes([1]) * (1 << 20)]))


def test_rows_at_once__fewer_of_a_large_column(tmp_path):
    """A cell that is in the file once may be each of a batch's rows: 64 of 40 MB took 5.8 GB."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def most(bytes_each, distinct):
        cells = [bytes([n]) * bytes_each for n in range(distinct)]
        pq.write_table(pa.table({"image": [cells[n % distinct] for n in range(8)]}), tmp_path / "t.parquet")
        with open(tmp_path / "t.parquet", "rb") as file:
            return parquet.rows_at_once(parquet.parquet_file(file), 0, "image", 64, "t")

    assert most(1000, 8) == 64
    assert 1 < most(1 << 20, 1) <= 16
    assert most(3 << 20, 8) == 1


@pytest.mark.parametrize("name", ["image", "image.bytes"])
def test_cells__unpack_few_at_once(tmp_path, name):
    """A bound that looks for a column by the first part of its name lets every column with a dot through."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({name: [b"x" * (4 << 20)] * 8, "image2": [b""] * 8}), tmp_path / "t.parquet")
    with (tmp_path / "t.parquet").open("rb") as file:
        assert rows_at_once(parquet_file(file), 0, name, 64, "t") < 64
