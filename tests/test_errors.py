"""What the system refuses becomes one line with a remedy, whoever wrapped it."""

from __future__ import annotations

import ast
import errno
import importlib.metadata
import re
import shlex
import sys
from pathlib import Path

import pytest

from hierax.errors import CheckpointError, InputError, IntegrityError, MissingExtraError, cannot_write, writing

FULL = OSError(errno.ENOSPC, "No space left on device")


def wrapped() -> None:
    """As torch does: its own error while the system's is being handled."""
    try:
        raise FULL
    except OSError:
        raise RuntimeError("unexpected pos 64 vs 0") from None


def rust() -> None:
    """As safetensors does."""
    raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


def plain() -> None:
    raise FULL


@pytest.mark.parametrize("refuse", [wrapped, rust, plain])
def test_writing__a_full_disk_by_any_name(refuse):
    """An "internal error" helps nobody; nor does a message that names a hidden temporary file."""
    with pytest.raises(CheckpointError) as told, writing("out/model", CheckpointError):
        refuse()
    line = "Cannot write out/model: No space left on device. Free some space or name another place."
    assert str(told.value) == line


def test_writing__leaves_other_errors_alone():
    """A wrong checksum is an OSError too, and a fault of ours must not be blamed on the disk."""
    for error in (IntegrityError("wrong bytes"), ZeroDivisionError(), InputError("no image")):
        with pytest.raises(type(error)) as raised, writing("x", CheckpointError):
            raise error
        assert raised.value is error


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EDQUOT, "Free"),
        (errno.EFBIG, "ulimit"),
        (errno.EROFS, "can be written"),
        (errno.EACCES, "can be written"),
        (errno.EAGAIN, "Wait"),
    ],
)
def test_cannot_write__the_remedy_fits(number, remedy):
    """To free space on a read-only disk helps nobody."""
    assert remedy in cannot_write("x", OSError(number, "words"))
    assert "words" in cannot_write("x", OSError("words"))


def command_of(error: MissingExtraError) -> list[str]:
    """The first command that the message names, as a shell takes it."""
    found = re.search(r"Install it with: (pip install .+?);", str(error))
    assert found, str(error)
    return shlex.split(found[1])


def test_missing_extra__names_what_can_be_installed_today(monkeypatch):
    """hierax is on no index: `pip install "hierax[train]"` finds nothing, or somebody else's package."""
    required = ["torch>=2.6", "tomli>=2; python_version < '3.11'", "kornia>=0.7.3; extra == 'train'",
                'accelerate>=1.1; python_version > "3" and extra == "train"', "pyarrow>=15; extra == 'train-data'"]  # fmt: skip
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: required)
    assert command_of(MissingExtraError("train", "kornia")) == ["pip", "install", "kornia>=0.7.3", "accelerate>=1.1"]
    assert 'pip install "hierax[train]"' in str(MissingExtraError("train", "kornia"))


def test_missing_extra__without_an_installed_package(monkeypatch):
    """Run from its sources there is no list of what an extra brings: the package itself is named."""

    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    assert command_of(MissingExtraError("video", "av")) == ["pip", "install", "av"]


def test_missing_extra__every_extra_exists_and_brings_its_package():
    """A message with an extra that pyproject.toml does not have, or that lacks the package, leads nowhere."""
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    root = Path(__file__).parents[1]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    told = set()
    for path in (root / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "MissingExtraError":
                told.add(tuple(ast.literal_eval(argument) for argument in node.args))
    assert len(told) >= 6
    for extra, package in told:
        assert any(re.match(rf"{re.escape(package)}(?!\w)", line) for line in extras[extra]), (extra, package)
