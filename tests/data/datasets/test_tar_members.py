"""Members found by our walk are those that the standard library finds, in every dialect of tar."""

from __future__ import annotations

import io
import tarfile

import pytest

from hierax.data.datasets.tar_members import members

NAMES = ("a.jpg", "d/b.cls", "n" * 99, "n" * 100, "n" * 101, "d" * 90 + "/" + "n" * 90, "d/" * 120 + "x.json", "caf\xe9.png",
         "\u6f22" * 60 + ".png", "with space.txt", "caf\udce9.jpg")  # fmt: skip


@pytest.mark.parametrize("dialect", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_as_the_standard_library(tmp_path, dialect):
    """A wrong offset or name gives an image the label of another."""
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=dialect, pax_headers={"comment": "global"}) as tar:
        for number, name in enumerate(NAMES):
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = number * 300, {"comment": "a" * 700}
            try:
                tar.addfile(info, io.BytesIO(bytes([number]) * info.size))
            except ValueError:  # too long for this dialect
                continue
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo(f"odd{kind.decode()}" * 30)
            info.type, info.linkname = kind, "l" * 200
            try:
                tar.addfile(info)
            except ValueError:
                info.name, info.linkname = f"odd{kind.decode()}", "l"
                tar.addfile(info)
        tar.addfile(tarfile.TarInfo("last.jpg"))
    with tarfile.open(path, encoding="utf-8", errors="surrogateescape") as tar:
        theirs = [(m.name, m.isreg(), m.isdir(), m.offset_data, m.size) for m in tar]
    with path.open("rb") as stream:
        found = list(members(stream, path.stat().st_size))
    ours = [(m.name.rstrip("/"), m.kind == "file", m.kind == "folder", m.offset, m.size) for m in found]
    assert ours == theirs
    assert len(ours) > 10


def test_sizes_beyond_octal_digits(tmp_path):
    """A header has room for 8 GiB in octal digits; larger members are written in base 256 or by a pax record."""
    for dialect in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        info = tarfile.TarInfo("a.bin")
        info.size = 9 << 30
        path = tmp_path / "x.tar"
        with path.open("wb") as stream:
            stream.write(info.tobuf(dialect))
            offset = stream.tell()
            stream.truncate(offset + info.size + 1024)
        with path.open("rb") as stream:
            assert list(members(stream, path.stat().st_size)) == [("a.bin", "file", offset, 9 << 30)]
