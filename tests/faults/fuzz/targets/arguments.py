"""The command line's own arguments, one a line; a folder with a few images and files lies under it."""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
import shutil
from pathlib import Path

from hierax.cli import COMMANDS, main

from ....members import plain_image, save_learner
from ..mutate import any_bytes, one_of
from ..target import Target, Wrong

_FILES = (
    "a.png",
    "broken.jpg",
    "deep",
    "list.txt",
    "table.csv",
    "model",
    "recipe.toml",
    "new.npz",
    "new.csv",
    "new",
    "none.png",
    "-",
    "*.png",
    "**",
    "",
)
_OPTIONS = ("-m", "--model", "-o", "--output", "--top-k", "--format", "--batch-size", "--device", "--dtype", "--fast", "--views", "--stages", "--plot",
            "--to", "--name", "--split", "--count", "--seed", "--size", "--recipe", "--steps", "--epochs", "--set", "--normalize", "--overwrite",
            "--commercial", "--protocol", "--frame-stride", "--revision", "--resume", "--method", "-q", "-v", "--", "--help", "-h", "--version", "--x")  # fmt: skip
_VALUES = ("0", "-1", "1", "2", "3", "9" * 400, "1e9", "nan", "inf", "", " ", "json", "jsonl", "csv", "table", "cpu", "cuda:99", "meta", "float32", "bfloat16",
           "int8", "float64", "stage1", "stage1,stage9", "hierax", "meta", "timm", "hiera_tiny_224", "org/repo", "org/repo@x", "a=b", "lr=1", "lr=9" + "9" * 5000,
           "shapes:4", "shapes:-1", "shapes:x@y", "x.tar", "{0..3}.tar", "pipe:true", "train", "all", "\x1b[31m", "\udcff", "\u0663", "../x", "None", "True",
           "http://127.0.0.1:9/x.pth", "https://user:pass@127.0.0.1:9/x?sig=s", "name-{0000..9999999999}.tar", "[" * 3000)  # fmt: skip
_CODES = {0, 1, 2, 3}
_files: list[Path] = []  # what the commands may find


def act(folder: Path, data: bytes) -> str:
    """Run the command in this process; its output is checked where it says that it is JSON."""
    shutil.copytree(_files[0], folder, dirs_exist_ok=True)
    arguments = _tame(data.decode("utf-8", "surrogateescape").split("\n"))
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors="surrogateescape") for _ in range(2))
    stdin = io.TextIOWrapper(io.BytesIO(b"a.png\nnone.png\n"), "utf-8")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _input(stdin):
        code = main(arguments)
    said, talk = ((stream.flush(), stream.buffer.getvalue())[1].decode("utf-8", "replace") for stream in (out, err))
    if code not in _CODES or "Traceback" in talk or "internal error" in talk:
        raise Wrong(f"exit code {code}: {talk[-300:]}")
    if code and not talk.strip() and not said.strip():
        raise Wrong(f"exit code {code} without a word")
    if code in (0, 3) and "--format\njson\n" in "\n".join(arguments) + "\n" and said[:1] in ("[", "{"):
        json.loads(said, parse_constant=_no_number)
    return f"{arguments[:1]} {code} {talk[-200:]}"


def _no_number(word: str) -> None:
    raise Wrong(f"{word} in JSON")


@contextlib.contextmanager
def _input(stream: io.TextIOWrapper):
    import sys

    kept, sys.stdin = sys.stdin, stream
    try:
        yield
    finally:
        sys.stdin = kept


def _tame(arguments: list[str]) -> list[str]:
    """Nothing outside the folder is named, nothing trains, and -v, which asks for tracebacks, is left out."""
    kept = [
        re.sub(r"^(--[\w-]+=|\w+:)?[/~]+", r"\1", word.replace("..", ""))
        for word in arguments[:40]
        if word not in ("-v", "--verbose")
    ]
    kept = [word.replace("\0", "") for word in kept]
    command = next((word for word in kept if word not in ("-q", "--quiet")), "")
    if command in ("pretrain", "finetune"):  # training is what it is asked for, however long: data that is none
        kept = [
            word
            if word not in ("deep", "a.png", "broken.jpg", "table.csv", "list.txt", "*.png", "**", "", ".", "-")
            and "shapes" not in word
            else "new"
            for word in kept
        ]
        kept[kept.index(command) + 1 : kept.index(command) + 1] = ["none.png"]
    if command == "render":
        kept = [word if not re.search(r"\d{3}", word) else "2" for word in kept] + ["--count", "2"]
    return kept


def seeds(folder: Path) -> list[bytes]:
    """One good call of each command."""
    for name in ("deep/cat", "deep/dog"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    save_learner(folder / "model")
    for path in ("a.png", "deep/cat/b.png", "deep/dog/c.png"):
        (folder / path).write_bytes(plain_image())
    contents = {
        "broken.jpg": b"<html>",
        "list.txt": b"a.png\n",
        "table.csv": b"path,label\na.png,cat\n",
        "recipe.toml": b"steps = 1\n",
    }
    for path, content in contents.items():
        (folder / path).write_bytes(content)
    _files[:] = [folder]
    calls = (
        "list *tiny* --commercial --format json", "describe hiera_tiny_224", "describe model", "classify a.png broken.jpg --format json",
        "classify a.png --top-k 2 --format csv", "classify - --format jsonl", "embed a.png deep -o new.npz -m model --normalize", "embed a.png -o new.parquet",
        "features a.png -o new.npz --stages stage1,stage4 --plot new.png", "convert model new --to transformers", "verify model", "download hiera_tiny_224",
        "pretrain deep new --steps 1 --model model", "finetune table.csv new --recipe recipe.toml --set lr=1", "eval accuracy deep -m model --format json",
        "render new --count 2 --seed 3 --size 32 --format png", "--help", "--version", "classify --help",
    )  # fmt: skip
    return [call.replace(" ", "\n").encode() for call in calls]


def words(data: bytes, rng: random.Random) -> bytes:
    """Words exchanged, put in, left out and moved."""
    found = data.decode("utf-8", "surrogateescape").split("\n")
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, kind = rng.randrange(len(found) + 1), rng.randrange(6)
        word = rng.choice(rng.choice((_FILES, _OPTIONS, _VALUES, _VALUES, tuple(COMMANDS))))
        if kind < 2 and at < len(found):
            found[at] = word
        elif kind == 2:
            found.insert(at, word)
        elif kind == 3:
            found[at:at] = [rng.choice(_OPTIONS), word]
        elif kind == 4 and at < len(found):
            del found[at]
        elif at < len(found):
            found.append(found[at])
    return "\n".join(found).encode("utf-8", "surrogateescape")


TARGET = Target("arguments", act, seeds, one_of(words, words, words, any_bytes), weight=2, anywhere=True)
