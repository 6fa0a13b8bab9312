"""Kept programs that are broken, planted or not ours: the answer comes all the same, and nothing else is touched."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch

import hierax
from hierax import kept
from hierax.model.encoder import Encoder
from hierax.model.engines import keeping
from hierax.model.engines.base import EMBEDDING

from ...members import loud, pixels, plain_config
from ...tolerance import FP32, distance
from .case import Case, Ran, refused
from .case import hierax as command

SIZE = (3, 64, 64)
BOMB = '<!DOCTYPE n [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
IR = (
    '<?xml version="1.0"?><net name="n" version="11"><layers><layer id="0" name="c" type="Const" version="opset1">'
    '<data element_type="f32" shape="{shape}" offset="{offset}" size="{size}"/><output><port id="0" precision="FP32">'
    "<dim>{shape}</dim></port></output></layer></layers><edges/></net>"
)
XML = {
    "empty": "",
    "no XML": "\0" * 100,
    "entities": f"{BOMB}]><net>&i;</net>",
    "a file from elsewhere": '<!DOCTYPE n [<!ENTITY a SYSTEM "file:///etc/passwd">]><net name="&a;" version="11"/>',
    "constants beyond its end": IR.format(shape=10**6, offset=0, size=4 * 10**6),
    "constants before its start": IR.format(shape=4, offset=2**64 - 8, size=16),
    "a constant of exabytes": IR.format(shape=2**60, offset=0, size=2**62),
    "deep": "<net>" + "<layers>" * 100_000,
}


def _encoder() -> Encoder:
    return loud(Encoder(plain_config((64, 64), (1, 1, 1, 1), 16, num_classes=3)))


def _here(folder: Path) -> Path:
    """Programs are kept in the case's folder."""
    os.environ.update(HIERAX_CACHE=str(folder), HIERAX_CACHE_LIMIT="5GB")
    return folder / "programs"


def _plant(folder: Path, xml: str = "<net/>") -> Path:
    """A program for the encoder whose checksums are right."""
    _here(folder)
    model = _encoder()
    program = keeping.wanted(model, SIZE, EMBEDDING)

    def write(place: Path) -> None:
        (place / "program.xml").write_text(xml)
        (place / "program.bin").write_bytes(bytes(64))

    kept.keep(program.name, program.key, write, model="m", input_size=[64, 64], output="embedding", precision="x")
    return folder / "programs" / program.name


def _answers(folder: Path) -> bool:
    """Whether `auto` answers like the readable encoder, with one line at most."""
    _here(folder)
    said: list[str] = []
    logging.getLogger("hierax").addFilter(lambda record: said.append(record.getMessage()) or True)
    exact, x = _encoder(), pixels(1, *SIZE)
    with torch.inference_mode():
        fast = hierax.optimize(exact)
        right = [distance(fast.embedding(x), exact.embedding(x)) <= FP32 for _ in range(2)]
    return all(right) and len([line for line in said if "damaged" in line or "cannot be used" in line]) <= 1


def harmed(name: str, file: str, harm: Callable[[Path], object]) -> Case:
    """A sound program to which something happened."""

    def make(folder: Path) -> None:
        harm(_plant(folder) / file)

    return Case(f"a kept program: {name}", make=make, act=_answers, expect=bool, seconds=20)


def written(name: str) -> Case:
    """A description that OpenVINO is given, since its checksum is right."""
    return Case(
        f"a kept description: {name}",
        make=lambda folder: _plant(folder, XML[name]),
        act=_answers,
        expect=bool,
        seconds=20,
    )


def replaced(path: Path, link: str | None = None) -> None:
    """By a link, or a pipe."""
    path.unlink()
    path.symlink_to(link) if link else os.mkfifo(path)


def edited(path: Path, **more: object) -> None:
    """And sealed again, as only code of this user can."""
    about = json.loads(path.read_text())
    about.update(more)
    about.pop("sha256")
    path.write_text(json.dumps({**about, "sha256": kept._seal(about)}))


def listed(name: str, **more: object) -> Case:
    """`cache list` shows what another version kept, and nothing that steers a terminal."""

    def act(folder: Path) -> bool:
        _here(folder)
        shown = [command("cache", "list"), command("cache", "list", "--format", "json")]
        return all(ran.code == 0 and "\x1b" not in ran.out and "Traceback" not in ran.err for ran in shown)

    return Case(
        f"cache list: {name}", make=lambda f: edited(_plant(f) / "about.json", **more), act=act, expect=bool, seconds=10
    )


def _mine(folder: Path) -> Path:
    (folder / "photos").mkdir()
    (folder / "photos" / "mine").write_text("mine")
    return folder / "photos"


def _root_is_a_link(folder: Path) -> None:
    _mine(folder)
    (folder / "programs").symlink_to("photos")


def _entry_is_a_link(folder: Path) -> None:
    _plant(folder)
    (folder / "programs" / "entry").symlink_to(_mine(folder))


def _clear(folder: Path) -> Ran:
    _here(folder)
    return command("cache", "clear")


CASES = [
    harmed("cut off", "program.bin", lambda path: os.truncate(path, 3)),
    harmed("of a terabyte that takes no room", "program.bin", lambda path: os.truncate(path, 1 << 40)),
    harmed("without weights", "program.bin", Path.unlink),
    harmed("weights from an endless file", "program.bin", lambda path: replaced(path, "/dev/zero")),
    harmed("a pipe", "program.xml", replaced),
    harmed("an endless record", "about.json", lambda path: replaced(path, "/dev/zero")),
    harmed("a record of 300 MB", "about.json", lambda path: os.truncate(path, 300 << 20)),
    harmed("a deep record", "about.json", lambda path: path.write_text('{"files":' + "[" * 500_000)),
    harmed("files elsewhere", "about.json", lambda path: edited(path, files={"../../../../etc/passwd": [1, "x"]})),
    harmed("no key", "about.json", lambda path: edited(path, key={})),
    *(written(name) for name in XML),
    listed("escapes", model="\x1b[2Jm", output="\x1b]0;x\x07"),
    listed("other types", model=[1], input_size=7, output=None, precision={"a": 1}),
    listed("other types still", input_size=[["a"], None], key={"size": 3}),
    Case("cache clear through a link", make=_root_is_a_link, act=lambda f: refused(_clear(f)) and (f / "photos" / "mine").exists(), expect=bool),
    Case("cache clear of a link", make=_entry_is_a_link, act=lambda f: _clear(f).code == 0 and (f / "photos" / "mine").exists() and not os.listdir(f / "programs"), expect=bool),
]  # fmt: skip
