"""What a target is, and where its seeds lie."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
KEPT = ROOT / "tests" / "faults" / "seeds"
Mutate = Callable[[bytes, random.Random], bytes]


class Wrong(Exception):
    """An answer that must not be: not finite, not what was written, an impossible exit code."""


@dataclass(frozen=True)
class Target:
    """One reader of hierax under attack.

    Attributes:
        name: Of the target, and of its folders of seeds and findings.
        act: Uses the public interface on one input, in a folder that is empty but for what the target puts there; text
            that it returns is the answer, by which new inputs are told from old.
        seeds: Whole inputs to start from, written or made; called once in a process, in a folder that stays.
        mutate: A variant of an input that keeps what a reader would otherwise refuse at once (checksums, lengths).
        weight: Share of the time of a run over all targets.
        anywhere: Whether a person may make hierax read files outside the folder, by naming them.
    """

    name: str
    act: Callable[[Path, bytes], Any]
    seeds: Callable[[Path], list[bytes]]
    mutate: Mutate
    weight: float = 1.0
    anywhere: bool = False

    def kept(self) -> list[Path]:
        """Inputs that once failed."""
        return sorted(path for path in (KEPT / self.name).glob("*") if path.is_file())


def named(name: str, content: bytes) -> bytes:
    """An input of a target with files of several kinds: its first line is the file's name."""
    return name.encode() + b"\n" + content


def split_name(data: bytes, allowed: tuple[str, ...]) -> tuple[str, bytes]:
    """The name, the first of the allowed ones where it is none of them, and the content."""
    name, _, content = data.partition(b"\n")
    text = name.decode("ascii", "replace")
    return (text if text in allowed else allowed[0]), content
