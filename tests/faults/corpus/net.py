"""Hubs, mirrors, servers, catalogues and caches that wrote, deleted or kept what they should not, or never ended.

Each case runs a server of its own on 127.0.0.1. A file named `canary` outside of the cache is an attack that succeeded.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hierax
from hierax.errors import CheckpointError, HieraxError, UnknownNameError

from ...net.server import COMMIT, Hub
from .case import Case
from .case import hierax as cli

_BODY = b"\x80\x02" + bytes(range(256)) * 8
_TIMEOUT_S = 0.2
_DRIP_TIMEOUT_S = 0.08  # no drip may succeed, so a machine too busy to answer in time spoils none


@contextlib.contextmanager
def hub(folder: Path, timeout_s: float = _TIMEOUT_S) -> Iterator[Hub]:
    """A hub that this process asks in place of the real one, and a cache of its own; nothing waits for long."""
    from huggingface_hub import constants

    from hierax.net import transfer

    server = Hub()
    constants.HF_HUB_OFFLINE, constants.ENDPOINT = False, server.url
    constants.HF_HOME, constants.HF_HUB_CACHE = str(folder / "hf"), str(folder / "hf" / "hub")
    constants.HF_HUB_ETAG_TIMEOUT = constants.HF_HUB_DOWNLOAD_TIMEOUT = timeout_s
    constants.HUGGINGFACE_CO_URL_TEMPLATE = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    transfer._FIRST_WAIT_S = 0.0
    try:
        yield server
    finally:
        server.close()


def _answers(*headers: dict[str, str]) -> list[Callable]:
    """A fault: weights with these headers, in turn; the last ones stay."""

    def reply(given: dict[str, str]) -> Callable:
        def send(handler: Any) -> None:
            handler.reply(200, _BODY, {"X-Repo-Commit": COMMIT, "ETag": '"tag"', **given})

        return send

    return [reply(given) for given in headers]


def _fetch(*headers: dict[str, str], source: str = "org/repo") -> Callable[[Path], Any]:
    """Fetch weights from a hub that answers so."""

    def act(folder: Path) -> Any:
        from hierax.weights.hub import fetch_source

        with hub(folder) as server:
            server.faults["*"] = _answers(*headers)
            return fetch_source(source.replace("HUB", server.url))[0].read_bytes()

    return act


def _hostile_headers() -> list[Case]:
    up = "../" * 4 + "canary"
    odd = {"up": up, "dots": "..", "slash": "a/b", "long": "a" * 300, "empty": "", "back": "..\\canary", "colon": "a:b"}
    cases = [
        Case(f"{name.lower()}_{kind}", act=_fetch({name: f'"{value}"'}), raises=CheckpointError, match="hub's protocol")
        for kind, value in odd.items()
        for name in ("ETag", "X-Linked-ETag", "X-Repo-Commit")
        if (name, kind) != ("X-Linked-ETag", "empty")
    ]
    absolute = {"X-Linked-ETag": "/tmp/canary"}
    cases.append(Case("etag_absolute", act=_fetch(absolute), raises=CheckpointError, match="hub's protocol"))
    # What was checked must be what is used: huggingface_hub asks a second time.
    for name in ("ETag", "X-Linked-ETag", "X-Repo-Commit"):
        act = _fetch({}, {name: f'"{up}"'}, source="HUB/org/repo/resolve/main/x.pth")
        cases.append(Case(f"second_{name.lower()}", act=act, expect=lambda found: found == _BODY))
    for name, value in {"ETag": "\xb2", "Content-Length": "\xb2", "Retry-After": "\xb2"}.items():
        cases.append(Case(f"no_number_{name.lower()}", act=_ended({name: value}), expect=bool))
    return cases


def _ended(headers: dict[str, str], status: int = 200) -> Callable[[Path], bool]:
    """Whether a download ends, well or in an error of ours."""

    def act(folder: Path) -> bool:
        from hierax.weights.hub import fetch_source

        def send(handler: Any) -> None:
            handler.send_response(503 if "Retry-After" in headers else status)
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(_BODY)

        with hub(folder) as server:
            server.faults["*"] = [send]
            with contextlib.suppress(HieraxError):
                fetch_source(f"{server.url}/plain/x.pth")
        return True

    return act


def _names() -> list[Case]:
    up = "../" * 4 + "canary"

    def load(source: str, files: dict[str, bytes] | None = None) -> Callable[[Path], Any]:
        def act(folder: Path) -> Any:
            with hub(folder) as server:
                server.repos["org/repo"] = files or {"model.safetensors": _BODY}
                return hierax.load(source.replace("HUB", server.url))

        return act

    index = b'{"weight_map": {"a": "%s"}}'
    sources = {
        "revision_up": (f"org/repo@{up}", UnknownNameError, "branch, tag or commit"),
        "repo_up": ("../repo", CheckpointError, "."),
        "address_up": (
            "HUB/org/repo/resolve/main/..%2f..%2f..%2f..%2f..%2fcanary.pth",
            CheckpointError,
            "inside of it",
        ),
        "address_revision_up": (f"HUB/org/repo/resolve/{up.replace('/', '%2f')}/x.pth", UnknownNameError, "branch"),
        "address_nul": ("HUB/org/repo/resolve/main/a%00.pth", CheckpointError, "inside of it"),
    }
    cases = [Case(name, act=load(text), raises=kind, match=match) for name, (text, kind, match) in sources.items()]
    for number, name in enumerate((up, "..", "/canary", "a\\u0000b", "sub/../../canary", "C:\\\\canary")):
        files = {"model.safetensors.index.json": index % name.encode()}
        cases.append(Case(f"index_names_{number}", act=load("org/repo", files), raises=CheckpointError))
    listed = {f"{up}.pt": _BODY}
    cases.append(Case("listing_up", act=load("org/repo", listed), raises=CheckpointError, match="no weights file"))
    return cases


def _drip(handler: Any, first: bytes, piece: bytes) -> None:
    """Send a beginning, then a little for ever: each piece keeps a socket's timeout from ending."""
    handler.wfile.write(first)
    while not handler.hub.released.wait(_DRIP_TIMEOUT_S / 4):
        handler.wfile.write(piece)


