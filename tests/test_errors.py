"""What the system refuses becomes one line with a remedy, whoever wrapped it."""

from __future__ import annotations

import errno

import pytest

from hierax.errors import CheckpointError, InputError, IntegrityError, cannot_write, writing

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
