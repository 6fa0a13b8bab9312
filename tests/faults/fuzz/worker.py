"""One process of a target: inputs are chosen, judged and kept, until its time or number is up.

The input under judgement lies in FOLDER/current, so that it is known even when it ends the process.
"""

from __future__ import annotations

import hashlib
import random
import sys
import time
from pathlib import Path

from .judge import Finding, Judge
from .target import Target

MOST_BYTES = 1 << 20


class Worker:
    """Inputs of one target and what came of them, in a folder.

    With `keeps` it starts from what earlier runs kept, too; without, equal seeds give equal runs.
    """

    def __init__(self, target: Target, folder: Path, *, keeps: bool = True) -> None:
        self.target, self.folder, self.keeps = target, folder, keeps
        for name in ("corpus", "findings"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.judge = Judge(target, folder)
        self.count, self.found = 0, dict[str, Finding]()
        self._answers: set[str] = set()
        self._novel = True

    def pool(self) -> list[bytes]:
        """What to start from: whole inputs, those that once failed, and what earlier runs kept."""
        earlier = sorted((self.folder / "corpus").iterdir()) if self.keeps else []
        paths = [*self.target.kept(), *earlier]
        return [*self.judge.seeds, *(path.read_bytes() for path in paths)]

    def attempt(self, data: bytes) -> Finding | None:
        """Judge an input; a finding is kept with how to replay it, an answer that was not heard before makes it novel."""
        (self.folder / "current").write_bytes(data)
        finding = self.judge.judge(data)
        self.count += 1
        if self.count % 50 == 0:  # libFuzzer ends the process without a last word
            self.note()
        self._novel = self.judge.answer not in self._answers
        self._answers.add(self.judge.answer)
        if finding is not None:
            if finding.key not in self.found:
                report(self.target, self.folder, data, finding)
            self.found[finding.key] = finding
        return finding

    def keep(self, data: bytes) -> None:
        """Remember an input for later runs."""
        (self.folder / "corpus" / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)

    def mutations(self, seed: int, end: float, executions: int) -> None:
        """Mutate what gave new answers; without a bound on time the same inputs for the same seed."""
        rng = random.Random(f"{self.target.name}/{seed}")
        pool = self.pool()
        for data in pool:
            self.attempt(data)
        grown = list(pool)
        while self.count < executions and time.monotonic() < end:
            data = rng.choice(grown if rng.random() < 0.5 else pool)
            for _ in range(rng.choice((1, 1, 1, 2))):
                data = self.target.mutate(data, rng)
            if self.attempt(data) is None and self._novel and len(data) <= MOST_BYTES:
                grown.append(data)
                if self.keeps:
                    self.keep(data)
        self.note()

    def atheris(self, seed: int, end: float) -> None:
        """Let libFuzzer choose by the coverage of hierax; does not return."""
        import atheris

        for data in self.pool():
            self.attempt(data)
            if len(data) <= MOST_BYTES:
                self.keep(data)

        def mutate(data: bytes, most: int, number: int) -> bytes:
            rng = random.Random(number)
            if rng.random() < 0.2:
                return atheris.Mutate(data, most)
            return self.target.mutate(data, rng)[:most]

        seconds = max(int(end - time.monotonic()), 1)
        options = {"max_total_time": seconds, "seed": seed % 2**31 or 1, "max_len": MOST_BYTES, "timeout": 60, "rss_limit_mb": 0,
                   "verbosity": 0, "print_final_stats": 0, "artifact_prefix": f"{self.folder}/findings/"}  # fmt: skip
        arguments = [sys.argv[0], *(f"-{key}={value}" for key, value in options.items()), str(self.folder / "corpus")]
        atheris.Setup(
            arguments, lambda data: self.attempt(data) and None, custom_mutator=mutate, internal_libfuzzer=True
        )
        atheris.Fuzz()

    def note(self) -> None:
        """Leave for the parent how many inputs were judged, and how many different answers came."""
        (self.folder / "status").write_text(f"{self.count} {len(self._answers)}")


def report(target: Target, folder: Path, data: bytes, finding: Finding) -> Path:
    """Keep an input that failed, and say how to replay it."""
    path = folder / "findings" / finding.key
    if not path.exists() or path.stat().st_size > len(data):
        path.write_bytes(data)
        path.with_suffix(".txt").write_text(f"{finding}\n")
    print(
        f"FOUND {target.name}: {finding}\n  replay: python -m tests.faults.fuzz {target.name} --replay {path}",
        flush=True,
    )
    return path


def shrink(judge: Judge, data: bytes, key: str, seconds: float = 60) -> bytes:
    """Leave out what the finding does not need."""
    end, size = time.monotonic() + seconds, max(len(data) // 2, 1)
    while size and time.monotonic() < end:
        at = 0
        while at < len(data) and time.monotonic() < end:
            shorter = data[:at] + data[at + size :]
            finding = judge.judge(shorter)
            if finding is not None and finding.key == key:
                data = shorter
            else:
                at += size
        size //= 2
    return data
