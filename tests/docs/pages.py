"""A page of the site, run from top to bottom as a reader would: one folder, one Python session, the examples at hand.

`python -m tests.docs.pages [PAGE...]` writes outputs and pictures anew where they no longer agree; read the diff.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np
from PIL import Image

from ..blocks import ROOT, Block, blocks, check_python, check_shell, difference, installed, run_python, run_shell

DOCS = ROOT / "docs"
# A picture's title names the file that the page's blocks draw: ![what](../pictures/name.png "run/curves.png").
_PICTURE = re.compile(r'!\[[^\]]*\]\((\S+\.png)(?: "([^"]+)")?\)')
_FAR = 6.0  # mean difference of two drawings of one thing, in grey levels


def script(name: str) -> ModuleType:
    """One of the scripts in docs/ that write pages."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def written_pages() -> list[Path]:
    """Pages that people write; tutorials are written by their scripts, decisions tell of their day."""
    apart = {"tutorials", "decisions", "_build"}
    return [page for page in sorted(DOCS.rglob("*.md")) if not apart & set(page.relative_to(DOCS).parts[:-1])]


@contextlib.contextmanager
def workshop(folder: Path) -> Iterator[Path]:
    """A folder with the examples in it, as a user has after cloning, and the current one for a while."""
    shutil.copytree(ROOT / "examples", folder / "examples", dirs_exist_ok=True)
    before = os.getcwd()
    os.chdir(folder)
    kept = {"HIERAX_CACHE": str(folder / "kept"), "HIERAX_CACHE_LIMIT": ""}
    try:
        with mock.patch.dict(os.environ, kept):
            yield folder
    finally:
        os.chdir(before)


def run_page(page: Path, folder: Path) -> Iterator[tuple[Block, str]]:
    """Run the blocks of a page in a workshop; yields each that ran with what it printed."""
    namespace: dict = {"__name__": page.stem}
    for block in blocks(page):
        offline = "no-network" in block.options
        if block.language == "python" and offline:
            check_python(block, namespace)
        elif block.language == "python" and installed(block):
            yield block, run_python(block, namespace)
        elif block.language == "sh" and offline:
            check_shell(block)
        elif block.language == "sh":
            yield block, run_shell(block, folder)


def pictures(page: Path) -> Iterator[tuple[Path, str]]:
    """The committed pictures of a page with the file that its blocks draw."""
    for shown, drawn in _PICTURE.findall(page.read_text(encoding="utf-8")):
        if drawn:
            yield (page.parent / shown).resolve(), drawn


def distance(one: Path, other: Path) -> float:
    """Mean difference of two pictures in grey levels, noise and rims of letters averaged out; infinite between sizes."""
    with Image.open(one) as first, Image.open(other) as second:
        if first.size != second.size:
            return float("inf")
        a, b = (np.asarray(image.convert("RGB").reduce(4), dtype=np.float32) for image in (first, second))
    return float(np.abs(a - b).mean())


def agrees(shown: Path, drawn: Path) -> bool:
    """Whether a committed picture shows what was drawn."""
    return shown.exists() and distance(shown, drawn) <= _FAR


def rewrite(page: Path) -> None:
    """Put what the blocks print and draw into the page."""
    text = page.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder, workshop(Path(folder)):
        for block, printed in run_page(page, Path(folder)):
            if block.output is not None and difference(block.output, printed):
                old, new = (f"{block.code}```\n\n```text output\n{part}" for part in (block.output, printed))
                text = text.replace(old, new, 1)
        for shown, drawn in pictures(page):
            if not agrees(shown, Path(folder, drawn)):
                shown.parent.mkdir(exist_ok=True)
                script("make_tutorials").keep(Path(folder, drawn), shown)
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:] or map(str, written_pages()):
        sys.stderr.write(f"{name}\n")
        rewrite(Path(name).resolve())
