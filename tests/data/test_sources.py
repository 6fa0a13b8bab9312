"""find_images: the list that a person means."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from hierax.data.sources import find_images, is_video
from hierax.errors import InputError


@pytest.fixture
def tree(tmp_path):
    for name in ("b.JPG", "a/z.png", "a/y.webp", "a.tiff", "notes.txt", ".hidden.jpg", "._b.jpg", "__MACOSX/b.jpg",
                 ".git/c.jpg", "deep/er/still/x.Jpeg", "empty/readme.md"):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def names(found, root) -> list[str]:
    return [path.relative_to(root).as_posix() for path in found]


def test_folder__sorted_and_filtered(tree):
    """Directory order, hidden files, or case-sensitive extensions."""
    found = find_images(tree)
    assert names(found, tree) == ["a/y.webp", "a/z.png", "a.tiff", "b.JPG", "deep/er/still/x.Jpeg"]
    assert found == find_images([str(tree)])
    assert found.skipped == 4


def test_explicit_files__always_taken(tree):
    """A file that was named is wanted, whatever it is called; a missing one becomes an error row later."""
    inputs = [tree / "notes.txt", str(tree / ".hidden.jpg"), tree / "gone.jpg", tree / "notes.txt"]
    assert find_images(inputs) == [Path(item) for item in inputs]


def test_symlink_loops(tree):
    """A link to its own parent is walked for ever, or until the names get too long."""
    (tree / "a" / "loop").symlink_to(tree)
    (tree / "a" / "self").symlink_to(tree / "a")
    (tree / "other").symlink_to(tree / "deep")
    found = find_images(tree)
    assert len(found) == 5
    assert len({os.path.realpath(path) for path in found}) == 5
    assert len(find_images(str(tree / "**" / "*.png"))) == 1
    assert len(find_images(str(tree / "*"))) == 5


def test_same_folder_twice(tree):
    """Each real folder once, however it is named."""
    assert len(find_images([tree, tree / "a", tree])) == 5


def test_deep_nesting(tmp_path, monkeypatch):
    """Recursion would end at a thousand folders."""
    monkeypatch.chdir(tmp_path)
    for _ in range(1200):
        os.mkdir("d")
        os.chdir("d")
    Path("x.png").write_bytes(b"x")
    try:
        assert len(find_images(tmp_path)) == 1
    finally:  # pytest's own clean-up recurses too
        os.unlink("x.png")
        for _ in range(1200):
            os.chdir("..")
            os.rmdir("d")


@pytest.mark.parametrize(
    ("pattern", "want"),
    [
        ("*", ["a/y.webp", "a/z.png", "a.tiff", "b.JPG", "deep/er/still/x.Jpeg"]),
        ("*.JPG", ["b.JPG"]),
        ("*.txt", ["notes.txt"]),
        ("a/?.*", ["a/y.webp", "a/z.png"]),
        ("[ab].*", ["a.tiff", "b.JPG"]),
        ("**/*", ["a.tiff", "a/y.webp", "a/z.png", "b.JPG", "deep/er/still/x.Jpeg"]),
        ("**", ["a.tiff", "a/y.webp", "a/z.png", "b.JPG", "deep/er/still/x.Jpeg"]),
        ("**/*.png", ["a/z.png"]),
        (".git/*", [".git/c.jpg"]),
        ("*/er", ["deep/er/still/x.Jpeg"]),
    ],
)
def test_globs(tree, pattern, want):
    """A glob that the shell did not expand: filtered like a folder, each file once."""
    assert sorted(names(find_images(str(tree / pattern)), tree)) == sorted(want)


def test_glob__relative(tree, monkeypatch):
    """A pattern without a folder starts where the process is."""
    monkeypatch.chdir(tree)
    assert find_images("*.JPG") == [Path("b.JPG")]


def test_glob__file_with_brackets_in_its_name(tree):
    """An existing file is meant literally, even if its name reads as a pattern."""
    path = tree / "a[1]*.jpg"
    path.write_bytes(b"x")
    assert find_images(path) == [path]


def test_stdin(tree, monkeypatch):
    """Blank lines, carriage returns and names that are not UTF-8."""
    odd = os.fsdecode(os.fsencode(tree) + b'/caf\xe9, "x".jpg')
    Path(odd).write_bytes(b"x")
    listing = os.fsencode(f"{tree}/b.JPG\r\n\n{odd}\n{tree}/a\n{tree}/last.jpg")
    want = [tree / "b.JPG", Path(odd), tree / "a/y.webp", tree / "a/z.png", tree / "last.jpg"]
    for inputs, stream in (("-", io.TextIOWrapper(io.BytesIO(listing))), (["-"], io.BytesIO(listing))):
        monkeypatch.setattr(sys, "stdin", stream)
        assert find_images(inputs) == want


@pytest.mark.parametrize(
    "name", ["new\nline.jpg", "com,ma.png", 'quo"te.gif', "x" * 251 + ".jpg", "cat \N{GRINNING FACE}.JPEG"]
)
def test_odd_names(tmp_path, name):
    """Names go through as they are."""
    (tmp_path / name).write_bytes(b"x")
    assert find_images(tmp_path) == [tmp_path / name]


def test_special_files_in_a_folder__are_listed(tmp_path):
    """A FIFO or dangling link with an image name must become an error row, not vanish."""
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "gone")
    (tmp_path / "c.jpg").mkdir()
    (tmp_path / "c.jpg" / "d.png").write_bytes(b"x")
    assert names(find_images(tmp_path), tmp_path) == ["a.jpg", "b.jpg", "c.jpg/d.png"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda tree: tree / "empty", r"looked in '.*empty'.*\.jpeg.*none"),
        (lambda tree: tree / "__MACOSX", None),
        (lambda tree: str(tree / "*.exr"), "none"),
        (lambda tree: tree / "b.jpeg", "b.JPG"),
        (lambda tree: [], "got none"),
        (lambda tree: "", "path"),
        (lambda tree: "a\0b", "path"),
        (lambda tree: [3], "int"),
    ],
)
def test_nothing_found(tree, make, words):
    """An empty success would look like a finished run."""
    if words is None:
        assert len(find_images(make(tree))) == 1  # a folder that was named is meant
        return
    with pytest.raises(InputError, match=words):
        find_images(make(tree))


def test_nothing_found__says_what_was_skipped(tmp_path, monkeypatch):
    """A folder of resource forks looks full to its owner."""
    (tmp_path / "._a.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match="1 hidden"):
        find_images(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(InputError):
        find_images("-")


def test_is_video():
    """Upper case counts, images do not."""
    assert is_video("a/B.MP4")
    assert is_video(Path("x.webm"))
    assert not is_video("x.jpg")
    assert not is_video(None)
