"""What of an address may be said, and what of a name from elsewhere may become a path."""

from __future__ import annotations

import pytest

from hierax.net.address import file_name, inner, plain, shown


@pytest.mark.parametrize(
    "text",
    [
        "http://user:S@host/a.tar?sig=S#S", "HTTPS://S@host/a.tar", "http://user:S/S@host/a.tar", "http://[S/a.tar", "http://host:S/a",
        "http:/user:S@host/a.tar?S", "s3://S@host/a.tar?S", "['http://u:S@host/a.tar?S', 'http://u:S@host/b.tar?S']",
        "http://u:S@host/a.tar?S and http://u:S@host/b.tar?S#S", "http://a@b:S@host/x?S", "ftp://u:S?S@host/x",
    ],
)  # fmt: skip
def test_nothing_secret_of_an_address_is_said(text):
    """Users, passwords and signatures in a message end in logs and issues."""
    assert "S" not in shown(text).replace("HTTPS", "")


@pytest.mark.parametrize("text", ["", "a/b?c#d", "C:/x?y", "C:\\x", "hiera_tiny_224", "org/repo@main", "a: b"])
def test_what_is_no_address_stays(text):
    """A path with a question mark is a path."""
    assert shown(text) == text


def test_an_address_stays_readable():
    """A message that hides the host helps nobody."""
    assert shown("http://u:p@host:8080/a/b.tar?x=1") == "http://host:8080/a/b.tar"
    assert shown("got 'http://h/a?x', and more") == "got 'http://h/a', and more"


@pytest.mark.parametrize("word", ["a", "v1.0", "_x", "-x", "c0ffee" * 6, "a" * 128])
def test_plain_words(word):
    """Refusing what servers really send stops every download."""
    assert plain(word)
    assert inner(word)


@pytest.mark.parametrize(
    "word",
    [None, "", ".", "..", ".x", "a/b", "../a", "a\\b", "a\0", "a\n", "a" * 129, "a:b", "caf\xe9", "/a", "a ", "a%2fb"],
)
def test_words_that_are_no_name(word):
    """Each leads out of a folder, or hides in it, on some system."""
    assert not plain(word)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "..",
        "a/../b",
        "/a",
        "a//b",
        "a/",
        "a\\b",
        "C:a",
        "a\0",
        "a\x1b[2J",
        "a/..",
        " /x",
        "x" * 600,
        "a/" + "x" * 300,
    ],
)
def test_names_that_lead_out(name):  # fmt: skip
    """Files of a repository, revisions and listed names become paths as they are."""
    assert not inner(name)


def test_names_inside():
    """Folders are allowed, and so are the letters of any language."""
    assert all(map(inner, ("a/b.pt", "refs/pr/1", "v1.0", "caf\xe9/m.pt", "..pt", "a b.bin")))
    assert file_name("http://h/%2e%2e/..%2fup.bin?x=/y") == "up.bin"
