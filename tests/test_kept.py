"""What is kept for the next process: whole or not at all, for its key alone, within its limit, and never an error."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hierax import kept
from hierax.errors import InputError

from .small_disk import on_small_disk, result_of

KEY = {"weights": "abc", "size": (3, 64, 64), "int8": None}
posix = pytest.mark.skipif(sys.platform == "win32", reason="modes and owners of files")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of this test alone, in which nothing was told yet."""
    monkeypatch.setenv("HIERAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HIERAX_CACHE_LIMIT", raising=False)
    kept._tell.cache_clear()
    yield tmp_path / "cache" / "programs"
    kept._tell.cache_clear()


def writes(size: int = 1000) -> Callable[[Path], None]:
    """A program of two files."""

    def write(folder: Path) -> None:
        (folder / "program.xml").write_bytes(b"<net/>")
        (folder / "program.bin").write_bytes(os.urandom(size))

    return write


def test_keep__whole_and_private(root: Path) -> None:
    """A key with tuples is found by its like; other users can neither read nor plant programs."""
    assert kept.find("a", KEY) is None
    assert kept.keep("a", KEY, writes(), model="tiny")
    found = kept.find("a", KEY)
    assert found is not None
    assert found.about["model"] == "tiny"
    assert found.size == sum(path.stat().st_size for path in (root / "a").iterdir())
    assert kept.names("a") == ["a"]
    assert kept.names("b") == []
    assert os.listdir(root) == ["a"]
    if sys.platform != "win32":
        assert [path.stat().st_mode & 0o077 for path in (root, root / "a", *(root / "a").iterdir())] == [0] * 5


def test_find__another_key(caplog: pytest.LogCaptureFixture) -> None:
    """Names are short hashes: a folder that was renamed, or met by chance, must not answer for other weights."""
    kept.keep("a", KEY, writes())
    assert kept.find("a", {**KEY, "weights": "abd"}) is None
    assert "something else" in caplog.text


def cut(path: Path) -> None:
    """The second half of a file is lost."""
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    """One bit of a file is another."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def text(content: str) -> Callable[[Path], object]:
    """Other content."""
    return lambda path: path.write_text(content)


def link(path: Path) -> None:
    """A link to an endless file."""
    path.unlink()
    path.symlink_to("/dev/zero")


def pipe(path: Path) -> None:
    """A pipe that nobody writes to."""
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    """A folder of that name."""
    path.unlink()
    path.mkdir()


def resealed(path: Path) -> None:
    """A key that somebody edited."""
    about = json.loads(path.read_text())
    about["key"]["weights"] = "abd"
    path.write_text(json.dumps(about))


DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    **{f"{name} {how.__name__}": (name, how) for name in ("about.json", "program.bin", "program.xml") for how in (cut, flip, link, pipe, folder)},
    **{f"about.json is {content[:9]!r}": ("about.json", text(content)) for content in ("", "{}", "[1]", "null", '{"sha256": 1}', "[" * 10**5, '{"sha256":"","key":{},"files":[]}')},
    "program.bin empty": ("program.bin", text("")),
    "program.bin longer": ("program.bin", lambda path: path.write_bytes(path.read_bytes() + b"x")),
    "program.bin missing": ("program.bin", Path.unlink),
    "key edited": ("about.json", resealed),
}  # fmt: skip


@posix
@pytest.mark.parametrize("name", DAMAGE)
def test_find__damage(name: str, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Never an error, an answer or a wait: it is said once, removed, and the next one takes its place."""
    kept.keep("a", KEY, writes())
    file, harm = DAMAGE[name]
    harm(root / "a" / file)
    assert kept.find("a", KEY) is None
    assert kept.find("a", KEY) is None
    assert len(caplog.records) == 1
    assert "damaged" in caplog.text
    assert os.listdir(root) == []
    assert kept.keep("a", KEY, writes())
    assert kept.find("a", KEY) is not None


