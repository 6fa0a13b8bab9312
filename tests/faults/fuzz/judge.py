"""Runs one input and says what is wrong with what became of it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hierax
from hierax.errors import HieraxError

from .target import ROOT, Target

SECONDS = 2.0  # of processor time for an input
MEGABYTES = 512  # more than before it
MESSAGE_CHARACTERS = 4000
ADDRESS_SPACE = 6 << 30  # beyond what the process has; turns an allocation without bound into a MemoryError
CANARY = "canary"  # what code from an input would name

_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind", "socket.sendto")
_CODE = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pickle.find_class")
_CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree")
_READABLE = tuple(
    str(Path(path).resolve())
    for path in (
        sys.prefix,
        sys.base_prefix,
        Path(hierax.__file__).parent,
        ROOT / "tests",
        "/usr",
        "/etc",
        "/proc",
        "/sys",
        "/dev",
    )
)


@dataclass(frozen=True)
class Finding:
    """What was wrong with an input; equal keys are the same fault."""

    kind: str
    detail: str
    where: str = ""

    @property
    def key(self) -> str:
        """A file name for it."""
        return hashlib.sha256(f"{self.kind}/{self.where}".encode()).hexdigest()[:12]

    def __str__(self) -> str:
        return f"{self.kind}{f' at {self.where}' if self.where else ''}: {self.detail[:400]}"


class Judge:
    """Judges the inputs of one target, each in a fresh folder."""

    def __init__(self, target: Target, folder: Path) -> None:
        self.target, self.work, base = target, folder.resolve() / "work", folder.resolve() / "base"
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir(parents=True)
        self.seeds = target.seeds(base)
        self._writable = tuple(f"{place}/" for place in (self.work, os.environ.get("HF_HOME", self.work)))
        self._readable = (*_READABLE, str(base))
        self.answer = ""  # what became of the last input, without its particulars
        self._trespasses: list[str] = []
        self._watching = False
        sys.addaudithook(self._audit)

    def judge(self, data: bytes) -> Finding | None:
        """Run one input; None if all is well."""
        self._clear()
        self._trespasses.clear()
        finding, self.answer = None, "accepted"
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is in use
        before, start = _memory("VmRSS"), time.process_time()
        self._watching = True
        try:
            said = self.target.act(self.work, data)
            self.answer = f"accepted {_shape(said)}" if isinstance(said, str) else self.answer
        except HieraxError as error:
            text = str(error)
            self.answer = f"{type(error).__name__} {_shape(text)}"
            if not text.strip() or len(text) > MESSAGE_CHARACTERS:
                finding = Finding("message", f"{len(text)} characters: {text[:200]}", _place(error))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            reason = traceback.format_exception_only(error)[-1].strip()
            finding = Finding(f"raw {type(error).__name__}", reason, _place(error))
        finally:
            self._watching = False
        seconds, rise = time.process_time() - start, _memory("VmHWM") - before
        if finding:
            return finding
        if self._trespasses:
            return Finding("trespass", "; ".join(self._trespasses[:3]), self._trespasses[0].split(" ")[0])
        if seconds > SECONDS:
            return Finding("time", f"{seconds:.1f} s, then {self.answer}", self.answer[:60])
        if rise > MEGABYTES:
            return Finding("memory", f"{rise:.0f} MB, then {self.answer}", self.answer[:60])
        return None

    def _clear(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        os.chdir(self.work)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Python tells of every file, socket, process and compilation; native code is not seen."""
        if not self._watching:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if mode is None else set("wax+") & set(str(mode))
            self._check_path(event, path, bool(writes))
        elif event in _CHANGES:
            for path in arguments:
                self._check_path(event, path, True)
        elif event in _NETWORK or event in _CODE or (event == "compile" and CANARY in str(arguments[0])):
            self._trespasses.append(f"{event} {arguments!r:.100}")

    def _check_path(self, event: str, path: Any, writes: bool) -> None:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return
        text = os.fsdecode(path)
        whole = os.path.realpath(text) if "\0" not in text else ""
        inside = not whole or whole == str(self.work) or whole.startswith(self._writable)
        fine = inside or whole == os.devnull if writes else inside or self._may_read(whole)
        if not fine or (writes and os.path.basename(whole) == CANARY):
            self._trespasses.append(f"{event} {'writes' if writes else 'reads'} {whole!r}")

    def _may_read(self, path: str) -> bool:
        return self.target.anywhere or path.startswith(self._readable) or path.endswith((".py", ".pyc"))


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """A bound on the address space: what would exhaust the machine is a MemoryError in this process instead."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (int(_memory("VmSize") * 2**20) + ADDRESS_SPACE, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _memory(field: str) -> float:
    """A line of /proc/self/status in MB; elsewhere than on Linux the peak of the process."""
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        for line in status:
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _shape(text: str) -> str:
    """A message without what differs from input to input, to tell new answers from old."""
    kept = "".join(" " if character.isdigit() else character for character in text)
    for quote in "'\"":
        kept = quote.join(part for index, part in enumerate(kept.split(quote)) if index % 2 == 0)
    return " ".join(word for word in kept.split() if "/" not in word)[:120]


def _place(error: BaseException) -> str:
    """The innermost line of hierax, and below it where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/hierax/" in frame.filename]
    last = (ours or frames)[-1:] if frames else []
    return "".join(f"{Path(f.filename).parent.name}/{Path(f.filename).name}:{f.name}" for f in last)
