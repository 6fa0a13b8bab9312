"""Faults that every command line has to survive, each through the command line with files as they occur.

The rows of a table of faults: what cannot be read is a row with its reason, what can be read in several ways is read
as people see it, and what makes no sense is refused in a line.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...members import coloured_classes, encoded, noise, picture, save_learner, write_png, write_tar
from .case import Case, Ran, hierax, refused


def embedded(*inputs: str | Path) -> tuple[Ran, dict[str, np.ndarray]]:
    """What `embed` says, and its file as arrays by name."""
    ran = hierax("embed", *inputs, "-o", "v.npz")
    with np.load("v.npz") as data:
        return ran, dict(data)


def accounted(*inputs: str | Path, good: int, bad: int) -> bool:
    """Whether there is a row for every input, with a finite vector or a reason, and the exit code says which."""
    ran, found = embedded(*inputs)
    failed = found["error"] != ""
    finite = np.isfinite(found["embedding"]).all(1)
    return bool((finite != failed).all()) and (int((~failed).sum()), int(failed.sum()), ran.code) == (
        good,
        bad,
        3 if bad else 0,
    )


def alike(*inputs: str | Path, least: float = 0.99) -> bool:
    """Whether all of these are the same picture to the network: cosines with the first one's vector."""
    ran, found = embedded(*inputs)
    vectors = found["embedding"].astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1)
    return ran.code == 0 and bool((vectors @ vectors[0] / lengths / lengths[0] > least).all())


# --- files that are no images, or no longer ---------------------------------------------------------------------------


def _junk(folder: Path) -> None:
    (folder / "images").mkdir()
    contents = {"zero.jpg": b"", "page.jpg": b"<!doctype html><title>404</title>", "noise.png": bytes(range(256)) * 9}
    for name, content in contents.items():
        (folder / "images" / name).write_bytes(content)
    write_png(folder / "images" / "good.png")