_HEAD = b"HTTP/1.1 200 OK\r\nX-Repo-Commit: " + COMMIT.encode() + b'\r\nETag: "tag"\r\n'
_DRIPS = {
    "status_line": (b"HTTP/1.1 200 O", b"K"),
    "header_line": (_HEAD + b"X-Long: ", b"x"),
    "headers": (_HEAD, b"X: y\r\n"),
    "continues": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body": (_HEAD + b"Content-Length: 99999\r\n\r\n", b"x"),
    "body_without_length": (_HEAD + b"Connection: close\r\n\r\n", b"x"),
    "chunks": (_HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "chunk_extension": (_HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x"),
    "trailers": (_HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"X: y\r\n"),
}


def _drips() -> list[Case]:
    def act(first: bytes, piece: bytes, source: str, get_only: bool) -> Callable[[Path], float]:
        def run(folder: Path) -> float:
            from hierax.weights.hub import fetch_source

            with hub(folder, _DRIP_TIMEOUT_S) as server:
                begun = time.monotonic()
                fault = "GET /org/repo/resolve/main/model.safetensors" if get_only else "*"
                server.repos["org/repo"] = {"model.safetensors": _BODY}
                server.faults[fault] = [lambda handler: _drip(handler, first, piece)]
                try:
                    fetch_source(source.replace("HUB", server.url))
                except CheckpointError:
                    return time.monotonic() - begun
            raise RuntimeError("it must not succeed")

        return run

    cases = []
    for name, (first, piece) in _DRIPS.items():
        for place, source, get_only in (
            ("hub", "org/repo", False),
            ("hub_body", "org/repo", True),
            ("address", "HUB/plain/x.pth", False),
        ):
            run = act(first, piece, source, get_only)
            # Five attempts of three timeouts for the headers and twice that for a body: 3 s; the rest is a busy machine's.
            cases.append(Case(f"drip_{name}_{place}", act=run, expect=lambda wall: wall < 60 * _TIMEOUT_S))
    return cases


def _deletes(folder: Path) -> bytes:
    """A snapshot whose file is a link to the user's own, and a hub that has other bytes."""
    from hierax.weights.hub import fetch_source

    mine = folder / "mine.safetensors"
    mine.write_bytes(b"years of work")
    with hub(folder) as server:
        server.repos["org/repo"] = {"model.safetensors": _BODY}
        path = fetch_source("org/repo")[0] / "model.safetensors"
        path.unlink()
        path.symlink_to(mine)
        fetch_source("org/repo")
        assert path.read_bytes() == _BODY
        elsewhere = folder / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "model.safetensors").write_bytes(b"years of work")
        for file in path.parent.iterdir():
            file.unlink()
        path.parent.rmdir()
        path.parent.symlink_to(elsewhere)
        with contextlib.suppress(HieraxError):
            fetch_source("org/repo")
        return mine.read_bytes() + (elsewhere / "model.safetensors").read_bytes()


def _header(name: str, size: int, kind: bytes = b"0", **changes: bytes) -> bytes:
    """One header with a valid checksum; `size` may be anything that base 256 can say."""
    import tarfile

    info = tarfile.TarInfo(name)
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = size.to_bytes(12, "big", signed=True)
    block[124] |= 0x80
    block[156:157] = kind
    for at, value in ((int(key[1:]), value) for key, value in changes.items()):
        block[at : at + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _tar(*pieces: bytes, length: int = 0, times: int = 1, start: Sequence[bytes] = ()) -> Callable[[Path], None]:
    """Pieces, together repeated only when they are written, behind a start."""

    def make(folder: Path) -> None:
        with (folder / "x.tar").open("wb") as stream:
            stream.writelines(start)
            for _ in range(times):
                stream.writelines(pieces)
            stream.truncate(max(length, stream.tell() + 1024))

    return make


def _tars() -> list[Case]:
    from hierax.data.datasets.open import open_data

    from ...members import plain_image

    image = plain_image()
    sample = [_header("a.png", len(image)), image, bytes(-len(image) % 512), _header("a.cls", 1), b"0", bytes(511)]
    deep = b"[" * 900_000
    sidecar = [_header("b.png", len(image)), image, bytes(-len(image) % 512), _header("b.json", len(deep)), deep,
               bytes(-len(deep) % 512)]  # fmt: skip
    long_name = _header("././@LongLink", 512, b"L") + b"b" * 511 + b"\0"
    pax = b"30 size=%s\n" % (b"9" * 21)
    hostile = {
        "chained_long_names": [long_name],
        "chained_pax": [_header("p", 512, b"x") + b"11 path=bb\n".ljust(512, b"\0")],
        "chained_global_pax": [_header("p", 0, b"g")],
        "long_name_of_gigabytes": [_header("././@LongLink", 6 << 30, b"L")],
        "pax_of_gigabytes": [_header("p", 6 << 30, b"x")],
        "negative_size": [_header("b.png", -512)],
        "negative_long_name": [_header("././@LongLink", -512, b"L")],
        "base_256": [_header("b.png", 1 << 86)],
        "base_256_folder": [_header("b", 1 << 86, b"Q")],
        "beyond_the_file": [_header("b.png", 7 << 30)],
        "pax_size": [_header("p", 512, b"x") + pax.ljust(512, b"\0"), _header("b.png", 1)],
        "pax_lengths": [_header("p", 512, b"x") + b"0 path=b\n".ljust(512, b"\0"), _header("b.png", 1)],
        "sparse_map_without_end": [_header("b.png", 0, b"S", _482=b"\1"), b"\1" * 512 * 20_000],
        "deep_json": sidecar,
        "escapes": [_header("\x1b[2J\x1b]0;x\7.png", 0, b"2")],
        "empty_members": [_header("x" * 90, 0)],
        "folders": [_header(f"{n:05}/", 0, b"5") for n in range(99)],
        "dotted": [_header("." * 90 + str(n), 0) for n in range(9999)],
    }
    times = {
        "chained_long_names": 100_000,
        "chained_pax": 50_000,
        "chained_global_pax": 100_000,
        "empty_members": 300_000,
        "folders": 1000,
    }
    cases = []
    for name, pieces in hostile.items():
        length = 6 << 30 if "gigabytes" in name else 0
        make = _tar(*pieces, length=length, times=times.get(name, 1), start=sample)
        one = {"expect": lambda data: len(data) == 1 and len(data.problems) < 1100, "seconds": 20.0}
        cases.append(Case(f"tar_{name}", make=make, act=lambda folder: open_data(folder / "x.tar"), **one))
    return cases


def _listings() -> list[Case]:
    from hierax.data.datasets.open import open_data
    from hierax.errors import InputError

    def info(content: bytes, length: int = 0) -> Callable[[Path], None]:
        def make(folder: Path) -> None:
            _tar(length=10240)(folder)
            (folder / "_info.json").write_bytes(content)
            if length:
                with (folder / "_info.json").open("ab") as stream:
                    stream.truncate(length)

        return make

    files = b'{"splits": {"train": {"filenames": %s, "shard_lengths": %s}}}'
    contents = {
        "deep": b'{"splits": ' + b"[" * 10**6,
        "number": b'{"splits": ' + b"9" * 10**5 + b"}",
        "nul": files % (b'["a\\u0000.tar"]', b"[1]"),
        "parent": files % (b'[".."]', b"[1]"),
        "surrogate": files % (b'["\\ud800.tar"]', b"[1]"),
        "long": files % (b'["' + b"a" * 10**6 + b'.tar"]', b"[1]"),
        "empty_name": files % (b'[""]', b"[1]"),
        "no_text": files % (b"[1, {}, null]", b"[1]"),
        "encoding": b"\xff\xfe{\0}\0",
    }
    cases = [
        Case(f"info_{name}", make=info(content), act=lambda folder: open_data(folder), raises=InputError)
        for name, content in contents.items()
    ]
    cases.append(Case("info_of_400_mb", make=info(b"{", 400 << 20), act=lambda f: open_data(f), raises=InputError))
    for number, text in enumerate(("{0..99999999999}", "{0..9}" * 9, "{0..%s}" % ("9" * 5000), "{9..0}")):
        act = functools.partial(lambda folder, pattern: open_data(folder / f"x-{pattern}.tar"), pattern=text)
        cases.append(Case(f"pattern_{number}", act=act, raises=InputError, match="at most"))

    def odd(folder: Path) -> None:
        (folder / "x.tar").mkdir()
        os.mkfifo(folder / "y.tar")

    cases.append(Case("tars_that_are_none", make=odd, act=lambda folder: open_data(folder), raises=InputError))
    return cases


def _secrets(folder: Path) -> list[str]:
    """Where what signed addresses led to, files and messages, holds the signature."""
    from ...members import samples, write_tar

    with hub(folder) as server:
        server.plain["train.tar"] = write_tar(folder / "train.tar", samples(12)).read_bytes()
        server.plain["w.pth"] = hierax.convert("hiera_nano_96", folder / "w.pth", to="meta").read_bytes()
        signed = f"{server.url}/plain/%s?X-Amz-Signature=s3cret"
        ran = []
        data, weights = signed % "train.tar", signed % "w.pth"
        for again in ([], ["--resume"]):
            options = ["--steps", "1", "--batch-size", "4", "--device", "cpu", "--set", "workers=0"]
            ran.append(cli("finetune", data, "run", "--model", weights, *options, f"validation={data}", *again))
        user = server.url.replace("http://", "http://user:s3cret@")
        server.faults["*"] = [{"status": 302, "headers": {"Location": f"{server.url}/plain/x?sig=s3cret"}}, 403]
        for source in (
            f"{user}/plain/w.pth",
            signed % "gone.pth",
            "http:/user:s3cret@h/x.tar?s3cret",
            "HTTP://s3cret@h/x.tar",
        ):
            ran += [cli("download", source), cli("classify", source), cli("eval", "accuracy", source)]
            ran += [cli("classify", source, "train.tar", "--format", form) for form in ("json", "csv")]
    files = [path for path in folder.rglob("*") if path.is_file()]
    found = b"".join(str(path).encode() + path.read_bytes() for path in files).decode("latin-1")
    if any("internal error" in each.err for each in ran) or ran[0].code or ran[1].code:
        raise RuntimeError(str(ran))
    found += "".join(each.out + each.err for each in ran)
    return re.findall(".{0,80}s3cret", found)


def _catalogs() -> list[Case]:
    model = '[[model]]\nname = "toy"\narchitecture = "hiera_tiny_224"\nformat = "meta"\nlicense = "mit"\n'

    def catalog(text: str) -> Callable[[Path], None]:
        return lambda folder: (folder / "c.toml").write_text(text) and None

    def load(folder: Path) -> Any:
        os.environ["HIERAX_CATALOG"] = str(folder / "c.toml")
        with hub(folder):
            return hierax.load("toy")

    texts = {
        "home_of_nobody": model + 'path = "~nobody.of.that.name/x.pth"\n',
        "nul": model + 'path = "a\\u0000b"\n',
        "long_path": model + f'path = "{"a" * 5000}"\n',
        "long_name": model + f'path = "{"a" * 500}"\n',
        "file_up": model + 'repo = "org/repo"\nfile = "../../../canary.pth"\n',
        "revision_up": model + 'repo = "org/repo"\nrevision = "../../../../canary"\n',
        "repo_up": model + 'repo = "../../x"\n',
        "ftp": model + 'url = "ftp://127.0.0.1/x"\n',
        "local_file": model + 'url = "file:///etc/passwd"\n',
        "deep": "a = " + "[" * 100_000,
        "deep_keys": "a" + ".a" * 100_000 + " = 1",
        "digits": "model = " + "9" * 100_000,
        "types": "model = [1, 2]",
        "text_of_megabytes": model + f'url = "http://h/{"x" * 5_000_000}"\n',
    }
    return [
        Case(f"catalogue_{name}", make=catalog(text), act=load, raises=HieraxError, match="must|is none|mean|exist|id")
        for name, text in texts.items()
    ]


CASES = [
    *_catalogs(),
    Case("secrets", act=_secrets, expect=lambda found: not found, seconds=120.0, megabytes=1500),
    *_hostile_headers(),
    *_names(),
    *_drips(),
    *_tars(),
    *_listings(),
    Case("own_files_behind_links", act=_deletes, expect=lambda left: left == b"years of work" * 2),
]
