"""Downloads from a server that misbehaves: nothing half, foreign or endless ever takes a file's name."""

from __future__ import annotations

import json
import os
import shutil
import types
import urllib.request
from urllib.error import HTTPError

import pytest
from huggingface_hub import constants

from hierax.errors import InputError, IntegrityError
from hierax.net import connection, transfer
from hierax.net.cache import Published, cache_root, short_hash
from hierax.net.download import download
from hierax.net.transfer import Kind

TOY = b"TOY" + bytes(range(256)) * 100
PAGE = b"\n <!DOCTYPE html><html><body>Log in, please</body></html>"


def _trouble(path):
    return "" if path.read_bytes().startswith(b"TOY") else "is no toy"


KIND = Kind("a toy", InputError, folder="toys", most_bytes=100_000, trouble=_trouble)


@pytest.fixture
def toy(web, cache):
    """The address of a file, and the server that has it."""
    web.plain["toy.bin"] = TOY
    return web.url + "/plain/toy.bin"


def files(cache):
    """What the cache holds, but for locks and notes."""
    return sorted(path.name for path in (cache / "toys").rglob("*") if path.is_file())


def answer(status, body, **headers):
    """A fault: an answer as it stands, ended by closing the connection where no length is given."""

    def send(handler):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return send


def test_a_file_is_fetched_once_and_without_tokens(toy, web, cache, monkeypatch):
    """A second transfer wastes hours; a token sent to any address gives the account away."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    path = download(toy, KIND)
    assert path.read_bytes() == TOY
    assert download(f"{toy}#part", KIND) == path
    assert len(web.log) == 1
    assert files(cache) == ["toy.bin"]
    assert "secret" not in json.dumps(web.log)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (answer(200, PAGE, Content_Type="text/html", Content_Length=str(len(PAGE))), "web page"),
        (answer(200, PAGE, Content_Type="application/x-tar", Content_Length=str(len(PAGE))), "web page"),
        (answer(200, b"\xef\xbb\xbf" + PAGE), "web page"),
        (answer(200, b'{"error": "log in"}', Content_Type="application/x-tar"), "no toy"),
        (answer(200, b"", Content_Length="0"), "no toy"),
        (answer(204, b""), "204"),
        (answer(205, b""), "205"),
        (answer(200, TOY, Content_Encoding="gzip", Content_Length=str(len(TOY))), "gzip"),
        (answer(200, TOY * 9, Content_Length=str(len(TOY) * 9)), "larger"),
        (answer(302, b"", Location="ftp://127.0.0.1/toy.bin"), "redirects"),
        (answer(302, b"", Location="file:///etc/passwd"), "redirects"),
        (answer(300, b""), "redirects"),
        (404, "404"),
    ],
)
def test_what_is_no_such_file_is_refused_at_once(toy, web, cache, fault, words):
    """Each, kept under the file's name, is a damaged file for ever; asking again changes none of them."""
    web.faults["GET /plain/toy.bin"] = [fault]
    with pytest.raises(InputError, match=words):
        download(toy, KIND)
    assert len(web.log) == 1
    assert files(cache) == []
    web.faults.clear()
    assert download(toy, KIND).read_bytes() == TOY


def test_https_is_never_left_for_http():
    """Whoever sits on the line could put any file in the place of the one that was asked for."""
    handler = connection.Redirects()
    request = urllib.request.Request("https://host/toy.bin")
    closed = types.SimpleNamespace(close=lambda: None)
    for target in ("http://host/toy.bin", "ftp://host/toy.bin"):
        with pytest.raises(HTTPError, match="redirect to"):
            handler.redirect_request(request, closed, 302, "Found", {}, target)
    assert handler.redirect_request(request, closed, 302, "Found", {}, "https://other/toy.bin") is not None


