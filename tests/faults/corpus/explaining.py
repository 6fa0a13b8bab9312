"""Explanations: labels and masks that strangers wrote, pictures over inputs, images that are hardly images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from hierax.weights.write import write_weights

from ...members import classifier, noise, write_png
from .case import Case, Ran, hierax, refused
from .outputs import a_photo, kept

HOSTILE = "\x1b[2J\x1b]0;owned\x07" + "a" * 100_000


def a_model(folder: Path) -> None:
    """A classifier whose classes have names that steer terminals."""
    a_photo(folder)
    write_weights(classifier([HOSTILE, "b\nc", "\N{ZERO WIDTH JOINER}" * 50]), folder / "model", to="hierax")


def labels_drawn(folder: Path) -> bool:
    """A class whose name is 100 kB of escapes becomes a caption of a picture of the usual size."""
    ran = hierax("explain", "a.png", "-m", "model", "--class", "0", "--method", "gradcam", "-o", "map.png")
    with Image.open(folder / "map.png") as picture:
        return ran.code == 0 and "\x1b" not in ran.err and picture.width < 2000


def label_asked(folder: Path) -> bool:
    """A wrong class beside such names is refused with few words."""
    ran = hierax("explain", "a.png", "-m", "model", "--class", "x" * 100_000, "-o", "map.png")
    return refused(ran) and len(ran.err) < 5000 and "\x1b" not in ran.err


def thin(folder: Path) -> None:
    """Images of one pixel, and of one row."""
    Image.new("RGB", (1, 1)).save(folder / "a.png")
    Image.new("L", (60_000, 1), 9).save(folder / "b.png")
    Image.new("L", (1, 60_000), 9).save(folder / "c.png")


def thin_drawn(folder: Path) -> bool:
    """Each is drawn; a sheet does not grow with them."""
    ran = hierax("explain", "a.png", "b.png", "c.png", "-o", "map.png")
    with Image.open(folder / "map.png") as picture:
        return ran.code == 0 and max(picture.size) < 2000


def masks(kind: str) -> Case:
    """Masks that are no masks of the images they are named after."""

    def make(folder: Path) -> None:
        for name in ("images", "masks"):
            (folder / name).mkdir()
        for index in range(2):
            write_png(folder / "images" / f"{index}.png", seed=index)
            Image.fromarray(noise(32, 48)[..., 0]).save(folder / "masks" / f"{index}.png")
        bad = folder / "masks" / "0.png"
        bad.unlink()
        if kind == "pipe":
            os.mkfifo(bad)
        elif kind == "large":
            Image.fromarray(np.zeros((9000, 9000), np.uint8)).save(bad)
        elif kind == "bomb":
            Image.new("1", (60_000, 60_000)).save(bad)
        else:
            bad.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 50)

    def act(folder: Path) -> Ran:
        steps = ("--methods", "gradcam", "--steps", "1", "--seeds", "1")
        return hierax("eval", "explanations", "images", "--masks", "masks", *steps)

    def expect(ran: Ran) -> bool:
        bad = kind != "pipe"  # a pipe is no file: there is no mask
        return ran.code == (3 if bad else 0) and ("0.png" in ran.err) == bad and "gradcam" in ran.out

    return Case(f"{kind} for a mask", make=make, act=act, expect=expect, megabytes=600 if kind == "large" else 300)


def onto(name: str) -> Case:
    """--overwrite is for outputs: a photograph that is an input is none."""

    def make(folder: Path) -> None:
        a_photo(folder)
        os.link(folder / "a.png", folder / "hard.png")

    def act(folder: Path) -> bool:
        return kept(folder, "a.png", "explain", "a.png", "-o", name, "--overwrite")

    return Case(f"explain onto an input as {name}", make=make, act=act, expect=bool)


CASES = (
    Case("labels that steer, drawn", make=a_model, act=labels_drawn, expect=bool),
    Case("labels that steer, asked for", make=a_model, act=label_asked, expect=bool),
    Case("images of one row, explained", make=thin, act=thin_drawn, expect=bool),
    *(masks(kind) for kind in ("pipe", "large", "bomb", "broken")),
    onto("a.png"),
    onto("hard.png"),
)
