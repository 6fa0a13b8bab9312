"""Archives that are read otherwise than they were checked, damaged files that load, and files that change later."""

from __future__ import annotations

import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import torch

import hierax

from .case import Case
from .case import hierax as run
from .case import refused as well_refused
from .torch_files import START, archive, number, refused, state, tensor, text


def saved(folder: Path) -> bytes:
    """A whole file of the embedded model as torch.save writes it."""
    hierax.load().save(folder / "whole.pth", format="meta")
    return (folder / "whole.pth").read_bytes()


def changed(change: Callable[[bytearray, int], bytes | bytearray | None]) -> Callable[[Path], None]:
    """Writes x.pth: a whole file, changed; the change is told where the directory begins."""

    def make(folder: Path) -> None:
        data = bytearray(saved(folder))
        with zipfile.ZipFile(folder / "whole.pth") as file:
            after = change(data, file.start_dir)
        (folder / "x.pth").write_bytes(data if after is None else after)

    return make


def second_directory(folder: Path) -> None:
    """Two directories: zipfile takes the one right before the end record, torch the one that the record points at."""
    evil = START + text("a" * 300) + b"cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R."
    good = START + state(tensor()) + b"."
    data, directories = b"", []
    for shift, pickle in ((0, evil), (111, good)):  # what lies between, zipfile takes for something before the archive
        directory = b""
        for name, content in ((b"x/data.pkl", pickle), (b"x/version", b"3\n")):
            said = (zlib.crc32(content), len(content), len(content), len(name), 0)
            directory += (
                struct.pack("<4s6H3I5H2I", b"PK\x01\x02", *[0] * 6, *said, 0, 0, 0, 0, len(data) - shift) + name
            )
            data += struct.pack("<4s5H3I2H", b"PK\x03\x04", *[0] * 5, *said) + name + content
        directories.append(directory)
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 2, 2, 111, len(data), 0)
    (folder / "x.pth").write_bytes(data + b"".join(directories) + end)


def _flip(at: Callable[[int, int], int]) -> Callable[[bytearray, int], None]:
    def change(data: bytearray, directory: int) -> None:
        data[at(len(data), directory)] ^= 1

    return change


def _rename(data: bytearray, directory: int) -> None:
    """The local header of the first storage names another record than the directory does."""
    at = data.index(b"/data/0")
    data[at : at + 7] = b"/data/9"


def _local_size(data: bytearray, directory: int) -> None:
    """The descriptor behind the pickle gives another size than the directory."""
    at = data.index(b"PK\x07\x08")
    data[at + 8] ^= 1


def _encrypted(data: bytearray, directory: int) -> None:
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + flags] |= 1


def _byte_order(data: bytearray, directory: int) -> bytes:
    return bytes(data).replace(b"little", b"middle")


def keys_alike() -> bytes:
    """A state dict whose keys are one name as text and as a number."""
    return b"}(" + text("1") + tensor() + number(1) + tensor() + b"u"


ARCHIVES: dict[str, tuple[Callable[[Path], None], str]] = {
    "second_directory": (second_directory, "directory"),
    "flipped_weight": (changed(_flip(lambda size, directory: directory // 2)), "checksum"),
    "flipped_version": (changed(lambda d, _: bytes(d).replace(b"3\nPK", b"4\nPK")), "checksum"),
    "flipped_pickle": (changed(_flip(lambda size, directory: 300)), "checksum"),
    "prefixed": (changed(lambda d, _: b"x" + bytes(d)), "neither|end|directory"),
    "prefixed_by_an_archive": (changed(lambda d, _: bytes(d) + bytes(d)), "directory|end"),
    "followed": (changed(lambda d, _: bytes(d) + b"x"), "end"),
    "comment": (changed(lambda d, _: bytes(d[:-2]) + b"\x03\x00abc"), "end"),
    "cut_by_a_byte": (changed(lambda d, _: bytes(d[:-1])), "end"),
    "gap_before_the_directory": (changed(lambda d, at: bytes(d[:at]) + bytes(64) + bytes(d[at:])), "end|directory"),
    "local_name": (changed(_rename), "names otherwise"),
    "local_size": (changed(_local_size), "checksum"),
    "encrypted": (changed(_encrypted), "encrypted"),
    "byte_order": (changed(_byte_order), "checksum|byte order"),
    "byte_order_of_nobody": (archive(state(tensor()), {"byteorder": b"middle"}), "neither little nor big"),
    "key_and_number": (archive(keys_alike()), "two tensors of one name"),
    "same_name_twice": (lambda folder: _twice(folder), "two records"),
    "deflated": (archive(state(tensor()), {"x": bytes(10**7)}, compression=zipfile.ZIP_DEFLATED), "compressed"),
    "other_folder": (archive(state(tensor()), {"../y/data.pkl": b""}), "none of the known"),
    "torchscript": (archive(state(tensor()), {"constants.pkl": b""}), "TorchScript"),
    "no_pickle": (lambda f: zipfile.ZipFile(f / "x.pth", "w").writestr("x/data/0", b"1"), "end|torch.save"),
    "empty_archive": (lambda f: (f / "x.pth").write_bytes(b"PK\x05\x06" + bytes(18)) and None, "neither"),
}


def _twice(folder: Path) -> None:
    with zipfile.ZipFile(folder / "x.pth", "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file.writestr("x/data.pkl", START + b"}.")
        file.writestr("x/data.pkl", START + b"cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R.")


# --- files that change while their network is used ------------------------------------------------------------------


def unchanged(name: str, change: Callable[[Path], None]) -> Callable[[Path], bool]:
    """Whether a network says the same before and after its file was changed."""

    def act(folder: Path) -> bool:
        path = folder / name
        predictor = hierax.load(path if path.suffix == ".pth" else path.parent)
        image = torch.zeros(1, 3, *predictor.model.input_size)
        with torch.no_grad():
            before = predictor.model(image)
            change(path)
            return torch.equal(predictor.model(image), before)

    return act


def _save(form: str, name: str) -> Callable[[Path], None]:
    return lambda folder: hierax.load().save(folder / name, format=form) and None


def _overwrite(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as stream:
        stream.write(b"\x55" * size)


CASES = [
    *(refused(name, make, match) for name, (make, match) in ARCHIVES.items()),
    Case(
        "verify_says_flipped",
        make=changed(_flip(lambda size, directory: directory // 2)),
        act=lambda folder: run("verify", folder / "x.pth"),
        expect=lambda ran: well_refused(ran) and "checksum" in ran.err,
    ),
    Case("torch_overwritten", make=_save("meta", "x.pth"), act=unchanged("x.pth", _overwrite), expect=bool),
    Case("torch_cut", make=_save("meta", "x.pth"), act=unchanged("x.pth", lambda p: os.truncate(p, 0)), expect=bool),
    Case(
        "safetensors_overwritten",
        make=_save("hierax", "m"),
        act=unchanged("m/model.safetensors", _overwrite),
        expect=bool,
    ),
    Case(
        "safetensors_cut",
        make=_save("hierax", "m"),
        act=unchanged("m/model.safetensors", lambda p: os.truncate(p, 0)),
        expect=bool,
    ),
]
