"""Help and usage errors as a person reads them: words for values, and colours where they are wanted."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import typing

import pytest

from hierax.cli import COMMANDS, main
from hierax.commands import signature

USAGES = {
    "list": "[PATTERN]",
    "describe": "MODEL",
    "classify": "INPUT [INPUT ...]",
    "embed": "INPUT [INPUT ...]",
    "explain": "INPUT [INPUT ...]",
    "features": "INPUT [INPUT ...]",
    "segment train": "LABELS",
    "segment predict": "HEAD INPUT [INPUT ...]",
    "segment propagate": "CLIP FIRST_MASK",
    "eval segmentation": "DATA",
    "eval propagation": "DATA",
    "view": "INPUT [INPUT ...]",
    "search": "STORE QUERY [QUERY ...]",
    "duplicates": "STORE",
    "cluster": "STORE",
    "index": "PHOTOS STORE",
    "store merge": "STORE [STORE ...]",
    "convert": "SOURCE DESTINATION",
    "export": "SOURCE DESTINATION",
    "download": "MODEL",
    "verify": "SOURCE",
    "prepare": "MODEL",
    "cache list": "",
    "cache clear": "",
    "pretrain": "DATA OUT",
    "finetune": "DATA OUT",
    "eval accuracy": "DATA",
    "eval knn": "DATA",
    "eval linear": "DATA",
    "eval retrieval": "DATA",
    "eval explanations": "DATA",
    "eval seams": "",
    "render": "DESTINATION",
    "completion": "{bash,zsh,fish}",
    "serve": "",
}


def helped(capsys, command: str) -> str:
    assert main([*command.split(), "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_positionals__have_names(capsys, command):
    """`STR PATH [[STR ...]]` does not say which is which."""
    out = " ".join(helped(capsys, command).split())
    assert f"hierax {command} [-h] {USAGES[command]}".rstrip() + " " in out.replace("[OPTIONS] ", "")


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_values__have_names(capsys, command):
    """`-m {None}|STR` is a type of Python, no word for what goes there."""
    out = helped(capsys, command)
    assert not re.search(r"\b(STR|PATH)\b|\{?None\}?\|", out), out


def test_output__is_named(capsys):
    """As the page has it: -o OUT."""
    out = helped(capsys, "embed")
    assert "-o OUT" in out
    assert "-m MODEL" in out
    assert "--batch-size INT" in out


def test_inputs__default_is_not_shown_as_nothing(capsys):
    """ "(default: )" was printed of what is required."""
    assert "(default: )" not in helped(capsys, "classify")
    assert main(["classify"]) == 1
    assert "Name at least one file" in capsys.readouterr().err


def on_terminal(arguments: list[str], **environment: str) -> str:
    """What a terminal gets."""
    pytest.importorskip("pty")
    ours, theirs = os.openpty()
    known = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    child = subprocess.Popen(
        [sys.executable, "-m", "hierax", *arguments],
        stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env={**known, "TERM": "xterm", **environment},
    )  # fmt: skip
    os.close(theirs)
    got = b""
    try:
        while more := os.read(ours, 65536):
            got += more
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    child.wait()
    return got.decode()


@pytest.mark.slow
def test_values__keep_their_short_name_where_types_come_as_optional(monkeypatch, capsys):
    """Python 3.10 wraps what has None for a default: `-m` and the words of help were lost there."""

    def wrapped(function, **options):
        hints = typing.get_type_hints(function, **options)
        given = hints["model"]
        return hints | {"model": typing.Union[given, None]}  # noqa: UP007 - as 3.10 does

    monkeypatch.setattr(signature, "get_type_hints", wrapped)
    assert main(["classify", "--help"]) == 0
    assert "-m MODEL, --model MODEL" in " ".join(capsys.readouterr().out.split())


def test_colours__only_where_they_are_wanted():
    """NO_COLOR, unless it is empty, means none (no-color.org)."""
    assert "\x1b[" in on_terminal(["embed", "--help"])
    assert "\x1b[" in on_terminal(["embed", "--help"], NO_COLOR="")
    assert "\x1b" not in on_terminal(["embed", "--help"], NO_COLOR="1")
    assert "\x1b" not in on_terminal(["embed", "--nonsense"], NO_COLOR="1")


@pytest.mark.slow
@pytest.mark.parametrize("columns", [1, 3])
def test_narrow_terminals__get_help(columns):
    """Below 4 columns lines were broken for ever; Python 3.10 says 0 where a terminal states no width."""
    command = [sys.executable, "-m", "hierax", "embed", "--help"]
    known = {**os.environ, "COLUMNS": str(columns)}
    done = subprocess.run(command, capture_output=True, text=True, env=known, timeout=600, check=True)
    assert "--overwrite" in done.stdout


def test_narrow_terminals__leave_the_environment(monkeypatch, capsys):
    """What runs after the help would find other columns than the person has."""
    for before in ("3", None):
        monkeypatch.setenv("COLUMNS", before) if before else monkeypatch.delenv("COLUMNS")
        monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((int(os.getenv("COLUMNS", "0")), 24)))
        assert "--overwrite" in helped(capsys, "embed")
        assert os.environ.get("COLUMNS") == before


@pytest.mark.slow
def test_usage_error__shows_no_codes_of_colours():
    """Every box of an error was drawn in `\\x1b[31m`, written out, since nothing else may steer a terminal either."""
    text = on_terminal(["embed", "--nonsense\x1b[2J"])
    assert "Unrecognized options" in text
    assert "[31m" not in text
    assert "\x1b" not in text
    assert "--nonsense\\x1b[2J" in text


@pytest.mark.slow
def test_pictures_and_tables__have_no_colours(tmp_path):
    """On a terminal too: nothing but help is coloured."""
    for arguments in (["list", "hiera_nano*"], ["render", str(tmp_path / "x"), "--count", "2"]):
        assert "\x1b[" not in on_terminal(arguments, NO_COLOR="1").replace("\x1b[K", "")