def _truncated(folder: Path) -> None:
    """Every image format, at every fourth hundredth of its length."""
    (folder / "images").mkdir()
    for form in ("JPEG", "PNG", "WEBP"):
        data = encoded(picture((96, 80)), form)
        for share in range(0, 100, 4):
            (folder / "images" / f"{share}.{form.lower()}").write_bytes(data[: len(data) * share // 100])


def _flipped(folder: Path) -> None:
    (folder / "images").mkdir()
    random = np.random.default_rng(3)
    for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        whole = np.frombuffer(encoded(picture((96, 80)), form), np.uint8)
        for number in range(25):
            data = whole.copy()
            places = random.integers(0, len(data), random.integers(1, 40))
            data[places] ^= 1 << random.integers(0, 8, len(places), dtype=np.uint8)
            (folder / "images" / f"{number}.{form.lower()}").write_bytes(data.tobytes())


def _all_accounted(count: int) -> Callable[[Path], bool]:
    def act(folder: Path) -> bool:
        ran, found = embedded("images")
        failed = found["error"] != ""
        return (
            len(failed) == count
            and ran.code in (0, 3)
            and bool((np.isfinite(found["embedding"]).all(1) != failed).all())
        )

    return act


# --- one picture in many ways -----------------------------------------------------------------------------------------


def _depths(folder: Path) -> None:
    """A ramp of grey in eight and sixteen bits and as floats."""
    from PIL import Image

    ramp = np.tile(np.arange(256, dtype=np.uint16), (256, 1))
    deep = ramp * 257
    Image.fromarray(ramp.astype(np.uint8)).convert("RGB").save(folder / "0.png")
    Image.fromarray(ramp.astype(np.uint8)).save(folder / "1.png")
    Image.fromarray(deep).save(folder / "2.png")
    Image.fromarray(deep).save(folder / "3.tiff")
    Image.fromarray((ramp / 255).astype(np.float32)).save(folder / "4.tiff")
    (folder / "5.tiff").write_bytes(_big_endian(deep))


def _big_endian(deep: np.ndarray) -> bytes:
    import struct

    height, width = deep.shape
    tags = ((256, 3, width), (257, 3, height), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 200), (277, 3, 1),
            (278, 3, height), (279, 4, 2 * deep.size))  # fmt: skip
    rows = [struct.pack(">HHI", tag, kind, 1) + (struct.pack(">HH", value, 0) if kind == 3 else struct.pack(">I", value))
            for tag, kind, value in tags]  # fmt: skip
    head = b"MM\0*\0\0\0\x08" + struct.pack(">H", len(tags)) + b"".join(rows)
    return head.ljust(200, b"\0") + deep.astype(">u2").tobytes()


def _modes(folder: Path) -> None:
    from PIL import Image

    rgb = Image.fromarray(np.kron(noise(6, 6), np.ones((32, 32, 1))).astype(np.uint8))
    rgb.save(folder / "0.png")
    rgb.convert("CMYK").save(folder / "1.jpg", quality=95)
    rgb.convert("CMYK").save(folder / "2.tiff")
    rgb.convert("RGBA").save(folder / "3.png")
    rgb.quantize(64).save(folder / "4.png")
    rgb.save(folder / "5.jpg", quality=95)


def _transparent(folder: Path) -> None:
    """Shapes on white, and the same on colours that nobody sees."""
    from PIL import Image

    pixels = np.full((96, 96, 4), (255, 0, 0, 0), np.uint8)
    pixels[20:70, 30:60] = (0, 60, 200, 255)
    Image.fromarray(pixels).save(folder / "1.png")
    Image.fromarray(pixels).save(folder / "2.webp", lossless=True, exact=True)
    seen = pixels[..., :3].copy()
    seen[pixels[..., 3] == 0] = 255
    Image.fromarray(seen).save(folder / "0.png")


def _turned(folder: Path) -> None:
    """One picture stored in the eight ways that cameras have."""
    from PIL import Image

    image = picture((96, 64))
    undo = {1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270}  # fmt: skip
    for tag, turn in undo.items():
        exif = Image.Exif()
        exif[0x0112] = tag
        (image if turn is None else image.transpose(turn)).save(folder / f"{tag}.png", exif=exif)
    image.save(folder / "9.png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")


def _animated(folder: Path) -> None:
    first, rest = picture((64, 64), 1), [picture((64, 64), seed) for seed in (2, 3)]
    first.save(folder / "0.png")
    first.save(folder / "1.tiff", save_all=True, append_images=rest)
    first.save(folder / "2.webp", save_all=True, append_images=rest, lossless=True)
    first.save(folder / "3.png", save_all=True, append_images=rest)


def _odd_sizes(folder: Path) -> None:
    from PIL import Image

    for width, height in ((1, 1), (3, 500), (500, 3), (1, 20_000), (301, 451)):
        Image.fromarray(noise(height, width)).save(folder / f"{width}x{height}.png")


def _stage_maps(folder: Path) -> bool:
    ran = hierax("features", ".", "-o", "m.npz")
    with np.load("m.npz") as found:
        return ran.code == 0 and found["stage4"].shape[0] == 5 and bool(np.isfinite(found["stage4"]).all())


# --- things that are no files, and files that go away -----------------------------------------------------------------


def _things(folder: Path) -> None:
    write_png(folder / "good.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "loop.png").symlink_to("loop.png")
    os.chdir(folder)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.png")


def _things_named(folder: Path) -> bool:
    return accounted(*sorted(path.name for path in folder.iterdir() if path.suffix == ".png"), good=1, bad=5)


def _loops(folder: Path) -> None:
    (folder / "images" / "__MACOSX").mkdir(parents=True)
    write_png(folder / "images" / "a.png")
    (folder / "images" / "again").symlink_to("..", target_is_directory=True)
    (folder / "images" / "same").symlink_to(".", target_is_directory=True)
    (folder / "images" / "__MACOSX" / "._a.png").write_bytes(b"resource")
    (folder / "images" / "._a.png").write_bytes(b"resource")
    (folder / "images" / ".hidden.png").write_bytes(b"x")


def _vanishing(folder: Path) -> bool:
    """When the first image is opened, the second is deleted, the third cut, the fourth becomes a pipe."""
    (folder / "images").mkdir()
    paths = [write_png(folder / "images" / f"{number}.png", number) for number in range(5)]
    done: list[bool] = []

    def opened(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and not done and str(arguments[0]).endswith("0.png"):
            done.append(True)
            paths[1].unlink()
            os.truncate(paths[2], 40)
            paths[3].unlink()
            os.mkfifo(paths[3])

    os.sched_getaffinity = lambda _: {0}  # type: ignore[assignment]  # one thread: the others are not open yet
    sys.addaudithook(opened)
    return accounted("images", good=2, bad=3)


def _nothing(folder: Path) -> bool:
    (folder / "empty").mkdir()
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("x")
    places = ("empty", "texts", "no-such-folder", "*.png", "empty/**/*.jpg")
    return all(refused(hierax("embed", place, "-o", "v.npz")) and not os.path.exists("v.npz") for place in places)


# --- training data ----------------------------------------------------------------------------------------------------

SETTINGS = ["-m", "tiny", "--steps", "1", "--device", "cpu", "--set", "workers=0", "batch_size=4"]


def _images(folder: Path, **options: Any) -> None:
    save_learner(folder / "tiny")
    coloured_classes(folder / "data", **options)


def _learns(data: str, *more: str) -> Callable[[Path], bool]:
    """Whether a run on the data ends well, or is refused in a line without leaving a model behind."""

    def act(folder: Path) -> bool:
        ran = hierax("finetune", data, "out", *SETTINGS, *more)
        if ran.code not in (0, 3):
            return refused(ran) and not os.path.exists("out/model")
        summary = json.loads(Path("out/summary.json").read_text())
        return np.isfinite(summary["loss"]) and hierax("embed", "data", "-m", "out/model", "-o", "v.npz").code in (0, 3)

    return act


def _shards(change: Callable[[bytes], bytes], name: str = "t.tar") -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        _images(folder, per_class=3)
        members = [
            (f"{number}.{kind}", content)
            for number, path in enumerate(sorted((folder / "data").rglob("*.png")))
            for kind, content in (("cls", str(number % 3).encode()), ("png", path.read_bytes()))
        ]
        write_tar(folder / "whole.tar", members)
        (folder / name).write_bytes(change((folder / "whole.tar").read_bytes()))

    return make


def _tar(*members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE) -> Callable[[bytes], bytes]:
    """Other members instead, of a type."""

    def change(_: bytes) -> bytes:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name, content in members:
                member = tarfile.TarInfo(name)
                member.type, member.size, member.linkname = kind, len(content), "/etc/passwd"
                tar.addfile(member, io.BytesIO(content))
        return file.getvalue()

    return change


def _refused_data(data: str, *words: str) -> Callable[[Path], bool]:
    def act(folder: Path) -> bool:
        ran = hierax("finetune", data, "out", *SETTINGS)
        return refused(ran) and all(word in ran.err for word in words) and not os.path.exists("out/model")

    return act


def _one_class(folder: Path) -> None:
    _images(folder, per_class=5)
    for name in ("class_1", "class_2"):
        shutil.rmtree(folder / "data" / name)


def _constant(folder: Path) -> None:
    from PIL import Image

    _images(folder, per_class=3)
    for path in (folder / "data").rglob("*.png"):
        Image.new("RGB", (64, 64), (7, 7, 7)).save(path)


def _half_broken(folder: Path) -> None:
    _images(folder, per_class=4)
    for path in sorted((folder / "data").rglob("*.png"))[::2]:
        path.write_bytes(path.read_bytes()[:50])


def _all_broken(folder: Path) -> None:
    _images(folder, per_class=3)
    for path in (folder / "data").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:50])


# --- checkpoints ------------------------------------------------------------------------------------------------------


def _bad_weights(folder: Path) -> None:
    import torch

    save_learner(folder / "tiny")
    (folder / "tiny" / "model.safetensors").rename(folder / "whole.safetensors")
    data = (folder / "whole.safetensors").read_bytes()
    for name, content in {"cut": data[:-7], "page": b"<html>", "empty": b"", "zip": b"PK\x03\x04" + bytes(50)}.items():
        (folder / f"{name}.safetensors").write_bytes(content)
    torch.save({"x": torch.ones(3), "y": torch.ones(2)}, folder / "unknown.pth")
    torch.save([torch.ones(3)], folder / "list.pth")
    (folder / "evil.pth").write_bytes(b"\x80\x02cos\nsystem\nX\x0c\0\0\0touch canary\x85R.")
    write_png(folder / "a.png")


def _each_refused(folder: Path) -> bool:
    names = [path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".pth")]
    return len(names) == 8 and all(
        refused(hierax(*command, "-m", name, *behind))
        for name in names
        for command, behind in ((["embed", "a.png"], ["-o", "v.npz"]), (["classify", "a.png"], []))
    )


