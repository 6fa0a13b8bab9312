"""Nothing that comes from a file steers a terminal, in any format, and pipes get everything as it is."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import warnings

import pytest

from hierax import console
from hierax.cli import main
from hierax.weights.write import write_weights

from ..members import classifier, write_png

pty = pytest.importorskip("pty")
HOSTILE = {"\x1b", "\x9b", "\x07", "\u202e", "\x7f", "\x9d", "\u2066"}
NAME = "evil\x1b]0;t\x07\x9b2J\u202e\x7f.png"
CODE = """
import sys
from hierax.cli import main
name, model = sys.argv[1:]
for form in ("table", "json", "jsonl", "csv"):
    main(["-q", "classify", ".", "-m", model, "--format", form])
main(["-q", "embed", ".", "-m", model, "-o", name.replace(".png", ".npz")])
main(["-q", "embed", ".", "-m", model, "-o", name.replace(".png", ".npz")])
main(["-q", "convert", model, name + " folder", "--to", "hierax"])
main(["-q", "describe", name + " folder"])
main(["-q", "verify", name + " folder"])
main(["-q", "render", name + " rendered", "--count", "1"])
main(["-q", "--" + name])
main(["-q", "classify", "--top-k", name])
main(["-q", name])
"""


def on_terminal(arguments: list[str]) -> str:
    """What a terminal gets from a process, stdout and stderr."""
    ours, theirs = os.openpty()
    child = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs)
    os.close(theirs)
    got = b""
    while True:
        try:
            more = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not more:
            break
        got += more
    os.close(ours)
    child.wait()
    return got.decode()


@pytest.mark.slow
def test_terminal__gets_no_escapes(desk):
    """A title, a cleared screen, a line that looks like ours: a file from the internet chooses its name and its labels."""
    model = write_weights(classifier(["a\x1b[2Jb", "c\x9b31m", "d\u202ee"]), desk / "model", to="hierax")
    write_png(NAME)
    (desk / ("bad" + NAME)).write_text("no image")
    text = on_terminal([sys.executable, "-c", CODE, NAME, str(model)])
    assert "evil\\x1b]0;t" in text
    assert "evil\\u001b]0;t\\u0007\\u009b2J\\u202e\\u007f.png" in text  # JSON stays JSON
    assert not HOSTILE & set(text), [text[max(0, k - 80) : k + 40] for k, c in enumerate(text) if c in HOSTILE][:3]
    assert "Traceback" not in text


def test_pipe__gets_the_bytes(desk, capsys):
    """What is shown to people must not be what scripts read."""
    write_png(NAME)
    assert main(["-q", "classify", NAME, "--top-k", "1", "--format", "csv"]) == 0
    assert NAME in capsys.readouterr().out
    assert main(["-q", "classify", NAME, "--top-k", "1", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["path"] == NAME
    assert main(["-q", "convert", "hiera_nano_96", "x\x1b[1m", "--to", "hierax"]) in (0, 1)


def test_stderr__logs_and_warnings_too(capfd):
    """They hold names and words of models as they are."""
    code = (
        "import logging, warnings, threading; from hierax import console\n"
        "console.set_up('normal')\n"
        "logging.getLogger('hierax').warning('tensor %s', 'a\\x1b[2J')\n"
        "warnings.warn('b\\x9b2J')\n"
        "console.show('c\\u202e', now=True)\n"
        "def fail(): raise OSError('d\\x1b')\n"
        "thread = threading.Thread(target=fail); thread.start(); thread.join()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HOSTILE & set(done.stderr)
    assert done.stderr.splitlines()[0] == "hierax: tensor a\\x1b[2J"
    assert "b\\x9b2J" in done.stderr
    assert "Traceback" not in done.stderr


def test_set_up__leaves_handlers_that_are_there(monkeypatch):
    """In another program the log is the program's."""
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    before = list(logging.getLogger().handlers)
    console.set_up("normal")
    assert not before or logging.getLogger().handlers == before
