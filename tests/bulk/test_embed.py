"""`hierax.embed`: every input has one row in the end, whoever is killed on the way, and the vectors are the predictor's."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hierax
from hierax.bulk import pool
from hierax.bulk.worker import InputMaker
from hierax.cli import main
from hierax.data import containers
from hierax.data.sources import IMAGE_EXTENSIONS
from hierax.data.stream import Source
from hierax.errors import InputError, UnknownNameError

from ..members import write_png

pytest.importorskip("pyarrow")
BAD = "2b.png"


@pytest.fixture
def album(tmp_path, monkeypatch):
    """Ten images in two folders, and a file that is none."""
    monkeypatch.chdir(tmp_path)
    os.makedirs("album/more")
    for number in range(10):
        write_png(tmp_path / "album" / ("more" if number > 6 else "") / f"{number}.png", number)
    (tmp_path / "album" / BAD).write_text("no image")
    return "album"


def read(folder, count: int) -> list[bytes]:
    return [Path(folder, f"{number}.png").read_bytes() for number in range(count)]


def ids_of(path) -> list[int]:
    return hierax.open_store(path).to_arrow()["id"].to_pylist()


def test_store__has_the_predictors_vectors(album, predictor):
    """A row that is missing moves every later vector to another file."""
    done = hierax.embed(album, "out/", progress=False)
    assert (done.rows, done.errors, done.parts, str(done.out), done.within_limit) == (10, 1, 1, "out", False)
    store = hierax.open_store("out")
    table = store.to_arrow()
    assert table["id"].to_pylist() == list(range(11))
    assert table["path"].to_pylist()[3] == f"album/{BAD}"
    assert BAD in table["error"][3].as_py()
    assert table["path_bytes"].null_count == 11
    assert (table["width"][0].as_py(), table["height"][0].as_py()) == Image.open("album/0.png").size
    np.testing.assert_allclose(store.vectors(), predictor.embed(store.paths()), atol=1e-5)
    rows = [row for row in predictor.embed_files(album)]
    assert [row.name for row in rows] == table["path"].to_pylist()
    known = store.metadata
    assert known["model"] == "hiera_nano_96"
    assert len(known["sha256"]) == 64
    assert (known["dtype"], known["normalize"], known["version"]) == ("float32", False, hierax.__version__)


def test_strips__little_of_them_is_seen(tmp_path, predictor, capsys):
    """Vectors of images that are squashed to a twelfth are of little use, which nobody would see."""
    for index in range(4):
        Image.new("RGB", (200, 16), (60 * index,) * 3).save(tmp_path / f"{index}.png")
    hierax.embed(tmp_path, tmp_path / "out.npz", model=predictor)
    assert "--input-size 32x352" in capsys.readouterr().err
    hierax.embed(tmp_path, tmp_path / "fit.npz", model=hierax.load(input_size=(32, 352)))
    assert "far from the shape" not in capsys.readouterr().err


def test_columns__in_one_pass(album, predictor):
    """Each column is what the predictor says by itself."""
    names = ["embedding", "stage1", "stage4", "top5"]
    hierax.embed(album, "out/", columns=names, dtype="float16", model=predictor, progress=False)
    store = hierax.open_store("out")
    assert store.columns[-4:] == names
    maps = predictor.features(store.paths(), stages=("stage1", "stage4"))
    for name in ("stage1", "stage4"):
        assert store.vectors(name).dtype == np.float16
        np.testing.assert_allclose(store.vectors(name), maps[name].mean((2, 3)), atol=2e-3, rtol=2e-3)
    tops = [row for row in store.to_arrow()["top5"].to_pylist() if row is not None]
    wanted = predictor.classify(store.paths(), top_k=5)
    assert [[guess["label"] for guess in row] for row in tops] == [[guess.label for guess in row] for row in wanted]
    assert tops[0][0]["score"] == pytest.approx(wanted[0][0].score, abs=1e-5)


def test_normalize(album):
    """Length 1, as asked for."""
    hierax.embed(album, "out/", normalize=True, progress=False)
    np.testing.assert_allclose(np.linalg.norm(hierax.open_store("out").vectors(), axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("suffix", ["npz", "csv", "jsonl", "parquet"])
def test_one_file(album, predictor, suffix):
    """Small jobs want one file that anything reads."""
    out = f"v.{suffix}"
    assert main(["-q", "embed", album, "-o", out, "--columns", "embedding,top5"]) == 3
    if suffix == "npz":
        found = np.load(out)
        vectors, paths, errors = found["embedding"], found["path"].tolist(), found["error"].tolist()
        assert found["id"].tolist() == list(range(11))
        assert json.loads(str(found["metadata"]))["hierax.model"] == "hiera_nano_96"
        assert len(json.loads(str(found["top5"][0]))) == 5
    elif suffix == "jsonl":
        rows = [json.loads(line) for line in Path(out).read_text().splitlines()]
        vectors, paths, errors = [r["embedding"] for r in rows], [r["path"] for r in rows], [r["error"] for r in rows]
        assert len(rows[0]["top5"]) == 5
    elif suffix == "csv":
        import csv

        rows = list(csv.DictReader(Path(out).read_text().splitlines()))
        vectors = [[float(row[f"embedding_{i}"] or "nan") for i in range(256)] for row in rows]
        paths, errors = [row["path"] for row in rows], [row["error"] for row in rows]
        assert len(json.loads(rows[0]["top5"])) == 5
    else:
        import pyarrow.parquet as pq

        rows = pq.read_table(out).to_pylist()
        vectors, paths, errors = [r["embedding"] for r in rows], [r["path"] for r in rows], [r["error"] for r in rows]
    assert [bool(error) for error in errors] == [path.endswith(BAD) for path in paths]
    good = [index for index, error in enumerate(errors) if not error]
    np.testing.assert_allclose(
        np.stack([vectors[i] for i in good]), predictor.embed([paths[i] for i in good]), atol=1e-5
    )


def test_goes_on__after_any_part(album, predictor, monkeypatch):
    """A run that begins again from nothing never ends on a machine that is taken away every hour."""
    from hierax.store import write

    real = write.Writer.put
    for stop in range(1, 4):
        out = f"out{stop}"
        left = [stop]

        def put(self, *args, left=left, **options):
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            return real(self, *args, **options)

        monkeypatch.setattr(write.Writer, "put", put)
        monkeypatch.setattr(write.Writer, "rescue", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            hierax.embed(album, out + "/", model=predictor, rows_per_part=3, progress=False)
        monkeypatch.setattr(write.Writer, "put", real)
        committed = len(hierax.open_store(out))
        assert committed == 3 * (stop - 1)
        done = hierax.embed(album, out, model=predictor, rows_per_part=3, progress=False)
        assert (done.rows, done.errors) == (10, 1)
        assert ids_of(out) == list(range(11))
    again = hierax.embed(album, out, model=predictor, progress=False)
    assert (again.rows, again.errors) == (10, 1)


@pytest.mark.parametrize("behind", [False, True])
def test_interrupted__in_a_row(album, predictor, monkeypatch, behind):
    """A row that was taken and not counted yet would be there twice once the run goes on."""
    from hierax.store.write import Writer

    real = Writer.add

    def add(self, record):
        if behind or record.id != 5:
            real(self, record)
        if record.id == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "add", add)
        with pytest.raises(KeyboardInterrupt):
            hierax.embed(album, "out/", model=predictor, progress=False, rows_per_part=4)
    assert ids_of("out") == list(range(len(ids_of("out"))))
    hierax.embed(album, "out/", model=predictor, progress=False, rows_per_part=4)
    assert ids_of("out") == list(range(11))


def test_interrupted__keeps_what_is_done(album, predictor, monkeypatch):
    """Ctrl-C after an hour of work in one part."""
    from hierax.bulk import local

    def rows(*args, **options):
        for number, pair in enumerate(embed_rows(*args, **options)):
            if number == 5:
                raise KeyboardInterrupt
            yield pair

    embed_rows = local.local_rows
    monkeypatch.setattr(local, "local_rows", rows)
    with pytest.raises(KeyboardInterrupt):
        hierax.embed(album, "out/", model=predictor, progress=False)
    assert ids_of("out") == [0, 1, 2, 3, 4]


def test_changed_source__is_refused(album, predictor):
    """Positions that mean other files than before give rows twice, and others never."""
    hierax.embed(album, "out/", model=predictor, progress=False)
    write_png("album/more/a.png")
    hierax.embed(album, "out/", model=predictor, progress=False)
    assert ids_of("out") == list(range(12))  # behind all others: the run goes on
    write_png("album/0a.png")
    with pytest.raises(InputError, match="hierax index"):
        hierax.embed(album, "out/", model=predictor, progress=False)
    assert ids_of("out") == list(range(12))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shards__each_position_once(album, predictor, count):
    """Shares that overlap, or leave a gap, of a source that nobody has counted."""
    whole = list(range(11))
    for first in (0, 1):
        found = []
        for number in range(first, count + first):
            out = f"out{first}-{number}"
            hierax.embed(album, out + "/", shard=f"{number}/{count}", model=predictor, progress=False)
            assert hierax.open_store(out).spec.shard == (number or count, count)
            found += ids_of(out)
        assert sorted(found) == whole


@pytest.mark.parametrize("shard", ["3/2", "1/0", "a", "-1/2", "1", 2])
def test_shards__refused(album, predictor, shard):
    """One slip in a scheduler's script must not embed the wrong share for a day."""
    with pytest.raises(InputError, match="2/16"):
        hierax.embed(album, "out/", shard=shard, model=predictor)
    assert not os.path.exists("out")


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"columns": ["embeding"]}, UnknownNameError, "Did you mean 'embedding'"),
        ({"columns": []}, InputError, "at least one"),
        ({"dtype": "int8"}, InputError, "float32 or float16"),
        ({"batch_size": 0}, InputError, "batch_size"),
        ({"batch_size": "many"}, InputError, "auto"),
        ({"engine": "tensorrt"}, UnknownNameError, "none"),
        ({"workers": -1}, InputError, "workers"),
        ({"cluster": "dask"}, InputError, "ray"),
        ({"max_error_rate": 2}, InputError, "0 to 1"),
        ({"rows_per_part": 0}, InputError, "rows_per_part"),
    ],
)
def test_arguments__refused(album, predictor, options, kind, words):
    """Each in one line, and nothing is left behind."""
    with pytest.raises(kind, match=words):
        hierax.embed(album, "out/", model=predictor, progress=False, **options)
    assert not os.path.exists("out")


