"""I read before I run: help in the shell, help in Python, the README; what they name must be there."""

import contextlib
import inspect
import io
import os
import re
import subprocess
import sys

import hierax
from hierax.cli import COMMANDS, main


def printed(*arguments: str) -> str:
    """What a command prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(list(arguments)) == 0
    return out.getvalue()


# hierax --help lists every command; each has help of its own, with words for what goes where.
overview = printed("--help")
for name, (_, line) in COMMANDS.items():
    assert name in overview, name
    assert line in overview, name
    text = printed(*name.split(), "--help")
    assert text.startswith(f"usage: hierax {name}"), name
    assert "STR" not in text, name
for code in ("0", "1", "2", "3", "130"):
    assert re.search(rf"^  {code} ", overview, re.M), code

# help(hierax.x): every public name says what it does, what it takes and what it raises.
for name in sorted(set(hierax.__all__) - {"__version__"}):
    found = getattr(hierax, name)
    assert inspect.getdoc(found), f"help(hierax.{name}) says nothing"
    if inspect.isfunction(found) and len(inspect.signature(found).parameters) > 1:
        assert "Args:" in inspect.getdoc(found), f"help(hierax.{name}) does not say what it takes"
names = ["hierax.load", "hierax.finetune", "hierax.Predictor.embed_files"]
done = subprocess.run([sys.executable, "-m", "pydoc", *names], capture_output=True, text=True, check=True)
assert "No Python documentation found" not in done.stdout
for words in ("Load a checkpoint", "Train a classifier", "the reason why there is none"):
    assert words in done.stdout, words

# The README: every command it shows exists, every option that it gives a command is one of it.
with open(os.environ["README"], encoding="utf-8") as file:
    readme = file.read()
lines = re.findall(r"^(?:\$ )?hierax (.+?)(?: +#.*)?$", readme, re.M)
assert len(lines) >= 5
for line in lines:
    words = line.split()
    name = next(n for n in (" ".join(words[:2]), words[0]) if n in COMMANDS)
    text = printed(*name.split(), "--help")
    for option in re.findall(r"(?<=\s)--?[a-z][a-z-]*", " " + line):
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text), f"{name} has no {option}"

# Names in backticks that look like Python resolve as they are typed.
for path in sorted(set(re.findall(r"`(hierax(?:\.\w+)+)", readme))):
    found = hierax
    for part in path.split(".")[1:]:
        found = getattr(found, part)
