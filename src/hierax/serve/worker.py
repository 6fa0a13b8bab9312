"""The process that has the model: it takes batches, answers each item, and says all the while how it is.

Started as `python -m hierax.serve.worker FD`; it ends when the other end of its socket does. It heeds no signal that
asks to stop: the server has work to finish then, and closes the socket.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from ..errors import HieraxError
from .settings import Settings
from .wire import receive, send

if TYPE_CHECKING:
    from numpy import ndarray

BEAT_S = 0.25
log = logging.getLogger("hierax")


def main(descriptor: int) -> None:
    """Serve one socket until it is closed."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    voice = _Voice(Connection(descriptor))
    try:
        head, _ = receive(voice.connection)
        threading.Thread(target=voice.beat, daemon=True).start()
        _serve(voice, Settings.from_dict(head))
    except (EOFError, OSError):
        os._exit(0)


class _Voice:
    """The socket, which two threads write to, and what the model is at."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.since: float | None = None  # when the model began what it is at
        self._lock = threading.Lock()

    def say(self, head: dict[str, Any], arrays: Sequence[ndarray] = ()) -> None:
        with self._lock:
            send(self.connection, head, arrays)

    def beat(self) -> None:
        """Say for how long the model has been at its batch, four times a second; end with the server."""
        while True:
            since = self.since
            try:
                self.say({"kind": "beat", "busy_s": 0.0 if since is None else time.monotonic() - since})
            except (OSError, ValueError):
                os._exit(0)
            time.sleep(BEAT_S)


def _serve(voice: _Voice, settings: Settings) -> None:
    from .model import Failed, Model

    try:
        model = Model(settings)
    except Exception as error:
        known = isinstance(error, (HieraxError, OSError, MemoryError))
        log.debug("the model was not loaded", exc_info=error)
        voice.say({"kind": "failed", "error": str(error) if known else f"{type(error).__name__}: {error}"})
        return
    voice.say({"kind": "ready", "facts": model.facts()})
    while True:
        head, arrays = receive(voice.connection)
        voice.since = start = time.monotonic()
        answers = model.answer(arrays, head["names"])
        voice.since = None
        said: list[Any] = []
        found: list[ndarray] = []
        for answer in answers:
            said.append(answer if isinstance(answer, Failed) else len(answer))
            found += () if isinstance(answer, Failed) else answer
        voice.say({"kind": "answer", "items": said, "seconds": time.monotonic() - start}, found)


if __name__ == "__main__":
    main(int(sys.argv[1]))