def test_error_rate(album, capsys):
    """A few bad files of a million are no failure where a person says so."""
    assert main(["-q", "embed", album, "-o", "a/", "--max-error-rate", "0.2"]) == 0
    assert main(["-q", "embed", album, "-o", "b/", "--max-error-rate", "0.01"]) == 3
    assert "1 of 11 files" in capsys.readouterr().err


def sigkilled(item):
    if item.name.endswith("5.png"):
        os.kill(os.getpid(), signal.SIGKILL)


def hung(item):
    if item.name.endswith("5.png"):
        time.sleep(3600)


def once(item):
    if item.name.endswith("5.png") and not os.path.exists("died"):
        Path("died").touch()
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
@pytest.mark.parametrize(
    ("fault", "words", "deadline_s"),
    [(sigkilled, "SIGKILL", 600.0), (hung, "still at it", 3.0), (once, None, 600.0)],  # 3 s: an image takes 5 ms
)
def test_worker_that_dies__costs_one_image(album, predictor, monkeypatch, fault, words, deadline_s):
    """A process that the system ends for want of memory takes the run along, or its rows, or waits for ever."""
    real = InputMaker.__call__

    def make(self, item):
        fault(item)
        return real(self, item)

    monkeypatch.setattr(InputMaker, "__call__", make)
    monkeypatch.setattr(pool, "DEADLINE_S", deadline_s)
    done = hierax.embed(album, "out/", model=predictor, workers=2, progress=False)
    rows = hierax.open_store("out").to_arrow().to_pylist()
    assert [row["id"] for row in rows] == list(range(11))
    bad = {os.path.basename(row["path"]) for row in rows if row["error"]}
    assert bad == ({BAD, "5.png"} if words else {BAD})
    assert done.rows + done.errors == 11
    if words:
        assert words in next(row["error"] for row in rows if row["path"].endswith("5.png"))


