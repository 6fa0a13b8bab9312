"""Shards: kept indices that are never trusted blindly, transfers that never leave a half file, splits that stay apart."""

from __future__ import annotations

import contextlib
import functools
import gzip
import http.server
import json
import os
import threading
from typing import ClassVar

import pytest

from hierax.data import remote
from hierax.data.datasets import shard_index
from hierax.data.datasets.open import find_validation, open_data
from hierax.data.remote import Progress, cache_folder, fetch
from hierax.errors import InputError

from .test_folders import png, samples, write_tar


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(shard_index, "_WORTH_KEEPING", 0)
    monkeypatch.setattr(remote, "_PAUSES_S", (0.0, 0.0))
    return tmp_path / "cache" / "hierax"


def contents(data):
    return [(data.name(i), int(data.labels[i]), data.read(i)) for i in range(len(data))], data.problems


@pytest.fixture
def scans(monkeypatch):
    """Names of the tars that were really read."""
    real, read = shard_index.scan, []
    monkeypatch.setattr(shard_index, "scan", lambda path: read.append(path.name) or real(path))
    return read


def test_the_second_start_reads_no_headers(tmp_path, cache, scans):
    """An index that is built again costs minutes at every start; one that loses a problem or a label changes the run."""
    members = [
        *samples(4),
        ("odd.png", png()),
        ("odd.txt", b"no label"),
        ("d/caf\udce9.jpg", png()),
        ("d/caf\udce9.cls", b"1"),
    ]
    path = write_tar(tmp_path / "x.tar", members)
    path.write_bytes(path.read_bytes()[: -1024 * 9])  # without its end marker
    first = contents(open_data(path))
    assert scans == ["x.tar"]
    assert contents(open_data(path)) == first
    assert len(contents(open_data(path, labelled=False))[0]) == len(first[0]) + 1
    assert scans == ["x.tar"]
    assert len(first[1]) == 2
    assert not list(cache.rglob("*.part"))


