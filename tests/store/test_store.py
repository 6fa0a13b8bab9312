"""A store holds what was committed, whatever happens to its writer, and says what made it."""

from __future__ import annotations

import json
import os
import signal
import threading

import numpy as np
import pytest

import hierax
from hierax.errors import InputError, UnknownNameError
from hierax.store import read as reading
from hierax.store.layout import Spec
from hierax.store.tables import Record, reads_null_vectors, vector_array
from hierax.store.write import open_writer

from ..small_disk import on_small_disk, result_of

pa = pytest.importorskip("pyarrow")
SPEC = Spec({"model": "m", "sha256": "a" * 64, "preprocess": {"size": (8, 8)}, "pooling": "pool"}, {"embedding": 4})


def record(index: int) -> Record:
    """Every seventh fails."""
    if index % 7 == 3:
        return Record(index, f"p{index}", error=f"bad {index}")
    return Record(index, f"p{index}", None, 30, 20, values={"embedding": np.full(4, index, np.float32)})


def fill(path, rows, *, per_part=10, spec=SPEC, **options):
    with open_writer(path, spec, rows_per_part=per_part, **options) as writer:
        for index in rows:
            writer.add(record(index))
            if writer.due():
                writer.commit(index + 1, "d")
        writer.commit(rows.stop, "d")
        writer.complete(rows.stop, "d")


def test_rows__come_back(tmp_path):
    """A vector in another row, a bad row that is counted as good, or a column of another kind."""
    fill(tmp_path / "s", range(25))
    store = hierax.open_store(tmp_path / "s")
    good = [index for index in range(25) if index % 7 != 3]
    assert (len(store), store.rows, store.errors, store.complete) == (25, 21, 4, True)
    assert store.columns == ["id", "path", "path_bytes", "width", "height", "error", "shard", "offset", "embedding"]
    table = store.to_arrow()
    assert table["id"].to_pylist() == list(range(25))
    assert [bool(error) for error in table["error"].to_pylist()] == [index % 7 == 3 for index in range(25)]
    assert [vector is None for vector in table["embedding"].to_pylist()] == [index % 7 == 3 for index in range(25)]
    assert (table["width"][0].as_py(), table["height"][0].as_py()) == (30, 20)
    length = (4,) if reads_null_vectors() else ()  # before pyarrow 26 a null of fixed size cannot be read back
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), *length)
    assert json.loads(table.schema.metadata[b"hierax"])["sha256"] == "a" * 64
    vectors = store.vectors()
    assert isinstance(vectors, np.memmap)
    assert vectors[:, 0].tolist() == good
    assert store.paths() == [f"p{index}" for index in good]
    assert store.lookup([20, 0, 7], ["path"])["path"].to_pylist() == [f"p{good[i]}" for i in (20, 0, 7)]
    assert store.metadata["preprocess"] == {"size": [8, 8]}
    with pytest.raises(UnknownNameError, match="embedding"):
        store.vectors("embeding")
    with pytest.raises(InputError, match="from 0 to 20"):
        store.lookup([21])


def test_vectors__are_mapped_once(tmp_path, monkeypatch):
    """Mapping for every search takes as long as half of one; a store that may not be written to is read anew each time."""
    fill(tmp_path / "s", range(10))
    store = hierax.open_store(tmp_path / "s")
    monkeypatch.setattr(reading, "atomic_file", denied)
    vectors = store.vectors()
    assert len(vectors) == 9
    assert store.vectors() is vectors
    assert os.listdir(tmp_path / "s" / "_vectors") == []


def denied(path):
    raise PermissionError(13, "it is somebody else's", str(path))


def test_vectors__are_made_anew_when_rows_come(tmp_path):
    """A stale file beside the parts answers for a store that is no more."""
    fill(tmp_path / "s", range(10))
    assert len(hierax.open_store(tmp_path / "s").vectors()) == 9
    old = os.listdir(tmp_path / "s" / "_vectors")
    fill(tmp_path / "s", range(10, 20))
    assert hierax.open_store(tmp_path / "s").vectors()[-1, 0] == 19
    assert len(os.listdir(tmp_path / "s" / "_vectors")) == 1
    assert os.listdir(tmp_path / "s" / "_vectors") != old


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"provenance": {**SPEC.provenance, "sha256": "b" * 64}}, "sha256 'b+' instead of|sha256 'a+' instead of 'b+'"),
        ({"provenance": {**SPEC.provenance, "preprocess": {"size": [16, 16]}}}, r"\[8, 8\].*\[16, 16\]"),
        ({"vectors": {"stage1": 4}}, "vectors"),
        ({"dtype": "float16"}, "dtype"),
        ({"shard": (1, 2)}, "shard"),
    ],
)
def test_other_spec__is_refused(tmp_path, change, words):
    """Vectors of two models in one folder cannot be told apart, and are searched as if they were of one."""
    fill(tmp_path / "s", range(5))
    before = {p.name: p.read_bytes() for p in (tmp_path / "s").iterdir() if p.is_file()}
    other = Spec(**{**{k: getattr(SPEC, k) for k in ("provenance", "vectors", "dtype", "shard")}, **change})
    with pytest.raises(InputError, match=words) as refusal, open_writer(tmp_path / "s", other):
        pass
    assert "--overwrite" in str(refusal.value)
    assert {p.name: p.read_bytes() for p in (tmp_path / "s").iterdir() if p.is_file()} == before
    fill(tmp_path / "s", range(3), spec=other, overwrite=True) if "dtype" in change else None


