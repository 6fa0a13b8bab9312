"""Exported programs told from weights, by their first bytes."""

from __future__ import annotations

from pathlib import Path

from .onnx_files import looks_like_onnx
from .private import Damaged, regular
from .zips import records

KINDS = ("onnx", "openvino", "torch")
_HEAD = 4096


def kind_of(path: Path) -> str | None:
    """Which kind of exported program a file is, by its content; None for anything else.

    Raises:
        CheckpointError: No regular file.
        OSError: It cannot be opened.
    """
    with regular(path) as stream:
        head = stream.read(_HEAD)
        if looks_like_onnx(head):
            return "onnx"
        text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
        if text.startswith(b"<?xml") or text.startswith(b"<net"):
            return "openvino" if b"<net" in text else None
        if head[:4] == b"PK\x03\x04":
            try:
                names = records(stream)
            except Damaged:
                return None
            return "torch" if any(name.rpartition("/")[2] == "archive_format" for name in names) else None
    return None