@pytest.mark.parametrize("status", [200, 302])
def test_an_endless_body_ends(toy, web, cache, status):
    """Without a length only a limit stops it; the body of a redirect is read by no one but the standard library."""

    def endless(handler):
        answer(status, b"TOY", **({"Location": "/plain/other.bin"} if status == 302 else {}))(handler)
        while True:
            handler.wfile.write(bytes(1 << 16))

    web.plain["other.bin"] = TOY
    web.faults["GET /plain/toy.bin"] = [endless]
    if status == 302:
        assert download(toy, KIND).read_bytes() == TOY
        return
    with pytest.raises(InputError, match="larger"):
        download(toy, KIND)
    assert files(cache) == []


def test_a_body_without_length_is_taken(toy, web):
    """Servers that compose a file as they send it state no length."""
    web.faults["GET /plain/toy.bin"] = [answer(200, TOY)]
    assert download(toy, KIND).read_bytes() == TOY


def test_a_server_that_drips_is_stopped(toy, web, monkeypatch):
    """Each byte keeps a socket's timeout from ending; the whole would take weeks."""
    clock = iter(range(0, 10**9, 1000))
    monkeypatch.setattr(transfer, "time", types.SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda s: None))
    web.faults["GET /plain/toy.bin"] = [answer(200, TOY[:99])]
    with pytest.raises(InputError, match="stopped sending"):
        download(toy, KIND)
    assert len(web.log) == transfer.ATTEMPTS


def test_an_interrupted_transfer_goes_on(toy, web, cache):
    """Starting at byte 0 again never finishes a large file on a bad line."""
    web.faults["GET /plain/toy.bin"] = [("cut", 3000), ("cut", 7000), "whole"]
    assert download(toy, KIND).read_bytes() == TOY
    assert web.ranges("toy.bin") == [None, "bytes=3000-", "bytes=7000-"]
    assert files(cache) == ["toy.bin"]


def test_a_transfer_that_fails_is_continued_by_the_next_process(toy, web, cache):
    """What arrived before a failure, or a kill, would be paid for twice."""
    web.faults["GET /plain/toy.bin"] = [("cut", 3000)]
    with pytest.raises(InputError, match=r"toy\.bin.*3000 of"):
        download(toy, KIND)
    assert files(cache) == ["toy.bin.part", "toy.bin.part.etag"]
    web.faults.clear()
    assert download(toy, KIND).read_bytes() == TOY
    assert web.ranges("toy.bin")[-1] == "bytes=3000-"


@pytest.mark.parametrize("obeys", [True, False])
def test_a_file_that_changed_between_attempts_starts_again(toy, web, obeys):
    """Two versions glued together have the right length, and some servers ignore If-Range."""
    new = b"TOY" + TOY[:2:-1]
    steps = [("cut", 3000), lambda handler: replace(handler)]

    def replace(handler):
        web.plain["toy.bin"] = new
        headers = {"ETag": '"new"', "Content-Range": f"bytes 3000-{len(new) - 1}/{len(new)}"}
        handler.reply(*((200, new, {}) if obeys else (206, new[3000:], headers)))

    web.faults["GET /plain/toy.bin"] = [*steps, "whole"]
    assert download(toy, KIND).read_bytes() == new


@pytest.mark.parametrize(
    ("range_", "body"), [("bytes 3000-3999/25603", TOY[3000:4000]), ("bytes 0-9/25603", TOY[:10]), (None, TOY)]
)
def test_a_range_that_was_not_asked_for_is_not_glued_on(toy, web, range_, body):
    """A piece in the wrong place, or a shorter one than was asked for, makes a file of foreign bytes."""
    wrong = answer(206, body, Content_Length=str(len(body)), **({"Content_Range": range_} if range_ else {}))
    web.faults["GET /plain/toy.bin"] = [("cut", 3000), wrong, "whole"]
    assert download(toy, KIND).read_bytes() == TOY


