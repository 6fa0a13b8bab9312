"""Shards: kept indices that are never trusted blindly, transfers that never leave a half file, splits that stay apart."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from hierax.data.datasets import shard_index
from hierax.data.datasets.open import find_validation, open_data
from hierax.errors import InputError

from ...members import plain_image, samples, write_tar

SOURCE = str(Path(__file__).parents[3] / "src")
PAGE = b"<!DOCTYPE html><html><body>Log in, please</body></html>"


@pytest.fixture(autouse=True)
def keep_all(cache, monkeypatch):
    """Indices of small tars are kept as well."""
    monkeypatch.setattr(shard_index, "_WORTH_KEEPING", 0)


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
        ("odd.png", plain_image()),
        ("odd.txt", b"no label"),
        ("d/caf\udce9.jpg", plain_image()),
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
            record["samples"][0][2] = 10**12
        else:
            record["samples"] = None
        kept.write_bytes(gzip.compress(json.dumps(record).encode()))
    assert contents(open_data(path)) == whole
    assert scans == ["x.tar"] * 2


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch, cache):
    """A read-only home must cost time, not the run."""
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "file"))
    assert len(open_data(write_tar(tmp_path / "x.tar", samples(4)))) == 4


@pytest.fixture
def served(tmp_path, web):
    """Puts tars behind an address, and gives the address of their folder."""

    def serve(name, members):
        web.plain[name] = write_tar(tmp_path / name, members).read_bytes()
        return f"{web.url}/plain"

    return serve


def test_a_set_behind_an_address(web, served, capsys):
    """Its validation split must be used and not trained on; without an answer, what is cached must do."""
    served("a-0.tar", samples(6))
    url = served("b-0.tar", samples(3, 6))
    splits = {"train": {"filenames": ["a-0.tar"], "shard_lengths": [6]}, "validation": {"filenames": ["b-0.tar"]}}
    web.plain["_info.json"] = json.dumps({"splits": splits}).encode()
    for source in (url, f"{url}/", f"{url}/_info.json", f"{url}/_info.json?permit=s3cret"):
        train, validation = open_data(source), find_validation(source)
        assert (len(train), len(validation), train.problems) == (6, 3, [])
    assert web.count("GET", "/a-0.tar") == 2  # with and without the permit
    assert len(open_data(f"{url}/a-{{0..0}}.tar?download=true")) == 6
    web.faults["*"] = [503]
    assert len(open_data(url)) == 6
    said = capsys.readouterr().err
    assert "the copy in the cache is used" in said
    assert "s3cret" not in said


def test_a_permit_in_an_address_is_sent_and_never_said(web, served):
    """A signed folder gives nothing without its query; in a message the query gives the folder away."""
    url = served("a.tar", samples(2))
    web.plain["empty.tar"] = bytes(10240)
    for source, info in ((f"{url}/empty.tar?permit=s3cret", b""), (f"{url}/?permit=s3cret", b"[]"), (f"{url}/?permit=s3cret", b'{"splits": {"x": {}}}'),
                         (f"{url}/a.tar.gz?permit=s3cret", b""), ("pipe:curl -H s3cret", b"")):  # fmt: skip
        web.plain["_info.json"] = info
        with pytest.raises(InputError) as caught:
            open_data(source)
        assert "s3cret" not in str(caught.value)


def test_an_interrupted_shard_is_never_half(web, served, cache):
    """A half shard under its final name is a damaged shard for ever."""
    url = served("s.tar", samples(4))
    web.faults["GET /plain/s.tar"] = [("cut", 3000)]
    with pytest.raises(InputError, match=r"s\.tar.*3000 of"):
        open_data(f"{url}/s.tar")
    assert not list(cache.rglob("s.tar"))
    web.faults.clear()
    assert len(open_data(f"{url}/s.tar")) == 4
    assert web.ranges("s.tar")[-1] == "bytes=3000-"
    with pytest.raises(InputError, match="404"):
        open_data(f"{url}/other.tar")


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (403, 1), (503, 5)])
def test_only_what_may_pass_is_tried_again(web, cache, status, tries):
    """Hammering a 404 wastes a minute; giving up on a 503 wastes a night."""
    web.faults["*"] = [status]
    with pytest.raises(InputError, match=str(status)):
        open_data(f"{web.url}/plain/s.tar")
    assert len(web.log) == tries


@pytest.mark.parametrize("kind", ["text/html", "application/x-tar"])
@pytest.mark.parametrize(
    "body", [PAGE, PAGE * 40, b"", gzip.compress(b"x" * 9000, mtime=0), b'{"error": "log in"}' * 60]
)
def test_what_is_no_tar_is_never_kept_as_one(web, served, cache, kind, body):
    """A login page at a shard's address, kept under the tar's name, is a damaged shard for ever."""
    url = served("s.tar", samples(4))

    def login(handler):
        handler.reply(200, body, {"Content-Type": kind})

    web.faults["GET /plain/s.tar"] = [login, "whole"]
    with pytest.raises(InputError, match=r"s\.tar must be a plain tar"):
        open_data(f"{url}/s.tar")
    assert not list(cache.rglob("s.tar"))
    assert len(open_data(f"{url}/s.tar")) == 4


def test_a_page_that_an_earlier_version_kept_as_a_tar_is_fetched_anew(web, served, cache):
    """The cache of a person who met the fault must mend itself, once, and say so clearly if it cannot."""
    url = served("s.tar", samples(4))
    open_data(f"{url}/s.tar")
    (kept,) = cache.rglob("s.tar")
    earlier = cache.parent.parent / "earlier" / "hierax" / kept.relative_to(cache)
    earlier.parent.mkdir(parents=True)
    for place in (kept, earlier):
        kept.unlink(missing_ok=True)
        place.write_bytes(PAGE)
        assert len(open_data(f"{url}/s.tar")) == 4
    web.faults["*"] = [lambda handler: handler.reply(200, PAGE, {})]
    for path in cache.parent.parent.rglob("s.tar"):
        path.write_bytes(PAGE)
    with pytest.raises(InputError, match="web page"):
        open_data(f"{url}/s.tar")


def test_a_page_in_the_place_of_the_info_leaves_the_copy_alone(web, served):
    """A captive portal would replace what is known of a set by its own page."""
    url = served("a.tar", samples(2))
    web.plain["_info.json"] = json.dumps({"splits": {"train": {"filenames": ["a.tar"]}}}).encode()
    open_data(url)
    web.faults["*"] = [lambda handler: handler.reply(200, PAGE, {})]
    with pytest.raises(InputError, match="_info.json must be"):
        open_data(url)
    web.faults["*"] = [503]
    assert len(open_data(url)) == 2


def test_a_truncated_shard_is_reported_however_it_came(web, served):
    """A tar cut between two samples ends like a whole one for most readers."""
    url = served("s.tar", samples(4))
    whole = web.plain["s.tar"].rstrip(b"\0")
    web.plain["s.tar"] = whole + bytes(-len(whole) % 512)
    data = open_data(f"{url}/s.tar")
    assert len(data) == 4
    assert "no end marker" in str(data.problems)


def test_offline_mode_holds_for_shards(web, served, monkeypatch):
    """A training run on a machine without a network would wait for every shard's timeout."""
    url = served("a.tar", samples(2))
    web.plain["_info.json"] = json.dumps({"splits": {"train": {"filenames": ["a.tar"]}}}).encode()
    open_data(url)
    asked = len(web.log)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert len(open_data(url)) == 2
    with pytest.raises(InputError, match="HF_HUB_OFFLINE"):
        open_data(f"{url}/b.tar")
    assert len(web.log) == asked


def test_processes_fetch_a_shard_once(web, served, tmp_path):
    """Every worker of a node that fetches for itself fills the line, and the disk, as often as there are workers."""
    url = served("s.tar", samples(4))
    code = f"from hierax.data.datasets.open import open_data; print(len(open_data('{url}/s.tar')))"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": SOURCE, "HF_HOME": str(tmp_path / "shared")}
    commands = [[sys.executable, "-c", code]] * 2
    running = [subprocess.Popen(c, env=environment, stdout=subprocess.PIPE, text=True) for c in commands]
    assert [process.communicate(timeout=600)[0].strip() for process in running] == ["4", "4"]
    assert web.count("GET", "s.tar") == 1


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
    assert len(open_data(tmp_path, split="all")) == 11
    (tmp_path / "_info.json").write_text(json.dumps({"filenames": ["set-0.tar"]}))
    assert find_validation(tmp_path) is None


def test_small_tars_leave_no_trace(tmp_path, monkeypatch, cache):
    """Thousands of small files in the cache for tars that are read in no time."""
    monkeypatch.setattr(shard_index, "_WORTH_KEEPING", 10**6)
    open_data(write_tar(tmp_path / "x.tar", samples(2)))
    assert not cache.exists()
