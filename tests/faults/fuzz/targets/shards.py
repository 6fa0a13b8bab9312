"""WebDataset shards: tars whose headers lie with right checksums, and `_info.json`."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

from hierax.data.datasets.open import open_data
from hierax.data.decode import decode_image
from hierax.errors import HieraxError

from ....members import samples
from ..mutate import EDGES, RAW, any_bytes, json_tree, one_of
from ..target import Target, Wrong, named, split_name

_NAMES = ("x.tar", "_info.json")
_INFO = b'{"splits": {"train": {"filenames": ["a-000.tar"], "shard_lengths": [2], "num_samples": 2}, "validation": {"filenames": []}}}'
_FIELDS = {"name": (0, 100), "mode": (100, 8), "uid": (108, 8), "size": (124, 12), "time": (136, 12), "type": (156, 1), "link": (157, 100),
           "magic": (257, 8), "device": (329, 8), "prefix": (345, 155), "sparse": (386, 96)}  # fmt: skip


def _tar(form: int = tarfile.USTAR_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        members = [
            *samples(2),
            ("00007.json", b'{"label": 3}'),
            ("00007.png", b"no image"),
            ("d/" * 60 + "n" * 60 + ".jpg", b"x"),
        ]
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if form == tarfile.PAX_FORMAT:
                info.pax_headers = {"comment": "a" * 20, "mtime": "1.5"}
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def act(folder: Path, data: bytes) -> None:
    """Open it with and without labels and read what it says it holds."""
    name, content = split_name(data, _NAMES)
    source = folder
    if name == "_info.json":
        (folder / name).write_bytes(content)
        (folder / "a-000.tar").write_bytes(_tar())
    else:
        source = folder / name
        source.write_bytes(content)
    failure: HieraxError | None = None
    for labelled in (True, False):
        try:
            _read(source, labelled)
        except HieraxError as error:
            failure = error
    if failure is not None:
        raise failure


def _read(source: Path, labelled: bool) -> None:
    found = open_data(source, labelled=labelled)
    if len(found.classes) > 2 * len(found) + 1000:
        raise Wrong(f"{len(found.classes)} classes of {len(found)} samples")
    found.fingerprint()
    for index in range(min(len(found), 4)):
        try:
            decode_image(found.read(index))
        except HieraxError:
            continue


def seeds(folder: Path) -> list[bytes]:
    """One tar of each kind, and an `_info.json`."""
    tars = [named("x.tar", _tar(form)) for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]
    return [*tars, named("_info.json", _INFO), named("_info.json", b'{"filenames": ["a-000.tar"]}')]


def headers(data: bytes, rng: random.Random) -> bytes:
    """Fields of headers changed, members doubled, moved and chained; every checksum is right."""
    blocks = [bytearray(data[at : at + 512].ljust(512, b"\0")) for at in range(0, len(data), 512)]
    for _ in range(rng.choice((1, 1, 2, 4))):
        heads = [index for index, block in enumerate(blocks) if block[257:262] == b"ustar"]
        at = rng.choice(heads or range(len(blocks)))
        kind = rng.randrange(6)
        if kind < 4:
            start, length = _FIELDS[rng.choice(list(_FIELDS))]
            blocks[at][start : start + length] = _field(length, rng)
        elif kind == 4:
            again = blocks[at : at + rng.choice((1, 2, 3))]
            blocks[at:at] = [bytearray(block) for block in again] * rng.choice((1, 1, 2, 1500))
        else:
            del blocks[at : at + rng.choice((1, 2, 3))]
        if not blocks:
            blocks = [bytearray(512)]
        if at < len(blocks):
            _sum(blocks[at])
    return b"".join(blocks)


def _field(length: int, rng: random.Random) -> bytes:
    if length == 1:
        return bytes([rng.choice(b"0123456789xgLKSVMNDA\0\xff ")])
    number, kind = rng.choice(EDGES), rng.randrange(5)
    if kind == 0:
        return (b"\x80" if number >= 0 else b"\xff") + (number & (256 ** (length - 1) - 1)).to_bytes(length - 1, "big")
    if kind == 1:
        return f"{number & 0o77777777777:o}".encode()[-length:].rjust(length, b"0")
    if kind == 2:
        return rng.choice(
            (
                b"../x.jpg",
                b"/x.jpg",
                b".jpg",
                b"a.",
                b"a/.cls",
                b"\xff\xfe.jpg",
                b"00000.cls",
                b"00000.jpg",
                b"a.b.c.jpg",
            )
        ).ljust(length, b"\0")[:length]
    return (b"a" * 200 if kind == 3 else rng.randbytes(length)).ljust(length, b"\0")[:length]


def _sum(block: bytearray) -> None:
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()


def content(data: bytes, rng: random.Random) -> bytes:
    """What the kind of file asks for."""
    name, inner = split_name(data, _NAMES)
    if name == "_info.json":
        return named(name, json_tree(inner, rng))
    if rng.random() < 0.2:
        label = rng.choice((b"300000000", b"-1", b"9" * 5000, b"", b"2024-01-01", *(raw.encode() for raw in RAW)))
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            kind = rng.choice(("cls", "json", "txt"))
            said = label if kind != "json" else b'{"label": ' + label + b"}"
            for member, value in (("0.jpg", b"x"), (f"0.{kind}", said), ("1.jpg", b"x"), ("1.cls", b"1")):
                info = tarfile.TarInfo(member)
                info.size = len(value)
                tar.addfile(info, io.BytesIO(value))
        return named(name, stream.getvalue())
    return named(name, headers(inner, rng))


TARGET = Target("shards", act, seeds, one_of(content, content, content, any_bytes))