@pytest.mark.parametrize(
    ("headers", "again"),
    [
        ({"ETag": 'W/"weak"', "Last_Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}, "bytes=10-"),
        ({"ETag": 'W/"weak"'}, None),
        ({}, None),
    ],
)
def test_only_a_strong_tag_or_a_date_lets_a_transfer_go_on(toy, web, headers, again):
    """A weak tag does not promise the same bytes; its server may still send a date."""
    web.faults["GET /plain/toy.bin"] = [answer(200, TOY[:10], Content_Length=str(len(TOY)), **headers), "whole"]
    assert download(toy, KIND).read_bytes() == TOY
    assert web.ranges("toy.bin") == [None, again]


@pytest.mark.parametrize(("asked", "waited"), [("7", [7.0]), ("900", [30.0]), ("Wed, 21 Oct 2026 07:28:00 GMT", [0.5])])
def test_a_busy_server_is_asked_again_when_it_says(toy, web, monkeypatch, asked, waited):
    """Sooner is refused again; waiting for as long as any server says may be for ever."""
    waits = []
    clock = types.SimpleNamespace(monotonic=transfer.time.monotonic, sleep=waits.append)
    monkeypatch.setattr(transfer, "time", clock)
    monkeypatch.setattr(transfer, "_FIRST_WAIT_S", 0.5)
    web.faults["GET /plain/toy.bin"] = [{"status": 503, "headers": {"Retry-After": asked}}, "whole"]
    assert download(toy, KIND).read_bytes() == TOY
    assert waits == waited


def test_offline_mode_asks_nobody(toy, web, cache, monkeypatch):
    """On a machine without a network every question waits for its timeout."""
    path = download(toy, KIND)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert download(toy, KIND) == download(toy, KIND, changing=True) == path
    with pytest.raises(InputError, match="HF_HUB_OFFLINE"):
        download(toy.replace("toy.bin", "other.bin"), KIND)
    assert len(web.log) == 1


def test_a_file_that_changes_is_asked_for_again(toy, web, capsys):
    """The copy of yesterday would hide what is new; without an answer it must do, said aloud."""
    download(toy, KIND, changing=True)
    web.plain["toy.bin"] = b"TOY two"
    assert download(toy, KIND, changing=True).read_bytes() == b"TOY two"
    web.faults["*"] = [503]
    before = len(web.log)
    assert download(toy, KIND, changing=True).read_bytes() == b"TOY two"
    assert len(web.log) == before + 1  # a run must not wait for what it can do without
    assert "the copy in the cache is used" in capsys.readouterr().err
    web.faults["*"] = [404]
    with pytest.raises(InputError, match="404"):
        download(toy, KIND, changing=True)


def test_a_bad_copy_in_the_cache_is_found_out(toy, web, cache):
    """A login page, or a flipped bit, that was accepted once would be read for ever."""
    path = download(toy, KIND)
    for bad in (PAGE, TOY[:-1] + b"!"):
        path.write_bytes(bad)
        assert download(toy, KIND).read_bytes() == TOY
    path.write_bytes(PAGE)
    web.faults["*"] = [answer(200, PAGE)]
    with pytest.raises(InputError, match="web page"):
        download(toy, KIND)
    assert files(cache) == []


def test_wrong_bytes_are_refused_twice_and_leave_nothing(toy, web, cache, capsys):
    """The right length and beginning do not make the right bytes."""
    with pytest.raises(IntegrityError, match="0000"):
        download(toy, KIND, Published(("0" * 64,)))
    assert len(web.log) == 2
    assert files(cache) == []
    assert capsys.readouterr().err.count("deleted") == 2


def test_a_cache_that_cannot_be_written_serves_what_it_has(toy, web, cache):
    """Containers mount the cache read-only; a lock or a note that must be written would break them."""
    path = download(toy, KIND)
    for name in ("locks", "verified"):
        shutil.rmtree(cache / name)
        (cache / name).write_text("in the way")
    assert download(toy, KIND) == path
    shutil.rmtree(cache / "toys")
    (cache / "toys").write_text("in the way")
    with pytest.raises(InputError, match="HF_HOME"):
        download(toy, KIND)


def test_a_full_disk_is_noticed_before_the_transfer(toy, web, cache, monkeypatch):
    """Found out after an hour, it leaves other programs without space."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1000))
    with pytest.raises(InputError, match="HF_HOME"):
        download(toy, KIND)
    assert files(cache) == []


@pytest.mark.parametrize(
    "address",
    ["ftp://host/toy", "toy.bin", "http://", "http://[bad/toy", "http://host:port/toy", "http://name:s3cret@host/toy"],
)
def test_addresses_that_are_none(cache, address):
    """Each is an error of another kind in the standard library, and some of its messages hold the password."""
    with pytest.raises(InputError, match="http://") as caught:
        download(address, KIND)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("name", ["a b.bin", "caf\xe9.bin", "%2e%2e", "..%2f..%2fup.bin", "", "x" * 300 + ".bin"])
def test_odd_names_are_fetched_and_stay_inside_the_cache(web, cache, name):
    """An address may name its file in any way; none may reach outside its folder."""
    web.faults["*"] = [answer(200, TOY)]
    path = download(f"{web.url}/plain/{name}?k=1", KIND)
    assert path.read_bytes() == TOY
    assert path.parent.parent == cache / "toys"


def test_secrets_in_a_query_stay_secret(toy, web, cache, capsys):
    """Signed addresses are permits: in a log, an issue or a file name they are given away."""
    secret, said = f"{toy}?token=s3cret", []
    faults = [404, 401, 503, "loop", ("cut", 10), answer(200, PAGE), answer(204, b""), "stop",
              answer(302, b"", Location="gopher://x/?token=s3cret"), answer(302, b"", Location="http://[s3cret/")]  # fmt: skip
    for fault in faults:
        web.faults["*"] = [fault if fault != "stop" else lambda handler: None]
        with pytest.raises(InputError) as caught:
            download(secret, KIND)
        said.append(str(caught.value))
    web.faults["*"] = ["whole"]
    download(secret, KIND)
    web.faults["*"] = [503]
    download(secret, KIND, changing=True)
    held = [f"{path}{path.read_bytes()!r}" for path in cache_root().rglob("*") if path.is_file()]
    assert "s3cret" not in "".join((*said, *held, capsys.readouterr().err))
    assert len(said) == len(faults)


def test_a_proxy_is_asked_where_one_is_set(web, cache, monkeypatch):
    """Many networks have no other way out."""
    web.plain["toy.bin"] = TOY
    monkeypatch.setenv("http_proxy", web.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert download("http://host.invalid/plain/toy.bin", KIND).read_bytes() == TOY


def test_where_earlier_versions_put_a_file_it_is_still_found(toy, web, cache):
    """The move of the cache must not fetch terabytes again."""
    path = download(toy, KIND)
    earlier = cache.parent.parent / "earlier" / "hierax" / path.relative_to(cache)
    earlier.parent.mkdir(parents=True)
    path.rename(earlier)
    assert download(toy, KIND) == earlier
    assert len(web.log) == 1


def test_what_a_killed_download_left_is_cleaned_in_the_end(toy, web, cache):
    """A signed address is never asked for again: its half file would lie in the cache for ever."""
    web.faults["*"] = [("cut", 3000)]
    for query in ("?old", "?new"):
        with pytest.raises(InputError):
            download(toy + query, KIND)
    old = next(path for path in cache.rglob("*.part") if path.parent.name == short_hash(f"{toy}?old", 16))
    os.utime(old, (1, 1))
    web.faults.clear()
    download(toy, KIND)
    assert files(cache) == ["toy.bin", "toy.bin.part", "toy.bin.part.etag"]
    assert not old.exists()


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_was_put_in_the_place_of_a_partial_file_is_taken_away(toy, web, cache, tmp_path, kind):
    """Opened, a link overwrites the file that it leads to, and a pipe waits for ever."""
    mine, part = tmp_path / "mine", cache / "toys" / short_hash(toy, 16) / "toy.bin.part"
    mine.write_bytes(b"years of work")
    part.parent.mkdir(parents=True)
    for place in (part, part.with_name("toy.bin.part.etag")):
        place.symlink_to(mine) if kind == "link" else os.mkfifo(place)
    assert download(toy, KIND).read_bytes() == TOY
    assert mine.read_bytes() == b"years of work"