def test_find__half_removed(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What a process left that was killed while it removed is nothing, and is replaced without a word."""
    kept.keep("a", KEY, writes())
    (root / "a" / "about.json").unlink()
    assert kept.find("a", KEY) is None
    assert kept.keep("a", KEY, writes())
    assert kept.find("a", KEY) is not None
    assert not caplog.records


@posix
@pytest.mark.parametrize("what", ["folder", "program", "owner", "link", "file"])
def test_find__not_ours(what: str, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What others can write is code of theirs that would run as ours."""
    kept.keep("a", KEY, writes())
    if what == "owner":
        if os.geteuid():
            pytest.skip("only root gives files away")
        os.chown(root, 12345, 12345)
    elif what == "link":
        root.rename(tmp_path / "elsewhere")
        root.symlink_to(tmp_path / "elsewhere")
    elif what == "file":
        root.rename(tmp_path / "elsewhere")
        root.write_text("mine")
    else:
        (root if what == "folder" else root / "a").chmod(0o777)
    assert kept.find("a", KEY) is None
    assert kept.keep("a", KEY, writes()) is (what == "program")
    if what not in ("file", "program"):
        assert re.search(r"this user.*HIERAX_CACHE|no folder", caplog.text)
    if what == "file":
        assert root.read_text() == "mine"


def test_keep__oldest_used_leave(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By use, not by age: what was kept first and is used daily stays."""
    monkeypatch.setenv("HIERAX_CACHE_LIMIT", "11KB")
    for number, name in enumerate("abcd"):
        kept.keep(name, KEY, writes(2000))
        os.utime(root / name / "about.json", (number, number))
    assert kept.find("a", KEY) is not None
    kept.keep("e", KEY, writes(4000))
    assert sorted(os.listdir(root)) == ["a", "d", "e"]
    assert [entry.path.name for entry in kept.entries()][-1] == "d"


def test_keep__larger_than_the_limit(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It would drive out everything else and then itself."""
    kept.keep("a", KEY, writes(100))
    monkeypatch.setenv("HIERAX_CACHE_LIMIT", "1000")
    assert not kept.keep("b", KEY, writes(2000))
    assert os.listdir(root) == ["a"]
    assert "HIERAX_CACHE_LIMIT" in caplog.text


@pytest.mark.parametrize(
    ("typed", "size"), [("", kept.LIMIT_BYTES), ("0", 0), ("100", 100), ("1.5 GB", 1_500_000_000), ("2g", 2 * 10**9), ("7MB", 7_000_000)]
)  # fmt: skip
def test_limit(typed: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit that is not understood would keep everything, or nothing."""
    monkeypatch.setenv("HIERAX_CACHE_LIMIT", typed)
    assert kept.limit() == size


@pytest.mark.parametrize("typed", ["x", "-1", "5 XB", "1e9", "inf", "nan", "GB", "9" * 400])
def test_limit__refused(typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that is silently ignored is found out when the disk is full."""
    monkeypatch.setenv("HIERAX_CACHE_LIMIT", typed)
    with pytest.raises(InputError, match=r"HIERAX_CACHE_LIMIT.*500MB"):
        kept.find("a", KEY)


def test_limit__zero(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way to keep nothing: no folder is made, none looked into."""
    kept.keep("a", KEY, writes())
    monkeypatch.setenv("HIERAX_CACHE_LIMIT", "0")
    assert kept.find("a", KEY) is None
    assert kept.names("") == []
    assert not kept.keep("b", KEY, writes())
    assert os.listdir(root) == ["a"]


@pytest.mark.parametrize(
    ("platform", "environment", "place"),
    [
        ("linux", {"HIERAX_CACHE": "~/mine"}, "/home/me/mine"),
        ("linux", {"XDG_CACHE_HOME": "/fast"}, "/fast/hierax"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/hierax"),
        ("linux", {}, "/home/me/.cache/hierax"),
        ("darwin", {"XDG_CACHE_HOME": "/fast"}, "/home/me/Library/Caches/hierax"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/hierax/Cache"),
    ],
)
@posix
def test_place(platform: str, environment: dict[str, str], place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each system has one; a relative XDG_CACHE_HOME is to be ignored."""
    monkeypatch.setenv("HOME", "/home/me")
    for name in ("HIERAX_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(kept.sys, "platform", platform)
    assert kept.place() == Path(place, "programs")


def test_place__nobody_home(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """A container's user without a home: a folder named "~" must not appear where it stands."""
    monkeypatch.chdir(tmp_path)
    for name in ("HIERAX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert kept.find("a", KEY) is None
    assert not kept.keep("a", KEY, writes())
    assert kept.names("") == []
    assert "no home" in caplog.text
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("where", ["file", "/proc/nowhere", "/dev/null"])
def test_keep__nowhere_to_write(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning, once, and the answer all the same."""
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("HIERAX_CACHE", where if where.startswith("/") else str(tmp_path / where))
    for _ in range(2):
        assert kept.find("a", KEY) is None
        assert not kept.keep("a", KEY, writes())
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "HIERAX_CACHE" in caplog.text
    assert (tmp_path / "file").read_text() == "mine"


def test_keep__writer_changes_its_mind(root: Path) -> None:
    """Weights that changed meanwhile: nothing may stay, nor leave what was there."""
    kept.keep("a", KEY, writes())
    assert not kept.keep("a", KEY, lambda folder: False)
    assert not kept.keep("b", KEY, lambda folder: False)
    assert os.listdir(root) == ["a"]


def test_keep__full_disk(tmp_path: Path) -> None:
    """Half a program under its name would be met by the next process."""
    done = on_small_disk(
        tmp_path / "disk",
        """
        import logging
        from hierax import kept
        said = []
        logging.getLogger("hierax").warning = lambda *parts: said.append(parts[0] % parts[1:])
        os.environ.update(HIERAX_CACHE=str(DISK), HIERAX_CACHE_LIMIT="5GB")
        found = [kept.keep("a", {}, lambda folder: (folder / "x").write_bytes(bytes(10_000)))]
        found.append(kept.keep("b", {}, lambda folder: (folder / "x").write_bytes(bytes(2_000_000))) is False)
        fill()
        found.append(kept.keep("c", {}, lambda folder: (folder / "x").write_bytes(b"")) is False)
        found.append(kept.find("a", {}) is not None)
        free()
        print(json.dumps([found, said, sorted(listing())]))
        """,
    )
    found, said, left = result_of(done)
    assert found == [True] * 4
    assert len(said) == 1
    assert "No space left" in said[0]
    assert left == ["programs/a/about.json", "programs/a/x"]


WRITER = """
import os, sys
from pathlib import Path
from hierax import kept
def write(folder):
    (folder / "x").write_bytes(bytes(1000))
    print("writing", flush=True)
    sys.stdin.readline()
print(kept.keep(sys.argv[1], {"a": 1}, write), flush=True)
"""


def writer(name: str) -> subprocess.Popen[str]:
    """A process that stands in the midst of keeping something."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


@posix
def test_keep__killed(root: Path) -> None:
    """What a killed process left is found neither by readers nor, after the next that writes anything, by anybody."""
    process = writer("a")
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    assert len(os.listdir(root)) == 1
    assert kept.find("a", {"a": 1}) is None
    assert kept.entries() == []
    assert kept.keep("b", KEY, writes())
    assert os.listdir(root) == ["b"]


@posix
def test_keep__two_at_once(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The second neither waits nor fails, and what is being written is no leftover of a killed one."""
    process = writer("a")
    assert not kept.keep("a", {"a": 1}, writes())
    assert kept.keep("b", KEY, writes())
    assert kept.clear()[0] == 1
    assert process.communicate("\n", timeout=600)[0] == "True\n"
    assert kept.find("a", {"a": 1}) is not None
    assert os.listdir(root) == ["a"]
    assert not caplog.records


def test_find__while_others_write_and_clear(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A reader finds all of a program or nothing; half of one would be called damaged."""
    stop, broken = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            found = kept.find("a", KEY)
            if found is not None and len(found.about["files"]) != 2:
                broken.append(found)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in readers:
        thread.start()
    for _ in range(25):
        kept.keep("a", KEY, writes())
        kept.clear()
    stop.set()
    for thread in readers:
        thread.join()
    assert not broken
    assert not caplog.records


def test_clear__everything(root: Path) -> None:
    """Damaged ones too, and whatever else lies in the folder."""
    assert kept.clear() == (0, 0)
    kept.keep("a", KEY, writes())
    kept.keep("b", KEY, writes())
    (root / "b" / "about.json").unlink()
    (root / "stray").write_text("x")
    count, freed = kept.clear()
    assert count == 3
    assert freed > 2000
    assert os.listdir(root) == []
