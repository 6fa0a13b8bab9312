"""Writes docs/tutorials/NAME.md from docs/tutorials/NAME.py: the text, the code, what it printed and drew.

Run `python docs/make_tutorials.py [NAME...]`; `tests/docs/test_tutorials.py` runs the scripts and compares. A script is
plain Python in cells: `# %% [markdown]` begins text, one comment a line, and `# %%` begins code. It runs in an empty
folder, and pictures that its text shows are what it saved there.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

FOLDER = Path(__file__).with_name("tutorials")
_CELL = re.compile(r"^# %%(?P<text> \[markdown\])?.*\n", re.M)


def cells(script: Path) -> Iterator[tuple[bool, str]]:
    """(whether it is text, content) of each cell; what stands before the first belongs to none."""
    source = script.read_text(encoding="utf-8")
    starts = [*_CELL.finditer(source)]
    for match, end in zip(starts, [*(m.start() for m in starts[1:]), len(source)], strict=True):
        body = source[match.end() : end].strip("\n")
        if match["text"]:
            yield True, "\n".join(line.removeprefix("#").removeprefix(" ") for line in body.splitlines())
        else:
            yield False, body


def run(script: Path, folder: Path) -> str:
    """The page that a script makes in a folder."""
    namespace = {"__name__": "__main__", "__file__": str(script)}
    parts = [f"<!-- written by docs/make_tutorials.py from {script.name}; do not edit -->"]
    before = os.getcwd()
    os.chdir(folder)
    try:
        for is_text, body in cells(script):
            if is_text:
                parts.append(body)
                continue
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(body, f"{script.name}", "exec"), namespace)
            parts.append(f"```python\n{body}\n```")
            if printed.getvalue():
                parts.append(f"```text output\n{printed.getvalue().rstrip()}\n```")
    finally:
        os.chdir(before)
    return "\n\n".join(parts) + "\n"


def pictures(page: str) -> list[str]:
    """Names of the pictures that a page shows."""
    return re.findall(r"!\[[^\]]*\]\(([\w-]+\.png)\)", page)


def keep(drawn: Path, shown: Path) -> None:
    """Put a picture among the committed ones, in 256 colours: a quarter of the bytes."""
    with Image.open(drawn) as picture:
        picture.convert("RGB").quantize(256, kmeans=2, dither=Image.Dither.NONE).save(shown, optimize=True)


def write(script: Path) -> None:
    """Run a script and write its page and its pictures beside it."""
    with tempfile.TemporaryDirectory() as folder:
        page = run(script, Path(folder))
        script.with_suffix(".md").write_text(page, encoding="utf-8")
        for name in pictures(page):
            keep(Path(folder, name), FOLDER / name)


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.py")):
        sys.stderr.write(f"{name}\n")
        write(FOLDER / f"{name}.py")
