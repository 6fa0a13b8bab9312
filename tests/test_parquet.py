"""Parquet is read on the thread that asks: a thread of pyarrow that still holds a Python file kills an ending process."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hierax
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