def test_foreign_files__stay(tmp_path):
    """Someone's photographs must not be emptied into a store, nor lie in one."""
    (tmp_path / "mine.txt").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"mine\.txt"), open_writer(tmp_path, SPEC, overwrite=overwrite):
            pass
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_second_writer__is_refused_and_named(tmp_path):
    """Two runs that write one output give neither's rows."""
    with open_writer(tmp_path / "s", SPEC) as writer:
        writer.add(record(0))
        with pytest.raises(InputError, match=f"process {os.getpid()} on"), open_writer(tmp_path / "s", SPEC):
            pass
        writer.commit()
    assert len(hierax.open_store(tmp_path / "s")) == 1


@pytest.mark.parametrize("kind", ["dead process", "other host", "nonsense"])
def test_stale_lock__stops_nobody(tmp_path, kind):
    """What a killed process left would lock its output for ever."""
    fill(tmp_path / "s", range(3))
    note = {
        "dead process": {"host": os.uname().nodename, "pid": 2**22 + 1},
        "other host": {"host": "elsewhere", "pid": 1},
    }
    (tmp_path / "s" / "_writer.json").write_text(json.dumps(note.get(kind, [])))
    fill(tmp_path / "s", range(3, 6))
    assert len(hierax.open_store(tmp_path / "s")) == 6


def test_lock__without_locks_of_the_system(tmp_path, monkeypatch):
    """Some network file systems have no locks: there the note of who writes decides, and its silence."""
    import errno

    from hierax.store import lock

    def none(path):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(lock, "locked", none)
    fill(tmp_path / "s", range(3))
    note = tmp_path / "s" / "_writer.json"
    for host, pid, age, refused in (
        (os.uname().nodename, os.getppid(), 0, True),
        (os.uname().nodename, 2**22 + 1, 0, False),
        ("elsewhere", 1, 10, True),
        ("elsewhere", 1, lock.STALE_S + 10, False),
    ):
        note.write_text(json.dumps({"host": host, "pid": pid}))
        os.utime(note, (note.stat().st_mtime - age,) * 2)
        if refused:
            with pytest.raises(InputError, match=f"process {pid} on {host}"), open_writer(tmp_path / "s", SPEC):
                pass
        else:
            with open_writer(tmp_path / "s", SPEC):
                pass


def test_torn_line_and_uncommitted_part__do_not_count(tmp_path):
    """A part of which the commit was cut off is there twice once it is written again."""
    fill(tmp_path / "s", range(20))
    parts = tmp_path / "s" / "_parts.jsonl"
    lines = parts.read_bytes().splitlines(keepends=True)
    parts.write_bytes(lines[0] + lines[1][:40])
    (tmp_path / "s" / ".part-00000002.parquet.77").write_bytes(b"half")
    assert len(hierax.open_store(tmp_path / "s")) == 10
    fill(tmp_path / "s", range(10, 25))
    store = hierax.open_store(tmp_path / "s")
    assert store.to_arrow()["id"].to_pylist() == list(range(25))
    assert sorted(n for n in os.listdir(tmp_path / "s") if "parquet" in n) == [p.part for p in store.parts]


@pytest.mark.parametrize("damage", ["missing part", "short part", "line", "manifest", "later layout", "no store"])
def test_damage__is_told(tmp_path, damage):
    """A damaged store that opens gives answers nobody can check."""
    fill(tmp_path / "s", range(20))
    path = tmp_path / "s"
    if damage == "missing part":
        (path / "part-00000001.parquet").unlink()
    elif damage == "short part":
        with (path / "part-00000001.parquet").open("ab") as file:
            file.truncate(100)
    elif damage == "line":
        (path / "_parts.jsonl").write_bytes(b"{]\n" + (path / "_parts.jsonl").read_bytes())
    elif damage == "manifest":
        (path / "_store.json").write_text('{"version": 1, "vectors": 3}')
    elif damage == "later layout":
        (path / "_store.json").write_text('{"version": 99}')
    else:
        path = tmp_path
    with pytest.raises(InputError) as refusal:
        hierax.open_store(path)
    assert len(str(refusal.value).splitlines()) == 1


def test_damaged_inside__is_told_when_it_is_read(tmp_path):
    """Bytes that rot keep their number."""
    fill(tmp_path / "s", range(20))
    part = tmp_path / "s" / "part-00000001.parquet"
    part.write_bytes(bytes(len(part.read_bytes())))
    with pytest.raises(InputError, match="part-00000001"):
        hierax.open_store(tmp_path / "s").to_arrow()


