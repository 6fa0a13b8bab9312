"""The line between requests and the model: who waits, what is taken together, and what becomes of it.

A batch is what waits when the model is free, of one size, never more than `batch_size` and never waited for. One thread
keeps the model's process alive: a process that dies, falls silent or takes too long at a batch is replaced, what it was
at is refused so that clients may try again, and what waits goes to the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from numpy import ndarray

from .. import console
from ..config import STAGE_NAMES
from ..errors import HieraxError
from .replies import Refusal, invalid, overloaded, unhealthy
from .settings import Settings
from .wire import receive, send

log = logging.getLogger("hierax")
SILENCE_S, _LOST_S = 2.5, 10.0  # of a process that says four times a second how it is: not ready, and replaced
_STALL_S, _LOOK_S = 10, 0.05
_START_S = 900.0  # for a model to be fetched, loaded and converted
_PAUSES_S = (0.0, 0.5, 2.0, 10.0)  # before a process is started again that did not live long
_LIVED_S = 60.0


class Watcher(Protocol):
    """Who is told what happens, for metrics."""

    def batch(self, size: int, waited_s: Sequence[float], seconds: float) -> None:
        """A batch was answered."""

    def restarted(self) -> None:
        """The model's process was replaced."""


@dataclass(eq=False)
class Item:
    """An input on its way through the model."""

    input: ndarray
    names: tuple[str, ...]
    answer: Future[list[ndarray]] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)

    @property
    def key(self) -> tuple[Any, ...]:
        """What goes through the model together: one size, and the same maps."""
        return self.input.shape, frozenset(STAGE_NAMES).intersection(self.names)

    def refuse(self, reason: Refusal) -> None:
        """Give up on it."""
        with contextlib.suppress(InvalidStateError):  # its client went away
            self.answer.set_exception(reason)


