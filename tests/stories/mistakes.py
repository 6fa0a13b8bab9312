"""I mistype, forget and misplace things; each time one line says what is wrong and what to do, and nothing is broken."""

import contextlib
import io
import os
import shutil
from pathlib import Path

from hierax.cli import main

shutil.copytree(os.environ["PHOTOS"], "photos")  # stands in for a folder of mine
before = {path: path.read_bytes() for path in Path("photos").rglob("*.jpg")}


def wrong(code: int, words: str, line: str) -> str:
    """A command line that must end with this code, and say these words in one line or one box; what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        got = main(line.split())
    said = err.getvalue()
    assert got == code, f"{line}: exit {got}, expected {code}\n{said}"
    assert words in " ".join(said.split()), f"{line}: expected {words!r}, got\n{said}"
    assert not any(word in said for word in ("Traceback", "internal error")), said
    assert code != 1 or len(said.splitlines()) == 1, f"{line}: one line, not\n{said}"
    return out.getvalue()


# Names of commands, options and files, one letter off or forgotten.
wrong(2, "Did you mean 'classify'", "clasify photos")
wrong(2, "eval needs one of: accuracy", "eval")
wrong(2, "--top-k", "classify photos --topk 3")
wrong(2, "-o OUT", "embed photos")
wrong(1, "Name at least one file", "classify")
wrong(1, "Did you mean 'photos'", "classify photo")
wrong(1, "is a URL, which hierax does not fetch", "classify https://example.com/photo.jpg")
wrong(1, "Did you mean", "classify photos -m hiera_tiny_24")

# A model in the place of a photograph: an -m was forgotten.
assert main(["-q", "convert", "hiera_nano_96", "saved", "--to", "hierax"]) == 0
wrong(1, "did you mean -m saved", "classify saved")

# Values that cannot be.
wrong(1, "Write 512 or 512x768", "classify photos --input-size big")
wrong(1, "multiple", "classify photos --input-size 100")
wrong(1, "--fast", "classify photos --engine openvino")
wrong(1, "Use device='cpu'", "classify photos --device gpu")

# Outputs in the wrong place: nothing that exists is overwritten.
wrong(1, "must end with .csv or .jsonl or .parquet or .npz", "embed photos -o vectors.txt")
wrong(1, "Write 'maps/'", "features photos -o maps")
wrong(1, "Maps need a folder of their own", "features photos -o photos/flowers/")
wrong(1, "already exists", "convert hiera_nano_96 saved --to timm")
wrong(1, "HieraDet trunks only", "convert hiera_nano_96 trunk.pt --to sam2")

# Training: the folder of the run among its data, a key that does not exist, images without classes.
wrong(1, "must lie outside its data", "finetune photos photos/run")
wrong(1, "learning_rate", "finetune photos run --set learning_rate=1e-3")
wrong(1, "KEY=VALUE", "finetune photos run --set fast")
wrong(1, "one folder a class", "finetune photos/flowers run")

# Nothing was written by any of them, and the photographs are as they were.
assert sorted(path.name for path in Path().iterdir()) in (["photos", "saved"], ["photos", "run", "saved"])
assert not any(path.is_file() for path in Path("run").rglob("*") if path.name != ".lock")
assert {path: path.read_bytes() for path in Path("photos").rglob("*.jpg")} == before

# One bad file among good ones: all others are answered, and the code says that one was not.
Path("photos/bad.jpg").write_text("no picture")
table = wrong(3, "1 of 25 files could not be read", "classify photos --top-k 1")
assert table.count("error:") == 1
assert len([line for line in table.splitlines() if line.startswith("photos/")]) == 25
