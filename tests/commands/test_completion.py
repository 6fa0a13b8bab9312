"""Shells complete what is typed: asked as a person asks, by the key."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import sys
import time

import pytest

from hierax.cli import COMMANDS, main
from hierax.weights.catalog import list_models

from ..members import write_png

pty = pytest.importorskip("pty")
pytestmark = pytest.mark.slow
START = {
    "bash": (["--norc", "--noprofile", "-i"], "bind 'set enable-bracketed-paste off'; source ./script"),
    "zsh": (
        ["-f", "-i"],
        "autoload -Uz compinit; compinit -u -d ./dump; unsetopt zle_bracketed_paste; source ./script",
    ),
}
# What is typed before the key, and what must stand there after it.
TYPED = [
    ("hierax classi", "hierax classify "),
    ("hierax -q feat", "hierax -q features "),
    ("hierax classify --form", "hierax classify --format "),
    ("hierax classify phot", "hierax classify photos/"),
    ("hierax classify photos/only", "hierax classify photos/only.png"),
    ("hierax classify photos -m hieradet_d_base_p", "hierax classify photos -m hieradet_d_base_plus "),
    ("hierax classify -m phot", "hierax classify -m photos/"),
    ("hierax eval acc", "hierax eval accuracy "),
    ("hierax eval accuracy --proto", "hierax eval accuracy --protocol "),
    ("hierax convert hiera_na", "hierax convert hiera_nano_96 "),
    ("hierax convert a b --to tr", "hierax convert a b --to transformers "),
    ("hierax completion z", "hierax completion zsh "),
]


@pytest.fixture
def script(tmp_path, monkeypatch, capsys):
    """The folder with a shell's script and a few files; of a shell that is not installed there is no test."""

    def make(shell: str):
        if shutil.which(shell) is None:
            pytest.skip(f"{shell} is not installed")
        assert main(["completion", shell]) == 0
        (tmp_path / "script").write_text(capsys.readouterr().out)
        (tmp_path / "photos").mkdir()
        write_png(tmp_path / "photos" / "only.png")
        return tmp_path

    return make


class Terminal:
    """A shell that a person sits before."""

    def __init__(self, shell: str, folder) -> None:
        arguments, start = START[shell]
        self.ours, theirs = os.openpty()
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "TERM": "dumb", "PS1": "> ", "COLUMNS": "400"}
        self.child = subprocess.Popen(
            [shell, *arguments], cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, env=environment,
            start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self.type(f"stty cols 400; PS1='> '; {start}; printf 're%s\\n' ady\n")
        self.read_until(re.compile("ready\r?\n"))

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def read_until(self, wanted: re.Pattern[str], seconds: float = 120.0) -> str:
        """What is shown until something is, or until the time is over."""
        got, end = "", time.monotonic() + seconds
        while not wanted.search(got) and time.monotonic() < end:
            if select.select([self.ours], [], [], 0.1)[0]:
                got += os.read(self.ours, 65536).decode(errors="replace").replace("\x07", "")
        return got

    def close(self) -> None:
        self.child.kill()
        self.child.wait()
        os.close(self.ours)


@pytest.mark.parametrize("shell", sorted(START))
def test_key(script, shell):
    """A script that parses and completes nothing, or takes the completion of files away, is worse than none."""
    terminal = Terminal(shell, script(shell))
    try:
        for typed, wanted in TYPED:
            terminal.type(f"{typed}\t")
            shown = terminal.read_until(re.compile(re.escape(wanted.strip())))
            assert wanted.strip() in shown, f"{shell}: {typed!r} gave {shown!r}"
            terminal.type("\x15printf 'do%s\\n' ne\n")
            terminal.read_until(re.compile("done\r?\n"))
    finally:
        terminal.close()


def test_key__of_fish(script):
    """fish says by itself what it would offer."""
    folder = script("fish")

    def offered(typed: str) -> list[str]:
        command = ["fish", "--no-config", "-c", f"source ./script; complete -C {typed!r}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return [line.split("\t")[0] for line in done.stdout.splitlines()]

    for typed, wanted in TYPED:
        last = wanted.split()[-1]
        assert last in offered(typed), (typed, offered(typed))
    assert set(offered("hierax ")) >= {name.split()[0] for name in COMMANDS}
    assert "photos/" not in offered("hierax ")
    assert offered("hierax classify photos --format ") == ["csv", "json", "jsonl", "table"]


def test_bash__offers_everything(script):
    """An option or a model that is left out cannot be found by the key."""
    folder = script("bash")

    def offered(*words: str) -> set[str]:
        typed = " ".join(f"'{word}'" for word in ("hierax", *words))
        code = f"source ./script; COMP_WORDS=({typed}); COMP_CWORD={len(words)}; _hierax; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        done = subprocess.run(["bash", "--norc", "-c", code], cwd=folder, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return set(done.stdout.split())

    assert offered("") == {name.split()[0] for name in COMMANDS}
    assert offered("eval", "") == {name.split()[1] for name in COMMANDS if name.startswith("eval ")}
    assert offered("embed", "a.png", "--model", "") == set(list_models())
    assert offered("classify", "a.png", "--format", "") == {"table", "json", "jsonl", "csv"}
    assert {"-o", "--output", "-m", "--model", "--normalize", "-q", "--help"} <= offered("embed", "-")
    assert offered("embed", "a.png", "-o", "") == set()  # a file: the shell's own completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_syntax(script, shell):
    """The shell itself must take every line."""
    done = subprocess.run([shell, "-n", "script"], cwd=script(shell), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_unknown_shell(capsys):
    """tcsh has no script."""
    assert main(["completion", "tcsh"]) == 2
    assert "'tcsh'" in capsys.readouterr().err


def test_no_torch():
    """Shells run it at every start."""
    code = "import sys; from hierax.cli import main; main(['completion', 'bash']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