def test_a_changed_tar_is_read_again(tmp_path, cache, scans):
    """Offsets of the old file would cut the new one's images anywhere."""
    path = write_tar(tmp_path / "x.tar", samples(4))
    open_data(path)
    write_tar(path, samples(6, 10))
    assert contents(open_data(path))[0][0][0] == "x.tar/00010"
    changed = path.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(changed, changed))
    open_data(path)
    assert scans == ["x.tar"] * 3


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other tar", "outside", "not lists"])
def test_a_damaged_index_is_ignored(tmp_path, cache, scans, damage):
    """A cache that is believed turns one bad disk block into a run on garbage, or into a crash."""
    path = write_tar(tmp_path / "x.tar", samples(4))
    whole = contents(open_data(path))
    (kept,) = (cache / "shard-index").iterdir()
    data = kept.read_bytes()
    if damage in ("cut", "flipped", "empty"):
        kept.write_bytes(
            {"cut": data[:-5], "flipped": data[:100] + bytes([data[100] ^ 255]) + data[101:], "empty": b""}[damage]
        )
    else:
        record = json.loads(gzip.decompress(data))
        if damage == "other tar":
            record["path"] = "/elsewhere/x.tar"
        elif damage == "outside":
            record["index"]["offsets"][0] = 10**12
        else:
            record["index"]["sizes"] = None
        kept.write_bytes(gzip.compress(json.dumps(record).encode()))
    assert contents(open_data(path)) == whole
    assert scans == ["x.tar"] * 2


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch, cache):
    """A read-only home must cost time, not the run."""
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(open_data(write_tar(tmp_path / "x.tar", samples(4)))) == 4


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves ranges, and breaks off where it is told to."""

    breaks: ClassVar[list[int]]
    asked: ClassVar[list[tuple[str, str | None]]]
    status: int | None = None
    tag = '"one"'

    def log_message(self, *args):
        pass

    def do_GET(self):
        kind = type(self)
        kind.asked.append((self.path, self.headers.get("Range")))
        if kind.status is not None:
            self.send_error(kind.status)
            return
        try:
            with open(self.translate_path(self.path), "rb") as stream:
                data = stream.read()
        except OSError:
            self.send_error(404)
            return
        start = 0
        if self.headers.get("Range") and self.headers.get("If-Range") == kind.tag:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("ETag", kind.tag)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        stop = kind.breaks.pop(0) if kind.breaks and not self.path.endswith(".json") else len(data)
        self.wfile.write(data[start:stop])


@pytest.fixture
def server(tmp_path):
    served = tmp_path / "served"
    served.mkdir()
    handler = type("Handler", (Server,), {"breaks": [], "asked": [], "status": None})
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(served)))
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield handler, served, f"http://127.0.0.1:{found.server_port}"
    with contextlib.suppress(OSError):
        found.shutdown()
        found.server_close()


def test_an_interrupted_transfer_goes_on(cache, server):
    """Starting at byte 0 again never finishes a large shard on a bad line; gluing two versions together is worse."""
    handler, served, url = server
    path = write_tar(served / "s.tar", samples(4))
    handler.breaks = [3000, 7000]
    assert fetch(f"{url}/s.tar", Progress()).read_bytes() == path.read_bytes()
    assert [given for _, given in handler.asked] == [None, "bytes=3000-", "bytes=7000-"]
    assert sorted(entry.name for entry in cache.rglob("s.tar*")) == ["s.tar", "s.tar.lock"]


def test_a_transfer_that_fails_leaves_nothing_under_its_name(cache, server):
    """A half shard under its final name is a damaged shard for ever; another process goes on with the part."""
    handler, served, url = server
    path = write_tar(served / "s.tar", samples(4))
    handler.breaks = [3000, 3000, 3000]
    with pytest.raises(InputError, match=r"s\.tar.*3000 of"):
        open_data(f"{url}/s.tar")
    assert not list(cache.rglob("s.tar"))
    handler.tag = '"two"'  # the file was replaced meanwhile: the part is of no use
    assert fetch(f"{url}/s.tar", Progress()).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (403, 1), (503, 3)])
def test_only_what_may_pass_is_tried_again(cache, server, status, tries):
    """Hammering a 404 wastes a minute; giving up on a 503 wastes a night."""
    handler, _, url = server
    handler.status = status
    with pytest.raises(InputError, match=str(status)):
        fetch(f"{url}/s.tar", Progress())
    assert len(handler.asked) == tries


def test_a_set_behind_an_address(cache, server, capsys):
    """Its validation split must be used and not trained on; offline, what is cached must do."""
    handler, served, url = server
    write_tar(served / "a-0.tar", samples(6))
    write_tar(served / "b-0.tar", samples(3, 6))
    splits = {"train": {"filenames": ["a-0.tar"], "shard_lengths": [6]}, "validation": {"filenames": ["b-0.tar"]}}
    (served / "_info.json").write_text(json.dumps({"splits": splits}))
    for source in (url, f"{url}/", f"{url}/_info.json"):
        train, validation = open_data(source), find_validation(source)
        assert (len(train), len(validation), train.problems) == (6, 3, [])
    assert [path for path, _ in handler.asked].count("/a-0.tar") == 1
    assert len(open_data(f"{url}/a-{{0..0}}.tar?download=true")) == 6
    handler.status = 503
    assert len(open_data(url)) == 6
    assert "the copy in the cache is used" in capsys.readouterr().err


@pytest.mark.parametrize("info", ["<html>", "[]", '{"splits": {"train": {}}}', '{"splits": {"train": {"filenames": "a.tar"}}}',
                                  '{"splits": {"train": {"filenames": ["../a.tar"]}}}', '{"splits": {"train": null}}'])  # fmt: skip
def test_strange_info_files(tmp_path, info):
    """Each would otherwise be an internal error, or a way out of the folder."""
    write_tar(tmp_path / "a.tar", samples(2))
    (tmp_path / "_info.json").write_text(info)
    with pytest.raises(InputError, match=r"_info\.json"):
        open_data(tmp_path)


def test_validation_tars_are_never_trained_on(tmp_path):
    """A folder of tars without `_info.json` names its splits in file names, and not always all of them."""
    write_tar(tmp_path / "set-0.tar", samples(6))
    write_tar(tmp_path / "set-val-0.tar", samples(3, 6))
    write_tar(tmp_path / "set-test-0.tar", samples(2, 9))
    assert len(open_data(tmp_path)) == 6
    assert len(find_validation(tmp_path)) == 3
    (tmp_path / "_info.json").write_text(json.dumps({"filenames": ["set-0.tar"]}))
    assert find_validation(tmp_path) is None


def test_small_tars_leave_no_trace(tmp_path, monkeypatch):
    """Thousands of small files in the cache for tars that are read in no time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    open_data(write_tar(tmp_path / "x.tar", samples(2)))
    assert not (tmp_path / "cache").exists()
    assert cache_folder("shards").parent.parent == tmp_path / "cache"