CASES = [
    Case("row_1_no_images", lambda folder: accounted("images", good=1, bad=3), _junk, expect=bool),
    Case("row_2_truncated", _all_accounted(75), _truncated, expect=bool, seconds=15),
    # A flipped bit may declare megapixels, within all bounds.
    Case("row_3_flipped", _all_accounted(150), _flipped, expect=bool, megabytes=600, seconds=30),
    Case("row_5_depths", lambda folder: alike(*sorted(map(str, folder.glob("?.*"))), least=0.999), _depths, expect=bool),
    Case("row_6_modes", lambda folder: alike(*sorted(map(str, folder.glob("?.*")))), _modes, expect=bool),
    Case("row_6_transparent", lambda folder: alike(*sorted(map(str, folder.glob("?.*"))), least=0.9999), _transparent, expect=bool),
    Case("row_7_turned", lambda folder: alike(*sorted(map(str, folder.glob("?.png"))), least=0.9999), _turned, expect=bool),
    Case("row_8_first_frame", lambda folder: alike(*sorted(map(str, folder.glob("?.*"))), least=0.9999), _animated, expect=bool),
    Case("row_9_sizes", lambda folder: accounted(".", good=5, bad=0), _odd_sizes, expect=bool),
    Case("row_9_maps", _stage_maps, _odd_sizes, expect=bool),
    Case("row_10_no_files", _things_named, _things, expect=bool),
    Case("row_11_loops", lambda folder: accounted("images", good=1, bad=0), _loops, expect=bool),
    Case("row_12_nothing", _nothing, expect=bool),
    Case("row_14_vanishing", _vanishing, expect=bool),
    Case("row_15_whole", _learns("t.tar"), _shards(lambda data: data), expect=bool, seconds=20),
    Case("row_15_no_end", _learns("t.tar"), _shards(lambda data: data.rstrip(b"\0")), expect=bool, seconds=20),
    Case("row_15_cut_on_a_block", _learns("t.tar"), _shards(lambda data: data[: 512 * 7]), expect=bool, seconds=20),
    Case("row_15_cut_in_a_block", _learns("t.tar"), _shards(lambda data: data[:3000]), expect=bool, seconds=20),
    Case("row_15_empty", _refused_data("t.tar", "t.tar"), _shards(lambda data: b""), expect=bool, seconds=20),
    Case("row_15_packed", _learns("t.tar"), _shards(lambda data: __import__("gzip").compress(data)), expect=bool, seconds=20),
    Case("row_15_twice", _learns("t.tar"), _shards(_tar(("a.png", b"x"), ("b.png", b"y"), ("a.png", b"x"), ("a.cls", b"1"))), expect=bool, seconds=20),
    Case("row_15_upwards", lambda folder: _learns("t.tar")(folder) and not list(folder.parent.glob("canary*")),
         _shards(_tar(("../canary.png", encoded(picture())), ("../canary.cls", b"1"))), expect=bool, seconds=20),
    *(Case(f"row_15_member_{kind.decode()}", _learns("t.tar"), _shards(_tar(("a.png", b""), ("a.cls", b""), kind=kind)), expect=bool, seconds=20)
      for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE, tarfile.DIRTYPE, tarfile.FIFOTYPE)),
    Case("row_15_pipe", _refused_data("pipe:touch canary"), lambda folder: _images(folder, per_class=2), expect=bool, seconds=20),
    Case("row_19_and_20_weights", _each_refused, _bad_weights, expect=bool, seconds=20),
    Case("row_23_one_class", _learns("data"), _one_class, expect=bool, seconds=20),
    Case("row_23_constant", _learns("data"), _constant, expect=bool, seconds=20),
    Case("row_23_batch_of_1", _learns("data", "--batch-size", "1"), lambda folder: _images(folder, per_class=2), expect=bool, seconds=20),
    Case("row_23_fewer_than_a_batch", _learns("data", "--batch-size", "64"), lambda folder: _images(folder, per_class=2), expect=bool, seconds=20),
    Case("row_23_all_broken", _refused_data("data", "all 1 steps were skipped"), _all_broken, expect=bool, seconds=20),
    Case("row_23_half_broken", _learns("data"), _half_broken, expect=bool, seconds=20),
]  # fmt: skip
