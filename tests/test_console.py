"""What is said on stderr, and when it is not."""

from __future__ import annotations

import logging
import sys
import warnings

import pytest

from hierax import console


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    """Verbosity is the process's; each test starts from the normal one."""
    monkeypatch.delenv("HIERAX_QUIET", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(console, "_shown_at", -1e9)
    monkeypatch.setattr(console, "_open", False)
    level = logging.getLogger("hierax").level
    yield
    logging.getLogger("hierax").setLevel(level)


def test_say__is_a_line_on_stderr(capsys):
    """stdout is data: one word there breaks whoever pipes it."""
    console.say("hello")
    assert capsys.readouterr() == ("", "hierax: hello\n")


@pytest.mark.parametrize("variable", ["HIERAX_QUIET", "RANK"])
def test_quiet__silences_talk_but_no_complaint(capsys, monkeypatch, variable):
    """Workers and further ranks would repeat every line."""
    monkeypatch.setenv(variable, "1")
    console.say("hello")
    console.show("half done", now=True)
    assert capsys.readouterr().err == ""
    console.complain("broken")
    assert capsys.readouterr().err == "hierax: broken\n"


def test_set_up__quiet_reaches_child_processes(monkeypatch):
    """A flag in this process alone would not silence data workers."""
    monkeypatch.setenv("HIERAX_QUIET", "")
    console.set_up("quiet")
    assert console.quiet()
    with warnings.catch_warnings(record=True) as shown:
        warnings.warn("a library's", stacklevel=1)
    assert not shown
    console.set_up("normal")
    assert not console.quiet()


def test_set_up__verbose_is_about_hierax_alone(monkeypatch):
    """Pillow logs every chunk of a PNG at debug level."""
    monkeypatch.setenv("HIERAX_QUIET", "")
    console.set_up("verbose")
    assert logging.getLogger("hierax").isEnabledFor(logging.DEBUG)
    assert not logging.getLogger("PIL").isEnabledFor(logging.DEBUG)


def test_show__seldom_in_a_log_file(capsys):
    """Rewriting lines in a file would fill a disk overnight."""
    console.show("1")
    console.show("2")
    assert capsys.readouterr().err == "hierax: 1\n"


def test_show__one_line_on_a_terminal(capsys, monkeypatch):
    """A line said behind an open progress line would be glued to it."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    console.show("1", now=True)
    console.show("2", now=True)
    console.say("said")
    assert capsys.readouterr().err == "\r\033[K1\r\033[K2\nhierax: said\n"


def test_bar__silent_unless_a_person_watches(capsys, monkeypatch):
    """A bar in a pipe is noise; its `update` must work all the same."""
    with console.bar("file", total=10) as bar:
        bar.update(5)
    monkeypatch.setenv("HIERAX_QUIET", "1")
    with console.bar("file", total=10) as bar:
        bar.update(5)
    assert capsys.readouterr().err == ""


def test_closed_stderr_is_no_error(monkeypatch):
    """`hierax ... 2>&-` must still do its work."""

    class Closed:
        def isatty(self) -> bool:
            return False

        def write(self, text: str) -> int:
            raise ValueError("I/O operation on closed file")

        def flush(self) -> None:
            raise ValueError("I/O operation on closed file")

    monkeypatch.setattr(sys, "stderr", Closed())
    console.say("hello")
    console.show("half", now=True)


def test_complain__cannot_steer_a_terminal(capsys):
    """A name from an archive could clear the screen; the lines of a long message must stay lines."""
    console.complain("a\x1b[2Jb\x9bc\u202e\u00e9\nsecond ")
    assert capsys.readouterr().err == "hierax: a\\x1b[2Jb\\x9bc\\u202e\u00e9\nsecond\n"
    assert console.printable("a\nb\udcff") == "a\\nb\\udcff"
