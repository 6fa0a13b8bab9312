"""Places to write that are an input, a trap, or nothing: what is there stays, and nothing waits for ever."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hierax.cli import main

from ...members import coloured_classes, save_learner, write_png
from .case import Case, Ran, hierax, refused


def a_photo(folder: Path) -> None:
    """One picture."""
    write_png(folder / "a.png")


def kept(folder: Path, name: str, *arguments: str) -> bool:
    """Whether a command is refused and leaves a file as it was, and nothing beside it."""
    before, listing = (folder / name).read_bytes(), sorted(os.listdir(folder))
    ran = hierax(*arguments)
    return refused(ran) and (folder / name).read_bytes() == before and sorted(os.listdir(folder)) == listing


def plot_onto(name: str) -> Case:
    """--overwrite is for outputs: a photograph that is an input, under whatever name, is none."""

    def make(folder: Path) -> None:
        a_photo(folder)
        (folder / "link.png").symlink_to("a.png")
        os.link(folder / "a.png", folder / "hard.png")

    def act(folder: Path) -> bool:
        return kept(folder, "a.png", "features", "a.png", "-o", "m.npz", "--plot", name, "--overwrite")

    return Case(f"plot onto an input as {name}", make=make, act=act, expect=bool)


def planted(name: str, plant: str) -> Case:
    """What stands where a partial output or a lock would be."""

    def make(folder: Path) -> None:
        a_photo(folder)
        (folder / "mine").write_text("mine")
        if plant == "link":
            (folder / name).symlink_to("mine")
        elif plant == "pipe":
            os.mkfifo(folder / name)
        else:
            (folder / name).symlink_to(name)

    def act(folder: Path) -> bool:
        return kept(folder, "mine", "embed", "a.png", "-o", "loop/v.npz" if name == "loop" else "v.npz")

    return Case(f"{plant} at {name}", make=make, act=act, expect=bool)


def tuned(out: str) -> Case:
    """The pictures of a run that lies in its data are samples of the same run when it goes on."""

    def make(folder: Path) -> None:
        coloured_classes(folder / "data", per_class=3)
        save_learner(folder / "tiny")
        (folder / "other").symlink_to("data")

    def act(folder: Path) -> Ran:
        settings = ["-m", "tiny", "--steps", "1", "--device", "cpu", "--set", "workers=0", "batch_size=4"]
        return hierax("finetune", "data", out, *settings)

    return Case(f"finetune into {out}", make=make, act=act, expect=refused, seconds=20)


def nowhere(folder: Path) -> Ran:
    """A command in a folder that somebody removed."""
    place = folder / "gone"
    place.mkdir()
    os.chdir(place)
    shutil.rmtree(place)
    return hierax("embed", str(folder / "a.png"), "-o", str(folder / "v.npz"))


def odd_name(folder: Path) -> bool:
    """A name that would clear the screen is written to, and shown as its escape."""
    name = "n\n\x1b[2J.npz"
    ran = hierax("embed", "a.png", "-o", name)
    return ran.code == 0 and os.path.exists(name) and "\x1b" not in ran.err


def twice_into_the_input(folder: Path) -> bool:
    """What the first run wrote is no input of the second."""
    codes = [main(["-q", "embed", ".", "-o", "v.npz", *more]) for more in ([], ["--overwrite"])]
    return codes == [0, 0] and sorted(os.listdir()) == ["a.png", "v.npz"]


CASES = [
    *(plot_onto(name) for name in ("a.png", "link.png", "hard.png")),
    *(planted(".v.npz.hierax-partial", plant) for plant in ("link", "pipe", "loop")),
    planted("loop", "loop"),
    planted("v.npz", "link"),
    planted("v.npz", "pipe"),
    *(tuned(out) for out in ("data", "data/class_0/run", "other/run", "data/../data/run")),
    Case("no folder to work in", make=a_photo, act=nowhere, expect=refused),
    Case("a name that clears the screen", make=a_photo, act=odd_name, expect=bool),
    Case("output among the inputs", make=a_photo, act=twice_into_the_input, expect=bool),
]
