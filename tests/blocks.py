"""Code blocks of Markdown pages: finding them, running them as a reader would, comparing what they print.

A block's info string holds its language and options: ```sh no-network. A block ```text output says what the block
before it prints; in it `...` stands for anything, and numbers with a point may differ by a fiftieth.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib
import importlib.util
import io
import math
import os
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import warm
from .peers import prepare

ROOT = Path(__file__).parents[1]
_FENCE = re.compile(r"^(?P<fence>`{3,})(?P<info>[^\n`]*)\n(?P<code>.*?)^(?P=fence) *$", re.M | re.S)
_NUMBER = re.compile(r"-?\d+\.\d+(?:e[+-]?\d+)?|-?\d+e[+-]?\d+")
_TOLERANCE = 0.02  # relative, and absolute below 1
# Lines that set up an environment are what runs these tests; they are not run again.
_SET_UP = ("make", "git", "pip", "cd", "source", "python3")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: The file it stands in.
        line: Where.
        language: First word behind the fence.
        options: The other words.
        code: Its lines.
        output: What the page says that it prints; None where it says nothing.
    """

    page: Path
    line: int
    language: str
    options: frozenset[str]
    code: str
    output: str | None = None

    @property
    def place(self) -> str:
        """For messages."""
        return f"{self.page.name}, line {self.line}"


def blocks(page: Path) -> list[Block]:
    """Every block of a page that is in a language, with the output that follows it."""
    found: list[Block] = []
    text = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        language, *options = match["info"].split() or [""]
        line = text.count("\n", 0, match.start()) + 1
        if language == "text" and "output" in options:
            last = found.pop()
            found.append(Block(last.page, last.line, last.language, last.options, last.code, match["code"]))
        elif re.fullmatch(r"\w+", language):
            found.append(Block(page, line, language, frozenset(options), match["code"]))
    return found


def installed(block: Block) -> bool:
    """Whether the original packages that a block asks for (`needs-PACKAGE`) are installed; they are made ready."""
    needed = [option.removeprefix("needs-") for option in block.options if option.startswith("needs-")]
    found = all(importlib.util.find_spec(name) is not None for name in needed)
    if needed and found:
        prepare()
    return found


def run_python(block: Block, namespace: dict[str, Any]) -> str:
    """Run a block in a namespace that the blocks before it may have filled; returns what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        exec(compile("\n" * block.line + block.code, str(block.page), "exec"), namespace)
    return printed.getvalue()


def check_python(block: Block, namespace: dict[str, Any]) -> None:
    """Check a block that cannot run without a network: it compiles, imports run, no name comes out of nowhere.

    With the option `needs-PACKAGE`, nothing is checked where that original package is not installed.
    """
    tree = ast.parse(block.code)
    if not installed(block):
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            exec(compile(ast.Module([node], []), block.place, "exec"), namespace)
    made = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    made |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    made |= {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    namespace.update(dict.fromkeys(made - namespace.keys()))  # a later block may use them
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            known = node.id in namespace or hasattr(builtins, node.id)
            assert known, f"{block.place}: nothing gave {node.id!r} a value"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = namespace.get(node.value.id)
            if isinstance(owner, type(importlib)):
                assert hasattr(owner, node.attr), f"{block.place}: no {node.value.id}.{node.attr}"


def commands(block: Block) -> list[str]:
    """The command lines of a shell block, without comments and without what sets up an environment."""
    lines = [line.split(" #")[0].strip() for line in block.code.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#") and line.split()[0] not in _SET_UP]


def run_shell(block: Block, folder: Path) -> str:
    """Run a block line by line; returns what it printed, stderr included. An option `exits-3` expects that code."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": "100", "PYTHONPATH": os.pathsep.join(sys.path)}
    wanted = next((int(option[6:]) for option in block.options if option.startswith("exits-")), 0)
    printed = []
    for command in commands(block):
        code, said = _run_line(command, folder, environment)
        assert code == wanted, f"{block.place}: {command} exits with {code}\n{said}"
        printed.append(said)
    return "".join(printed)


def _run_line(line: str, folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run a command line; its exit code, and what it printed, unless into a file. A shell runs what is more than one
    `hierax` command.
    """
    words = shlex.split(line)
    output = folder / words[-1] if words[-2:-1] == [">"] else None
    words = words[:-2] if output else words
    if words[0] != "hierax" or set("|&;<>()*?$~`") & set("".join(words)):
        done = subprocess.run(
            line, shell=True, cwd=folder, env=environment, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8",
        )  # fmt: skip
        return done.returncode, done.stdout
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as said:
        printed = Path(said.name)
        code = warm.run(words[1:], cwd=folder, environment=environment, out=output or printed, err=printed)
        return code, said.read()


def check_shell(block: Block) -> None:
    """Check a block that cannot run here: every `hierax` command and option of it exists."""
    from hierax.cli import COMMANDS, command

    for line in commands(block):
        words = line.split()
        if words[0] != "hierax" or words[1:2] == ["--help"]:
            continue
        name = next((n for n in (" ".join(words[1:3]), words[1]) if n in COMMANDS), None)
        assert name is not None, f"{block.place}: no command {line!r}"
        known = {f"--{key.rstrip('_').replace('_', '-')}" for key in command(name).__annotations__}
        given = {word.split("=")[0] for word in words if word.startswith("--")}
        assert given <= known | {"--help", "--quiet", "--verbose"}, f"{block.place}: no options {given - known}"


def difference(expected: str, printed: str) -> str:
    """Where a page's words and a program's part ways; empty where they do not."""
    wanted, got = _lines(expected), _lines(printed)
    return "" if _follows(wanted, got) else f"expected\n{expected}\nprinted\n{printed}"


def _lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def _follows(wanted: list[str], got: list[str]) -> bool:
    if not wanted:
        return not got
    if wanted[0] == "...":
        return any(_follows(wanted[1:], got[start:]) for start in range(len(got) + 1))
    return bool(got) and same_line(wanted[0], got[0]) and _follows(wanted[1:], got[1:])


def same_line(wanted: str, got: str) -> bool:
    """Whether two lines agree, `...` taken for anything, numbers with a point within the tolerance."""
    numbers = iter(float(number) for number in _NUMBER.findall(wanted))
    pattern = re.escape(_NUMBER.sub("\0", wanted)).replace(r"\.\.\.", ".*")
    match = re.fullmatch(re.sub(r"\\?\0", lambda _: f"({_NUMBER.pattern})", pattern), got)
    if match is None:
        return False
    pairs = zip(numbers, map(float, match.groups()), strict=True)
    return all(math.isclose(a, b, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE) for a, b in pairs)
