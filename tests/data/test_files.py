"""Names of files as text and as bytes, whatever the system's encoding."""

from __future__ import annotations

import pytest

from hierax.data.files import name_bytes, name_text, nearest_file
from hierax.errors import nearest


@pytest.mark.parametrize(
    ("name", "text", "data"),
    [
        ("a.png", "a.png", b"a.png"),
        ("\u00e9.png", "\u00e9.png", b"\xc3\xa9.png"),
        ("caf\udce9.png", "caf\\xe9.png", b"caf\xe9.png"),
        ("\udcc3\udca9.png", "\u00e9.png", b"\xc3\xa9.png"),  # a name that a process without UTF-8 was given
        ("\ud800.png", "\\xed\\xa0\\x80.png", b"\xed\xa0\x80.png"),
    ],
)
def test_names(name, text, data):
    """`os.fsencode` gives other bytes, or none, under another locale."""
    assert name_text(name) == text
    assert name_bytes(name) == data


def test_nearest__bounded():
    """The search takes the square of the length: minutes for a name of thousands of digits among thousands."""
    assert nearest("9" * 100_000, ["9" * 99_999] * 1000) == ""
    assert nearest("cot", ["cat", "c" * 100_000]) == "Did you mean 'cat'? "


def test_nearest_file__nowhere(tmp_path):
    """A missing or closed folder is no error of its own."""
    assert nearest_file(tmp_path / "gone" / "a.png") == nearest_file(tmp_path / ("x" * 300) / "a.png") == ""