def test_workers__end_with_their_parent(album, predictor):
    """Processes that outlive a killed run keep its memory, and its locks."""
    child = os.fork()
    if not child:
        items = Source(album)
        rows = pool.prepared(items, InputMaker.of(predictor), (3, 96, 96), workers=2, ahead=4)
        next(rows)
        pids = [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
        Path("pids").write_text(json.dumps(pids))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    pids = json.loads(Path("pids").read_text())
    assert pids
    end = time.monotonic() + 60
    while any(running(pid) for pid in pids):
        assert time.monotonic() < end, "they live on"


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def test_inputs__may_be_gone_through_once_only(album, predictor):
    """A generator that is looked at twice holds nothing the second time."""
    paths = (Path(album, name) for name in ("1.png", BAD, "2.png"))
    done = hierax.embed(paths, "out/", model=predictor, progress=False)
    assert (done.rows, done.errors) == (2, 1)
    assert ids_of("out") == [0, 1, 2]
    for wrong in (7, None, b"album", [b"album"], iter([3])):
        with pytest.raises(InputError, match="must be a path; got"):
            hierax.embed(wrong, "out/", model=predictor, progress=False)


def test_total__is_counted_in_silence(album, predictor, caplog, monkeypatch):
    """Warnings that are said twice; a tar that is read twice; clips in the total of a model of images."""
    Path("album/clip.mp4").write_bytes(b"")
    os.mkdir("nothing")
    source = Source(["nothing", album], share=(3, 3))
    source.only(IMAGE_EXTENSIONS)
    assert source.counted() == 3
    assert source.counted(lambda: False) is None
    assert not caplog.records
    assert len(list(source)) == 3
    assert "'nothing' holds no images" in caplog.text
    tar("a.tar", [("x.png", b"")])
    monkeypatch.setattr(containers, "in_tars", None)
    for unread in ("a.tar", "-", "http://x.test/a.png", "t.parquet"):
        assert Source([album, unread]).counted() is None


def tar(path, members) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def test_tars(album, predictor):
    """Samples of shards, with the place of each; one that is cut has what was whole, and a row that says so."""
    images = read("album", 4)
    os.mkdir("shards")
    tar("shards/a.tar", [("x.png", images[0]), ("x.cls", b"1"), ("y.v1.png", images[1])])
    tar("shards/b.tar", [("z.png", images[2]), ("q.png", images[3])])
    os.truncate("shards/b.tar", 512 + -(-len(images[2]) // 512) * 512 + 600)
    done = hierax.embed("shards", "out/", model=predictor, progress=False)
    rows = hierax.open_store("out").to_arrow().to_pylist()
    assert [row["path"] for row in rows] == ["shards/a.tar/x", "shards/a.tar/y.v1", "shards/b.tar/z", "shards/b.tar"]
    assert [row["shard"] for row in rows] == ["shards/a.tar"] * 2 + ["shards/b.tar"] * 2
    assert "truncated" in rows[3]["error"]
    assert (done.rows, done.errors) == (3, 1)
    for row, image in zip(rows[:3], images, strict=False):
        with open(row["shard"], "rb") as file:
            file.seek(row["offset"])
            assert file.read(len(image)) == image
    wanted = predictor.embed([f"album/{number}.png" for number in range(3)])
    np.testing.assert_allclose(hierax.open_store("out").vectors(), wanted, atol=1e-5)


@pytest.mark.parametrize("kind", ["bytes", "struct", "path", "arrow"])
def test_tables(album, predictor, kind):
    """Images in a column, as data sets on the hub have them, or their paths."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = read("album", 5)
    images[3] = b"no image"
    if kind == "path":
        column = pa.array([f"album/{number}.png" for number in range(3)] + [f"album/{BAD}", "album/4.png"])
        table = pa.table({"path": column, "label": ["a"] * 5})
    elif kind == "struct":
        table = pa.table(
            {"image": [{"bytes": image, "path": f"{i}.png"} for i, image in enumerate(images)], "n": [1] * 5}
        )
    else:
        table = pa.table({"n": [1] * 5, "image": images})
    if kind == "arrow":
        source = "t.arrow"
        with pa.OSFile(source, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    else:
        source = "t.parquet"
        pq.write_table(table, source, row_group_size=2)
    done = hierax.embed(source, "out/", model=predictor, progress=False)
    assert (done.rows, done.errors) == (4, 1)
    rows = hierax.open_store("out").to_arrow().to_pylist()
    names = {"bytes": "t.parquet#2", "struct": "t.parquet/2.png", "path": "album/2.png", "arrow": "t.arrow#2"}
    assert rows[2]["path"] == names[kind]
    assert rows[2]["offset"] == (None if kind == "path" else 2)
    wanted = predictor.embed([f"album/{number}.png" for number in (0, 1, 2, 4)])
    np.testing.assert_allclose(hierax.open_store("out").vectors(), wanted, atol=1e-5)
    found = []
    for number in (1, 2):
        hierax.embed(source, f"s{number}/", shard=f"{number}/2", model=predictor, progress=False)
        found.append(hierax.open_store(f"s{number}").to_arrow())
    assert found[0]["path"].to_pylist() == [rows[i]["path"] for i in (0, 2, 4)]
    assert found[1]["error"].null_count == 1


def test_tables__large_images_are_not_kept(album, monkeypatch):
    """Whether there are few inputs is asked before the model is loaded: 63 images of 40 MB were kept for it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from hierax.data import stream

    pq.write_table(pa.table({"image": read("album", 5)}), "t.parquet")
    few = stream.Source("t.parquet")
    assert few.fewer_than(64)
    monkeypatch.setattr(stream, "_KEPT_BYTES", 1)
    many = stream.Source("t.parquet")
    assert not many.fewer_than(64)
    assert len(many._first or ()) == 2
    assert [item.data for item in many] == [item.data for item in few]


def test_fsspec(album, predictor):
    """Objects in a place that fsspec has a driver for; one that it has none for is told."""
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    for number, data in enumerate(read("album", 3)):
        system.pipe(f"/bucket/{number}.png", data)
    system.pipe("/bucket/readme.md", b"x")
    hierax.embed("memory://bucket", "out/", model=predictor, progress=False)
    store = hierax.open_store("out")
    assert store.paths() == [f"memory://bucket/{number}.png" for number in range(3)]
    np.testing.assert_allclose(store.vectors(), predictor.embed([f"album/{n}.png" for n in range(3)]), atol=1e-5)
    with pytest.raises(InputError, match="driver|knows"):
        hierax.embed("nowhere://bucket", "out2/", model=predictor, progress=False)


def test_odd_names__byte_for_byte(album, predictor):
    """A name that is no UTF-8 cannot be written as text, and must not be lost."""
    odd = os.fsdecode(b"album/caf\xe9.png")
    write_png("album/a,b\n'.png")
    os.rename("album/1.png", odd)
    hierax.embed(album, "out/", model=predictor, progress=False)
    store = hierax.open_store("out")
    row = next(row for row in store.to_arrow().to_pylist() if row["path_bytes"])
    assert (row["path"], row["path_bytes"]) == ("album/caf\\xe9.png", b"album/caf\xe9.png")
    assert odd in store.paths()
    assert "album/a,b\n'.png" in store.paths()


def test_stdin__and_many_bad_ones(album, predictor, monkeypatch):
    """A list that is piped in, most of which is gone."""
    lines = [f"album/{number}.png" if number < 2 else f"gone/{number}.png" for number in range(200)]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode())))
    done = hierax.embed("-", "out/", model=predictor, progress=False)
    assert (done.rows, done.errors) == (2, 198)
    assert ids_of("out") == list(range(200))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_workers__any_number(album, predictor, workers):
    """Rows in order, whoever made them."""
    hierax.embed(album, "out/", model=predictor, workers=workers, batch_size=4, progress=False)
    assert ids_of("out") == list(range(11))


def test_large_photograph__decoded_small_unless_exact(tmp_path, predictor):
    """A predictor that decoded at a part of the size would differ from the package that a checkpoint came from."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (30, 40, 3), np.uint8))
    path = tmp_path / "large.jpg"
    small.resize((1600, 1200), Image.Resampling.BICUBIC).save(path, quality=92)
    whole = predictor.embed(np.asarray(Image.open(path)))[0]
    np.testing.assert_allclose(predictor.embed(path)[0], whole, atol=1e-6)
    found = {}
    for exact in (False, True):
        hierax.embed(path, tmp_path / f"{exact}/", model=predictor, progress=False, exact=exact)
        store = hierax.open_store(tmp_path / str(exact))
        found[exact] = store.vectors()[0]
        assert store.to_arrow()["width"][0].as_py() == 1600
        assert store.metadata["exact"] is exact
    np.testing.assert_allclose(found[True], whole, atol=1e-5)
    assert np.abs(found[False] - whole).max() > 1e-5
    assert found[False] @ whole / np.linalg.norm(found[False]) / np.linalg.norm(whole) > 0.9995
