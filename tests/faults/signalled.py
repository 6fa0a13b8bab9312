"""The command line in a process that signals are sent to at a chosen moment: when it touches what it is writing, or
after a step of a training run.

python -m tests.faults.signalled '{"signals": ["SIGTERM"], "at": 1}' ARGUMENTS...
python -m tests.faults.signalled '{"signals": ["SIGTERM"], "step": 1}' ARGUMENTS...
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

_TOUCHES = ("open", "os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "shutil.rmtree")


def arm(signals: list[str], at: int, *, ignored: list[str] | None = None, group: bool = False) -> None:
    """Send signals to this process, one at each touch of a partial output from the `at`-th on.

    Args:
        signals: Their names.
        at: Counted from 1.
        ignored: Names of those that whoever started this process has it ignore.
        group: Whether all processes of the group get them.
    """
    for name in ignored or []:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    waiting, count = list(signals), [0]

    def touched(event: str, arguments: tuple[Any, ...]) -> None:
        if not waiting or event not in _TOUCHES or not any(_is_partial(part) for part in arguments):
            return
        count[0] += 1
        if count[0] >= at:
            number = getattr(signal, waiting.pop(0))
            if group:
                os.killpg(0, number)
            else:
                os.kill(os.getpid(), number)

    sys.addaudithook(touched)


def arm_step(signals: list[str], step: int, *, ignored: str = "", group: bool = False, worker: bool = False) -> None:
    """Send signals together once a training run has said that a step is done.

    Args:
        signals: Their names.
        step: Counted from 1.
        ignored: The name of one that whoever started this process has it ignore.
        group: Whether all processes of the group get them.
        worker: Whether a process that reads for this one gets them in its place.
    """
    from hierax.train.report import Report

    if ignored:
        signal.signal(getattr(signal, ignored), signal.SIG_IGN)
    numbers = [getattr(signal, name) for name in signals]
    real = Report.step

    def stepped(report: Report, at: int, *arguments: Any, **options: Any) -> None:
        real(report, at, *arguments, **options)
        if at != step:
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        for number in numbers:
            if group:
                os.killpg(0, number)
            else:
                os.kill(multiprocessing.active_children()[0].pid if worker else os.getpid(), number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)

    Report.step = stepped


def _is_partial(part: Any) -> bool:
    return isinstance(part, (str, bytes, Path)) and b"hierax-partial" in os.fsencode(part)


if __name__ == "__main__":
    from hierax.cli import main

    moment = json.loads(sys.argv[1])
    (arm_step if "step" in moment else arm)(**moment)
    sys.exit(main(sys.argv[2:]))