class Line:
    """Inputs that wait, and the process that answers them.

    Attributes:
        facts: What the model says of itself; None until it was loaded once.
        failure: Why it never was, if that is certain.
    """

    def __init__(self, settings: Settings, watcher: Watcher | None = None) -> None:
        self.facts: dict[str, Any] | None = None
        self.failure: str | None = None
        self._settings, self._watcher = settings, watcher
        self._lock = threading.Lock()
        self._waiting: deque[Item] = deque()
        self._at: list[Item] = []  # the batch that the model has
        self._heard = -1e9  # when the process last said how it is
        self._loaded = self._closed = False
        self._wake_out, self._wake_in = os.pipe()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._supervise, name="hierax-line", daemon=True)

    def start(self) -> None:
        """Start the model's process; returns at once."""
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether the model is loaded and said a moment ago that it lives."""
        return self._loaded and not self._closed and time.monotonic() - self._heard < SILENCE_S

    async def until_ready(self) -> None:
        """Wait for the model.

        Raises:
            HieraxError: It cannot be loaded.
        """
        while not self.ready:
            if self.failure is not None:
                raise HieraxError(self.failure)
            await asyncio.sleep(_LOOK_S)

    @property
    def depth(self) -> int:
        """How many inputs wait."""
        return len(self._waiting)

    @property
    def pending(self) -> int:
        """How many inputs wait or are in the model."""
        with self._lock:
            return len(self._waiting) + len(self._at)

    @property
    def worker(self) -> int | None:
        """Number of the model's process."""
        process = self._process
        return None if process is None else process.pid

    def resident_bytes(self) -> float:
        """Memory of the model's process, where the system says it."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int(Path(f"/proc/{self.worker}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return 0.0

    def submit(self, inputs: Sequence[ndarray], names: Sequence[str]) -> list[Item]:
        """Put inputs at the end of the line, all of them or none.

        A process that is late to say how it is may be well: what comes meanwhile waits.

        Raises:
            Refusal: There is no room, or no model at the moment.
        """
        if not self._loaded or self._closed:
            raise unhealthy("The model is not ready. Try again in a moment.")
        items = [Item(each, tuple(names)) for each in inputs]
        limits = self._settings.limits
        with self._lock:
            held = sum(item.input.nbytes for item in self._waiting) + sum(each.nbytes for each in inputs)
            if len(self._waiting) + len(items) > limits.queue or (held > limits.queue_bytes and self._waiting):
                raise overloaded(f"At most {limits.queue} images wait at a time; the line is full. Try again later.")
            self._waiting.extend(items)
        self._wake()
        return items

    def close(self) -> None:
        """End the process; what waits is refused."""
        self._closed = True
        self._wake()
        if self._thread.ident is not None:
            self._thread.join(10)

    def kill(self) -> None:
        """End the process at once, for a server that ends at once."""
        process = self._process
        if process is not None:
            process.kill()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # closed
            os.write(self._wake_in, b"x")

    def _supervise(self) -> None:
        short = 0
        while not self._closed:
            if short:
                self._pause(_PAUSES_S[min(short, len(_PAUSES_S) - 1)])
            began = time.monotonic()
            why = self._live()
            self._loaded = False
            self._refuse_batch(why)
            if self.failure is not None or self._closed:
                break
            console.say(f"the model's process {why}; another one is started")
            if self._watcher is not None:
                self._watcher.restarted()
            short = short + 1 if time.monotonic() - began < _LIVED_S else 0
        with self._lock:
            left = list(self._waiting)
            self._waiting.clear()
        for item in left:
            item.refuse(unhealthy("The server is stopping. Ask another, or try again later."))

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._closed and time.monotonic() < end:
            wait([self._wake_out], min(0.1, seconds))

    def _live(self) -> str:
        """One process from start to end; says how it ended."""
        process, connection = _started()
        self._process = process
        self._heard = began = time.monotonic()
        try:
            send(connection, self._settings.to_dict())
            while not self._closed:
                timeout = 0.0 if self._loaded and not self._at and self._give(connection) else 0.2
                ready = wait([connection, self._wake_out], timeout)
                if self._wake_out in ready:
                    os.read(self._wake_out, 4096)
                if connection in ready and (ended := self._take(connection)):
                    return ended
                silent = time.monotonic() - self._heard
                if self._loaded and silent > _LOST_S:
                    return f"was silent for {silent:.0f} seconds"
                if not self._loaded and time.monotonic() - began > _START_S:
                    return f"did not load its model in {_START_S:.0f} seconds"
            return "was stopped"
        except (EOFError, OSError):
            return "ended"
        except Exception as error:  # nothing that it says may end the thread that replaces it
            log.debug("the model's process was not understood", exc_info=error)
            return f"said what cannot be read ({type(error).__name__})"
        finally:
            connection.close()
            process.kill()
            process.wait()

    def _take(self, connection: Connection) -> str | None:
        """Take in one message; says why the process must end, if it must."""
        head, arrays = receive(connection)
        self._heard = time.monotonic()
        if head["kind"] == "ready":
            self.facts, self._loaded = head["facts"], True
        elif head["kind"] == "failed":
            if self.facts is None:
                self.failure = head["error"]
            return f"could not load its model: {head['error']}"
        elif head["kind"] == "answer":
            self._answer(head, arrays)
        elif self._loaded and head["busy_s"] > self._settings.limits.batch_s:
            return f"was at one batch for {head['busy_s']:.0f} seconds"
        return None

    def _give(self, connection: Connection) -> bool:
        """Hand over what waits; says whether anything did."""
        batch: list[Item] = []
        with self._lock:
            kept: list[Item] = []
            while self._waiting and len(batch) < self._settings.batch_size:
                item = self._waiting.popleft()
                if item.answer.cancelled():
                    continue
                (batch if not batch or item.key == batch[0].key else kept).append(item)
            self._waiting.extendleft(reversed(kept))
            self._at = batch
        if batch:
            send(connection, {"names": [item.names for item in batch]}, [item.input for item in batch])
        return bool(batch)

    def _answer(self, head: dict[str, Any], arrays: list[ndarray]) -> None:
        with self._lock:
            batch, self._at = self._at, []
        if self._watcher is not None:
            now = time.monotonic() - head["seconds"]
            self._watcher.batch(len(batch), [now - item.since for item in batch], head["seconds"])
        rest = iter(arrays)
        for item, said in zip(batch, head["items"], strict=True):
            if not isinstance(said, int):
                blamed, message = said
                item.refuse(invalid(message) if blamed else Refusal(424, "Backend", message))
                continue
            own = [next(rest) for _ in range(said)]
            with contextlib.suppress(InvalidStateError):  # its client went away
                item.answer.set_result(own)

    def _refuse_batch(self, why: str) -> None:
        with self._lock:
            batch, self._at = self._at, []
        for item in batch:
            item.refuse(unhealthy("The model's process ended at this image's batch. Try again in a moment."))


def _started() -> tuple[subprocess.Popen[bytes], Connection]:
    """A process of our own interpreter, and our end of its socket.

    A module that is run, and no child of `multiprocessing`: that would import the main script of whoever serves.
    """
    ours, theirs = socket.socketpair()
    for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):  # in the midst of a message, to a process that stopped
        ours.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", _STALL_S, 0))
    with theirs:
        package = str(Path(__file__).parents[2])
        path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
        process = subprocess.Popen(
            [sys.executable, "-m", "hierax.serve.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},  # not what lies where one stands
        )
    return process, Connection(ours.detach())