def run_and_die(path, at: int) -> bool:
    """Write a store in a forked process that ends at its n-th look at the disk; whether it came to the end."""
    child = os.fork()
    if not child:
        count = 0

        def step():
            nonlocal count
            count += 1
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)

        def stepped(original):
            def call(*args, **options):
                step()
                found = original(*args, **options)
                step()
                return found

            return call

        for name in ("fsync", "replace", "open", "unlink", "truncate"):
            setattr(os, name, stepped(getattr(os, name)))
        with open_writer(path, SPEC, rows_per_part=4) as writer:
            for index in range(writer.commits.next, 12):
                writer.add(record(index))
                if writer.due():
                    writer.commit(index + 1, "d")
            writer.complete(12, "d")
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def test_killed_at_every_look_at_the_disk__same_rows(tmp_path):
    """Between the part and its commit, between the file and its name: each is a moment at which power fails."""
    for at in range(1, 90, 2):
        path, committed = tmp_path / str(at), 0
        whole = run_and_die(path, at)
        if (path / "_store.json").exists():
            committed = len(hierax.open_store(path))
            assert committed % 4 == 0
        if whole:
            break
        assert run_and_die(path, 0)
        store = hierax.open_store(path)
        assert store.to_arrow()["id"].to_pylist() == list(range(12))
        assert store.complete
        assert len(store) >= committed
        assert [n for n in sorted(os.listdir(path)) if "parquet" in n] == [p.part for p in store.parts]
    assert 20 < at < 89


def test_round__comes_and_goes_whole(tmp_path):
    """A store that is edited has all of a round or nothing: half of it is a file that is there twice, or not at all."""
    fill(tmp_path / "s", range(20))
    table = hierax.open_store(tmp_path / "s").to_arrow()

    def edit(fails: bool):
        with open_writer(tmp_path / "s", SPEC) as writer, writer.round():
            writer.put(table.slice(2, 3), 1, replaces="part-00000000.parquet")
            writer.put(table.slice(0, 0), 0, replaces="part-00000001.parquet")
            writer.put(table.slice(0, 1), 0)
            if fails:
                raise KeyError

    with pytest.raises(KeyError):
        edit(True)
    assert len(hierax.open_store(tmp_path / "s")) == 20
    edit(False)
    store = hierax.open_store(tmp_path / "s")
    assert store.to_arrow()["id"].to_pylist() == [2, 3, 4, 0]
    assert (store.edited, store.errors, len(store.files)) == (True, 1, 2)
    assert [n for n in sorted(os.listdir(tmp_path / "s")) if "parquet" in n] == [p.part for p in store.parts]


def test_full_disk__keeps_what_was_committed(tmp_path):
    """A run that dies of a full disk must neither lose what was whole nor leave what is not."""
    code = """
    import numpy as np
    from hierax.errors import InputError
    from hierax.store.write import open_writer
    from hierax.store import open_store
    from hierax.store.layout import Spec
    from hierax.store.tables import Record, reads_null_vectors
    spec = Spec({"model": "m"}, {"embedding": 64})
    def run():
        with open_writer(DISK / "s", spec, rows_per_part=50) as writer:
            for index in range(writer.commits.next, 400):
                writer.add(Record(index, f"p{index}", values={"embedding": np.random.rand(64)}))
                if writer.due():
                    writer.commit(index + 1)
            writer.commit(400)
    fill(left=60_000)
    said = ""
    try: run()
    except InputError as error: said = str(error)
    kept = len(open_store(DISK / "s"))
    hidden = [name for name in listing() if ".part" in name]
    free()
    run()
    print(json.dumps([said, kept, hidden, open_store(DISK / "s").to_arrow()["id"].to_pylist() == list(range(400))]))
    """
    said, kept, hidden, whole = result_of(on_small_disk(tmp_path / "disk", code))
    assert "No space left on device. Free some space" in said
    assert 0 < kept < 400
    assert kept % 50 == 0
    assert (hidden, whole) == ([], True)


def test_reading_while_it_is_written(tmp_path):
    """A reader sees whole parts only."""
    seen, stop = [], threading.Event()

    def read():
        while not stop.is_set():
            if (tmp_path / "s" / "_parts.jsonl").exists():
                seen.append(hierax.open_store(tmp_path / "s").to_arrow()["id"].to_pylist())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        fill(tmp_path / "s", range(60), per_part=5)
    finally:
        stop.set()
        reader.join()
    assert all(ids == list(range(len(ids))) and (len(ids) % 5 == 0) for ids in seen)


def test_null_vectors__hold_nothing_where_lists_have_any_length():
    """Before pyarrow 20 a null list that holds something cannot be written: one broken image would end the run."""
    vectors = np.arange(12, dtype=np.float32).reshape(4, 3)
    for null in ([False, True, False, True], [True] * 4, [False] * 4):
        made = vector_array(vectors, np.array(null), pa.list_(pa.float32()))
        assert made.to_pylist() == [None if gone else row.tolist() for gone, row in zip(null, vectors, strict=True)]
        assert len(made.values) == 3 * null.count(False)
