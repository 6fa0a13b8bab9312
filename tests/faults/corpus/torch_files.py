"""Torch files that ran code, exhausted memory, crashed or never ended."""

from __future__ import annotations

import pickle
from pathlib import Path

import hierax
from hierax.errors import CheckpointError

from .case import Case


class _Gadget:
    """Pickles to a call."""

    def __reduce__(self) -> tuple:
        return exec, ("open('canary', 'w').close()",)


def _code(folder: Path) -> None:
    (folder / "x.pth").write_bytes(pickle.dumps({"model": _Gadget()}))


CASES = [
    Case("code_in_a_bare_pickle", make=_code, act=lambda f: hierax.load(f / "x.pth"), raises=CheckpointError),
]
