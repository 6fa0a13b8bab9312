"""Runs cases in forked children: hierax is imported once, each attack dies alone, and its cost is measured.

A request is a line of JSON with a case's name and folder on stdin, the answer a line on stdout.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from ...warm import import_all
from . import all_cases
from .case import Case, nothing

ROOM_TO_MEASURE = (
    6 << 30
)  # bytes of address space above what the child begins with: the machine survives a failing case
PATIENCE_S = 600.0  # wall time; far above any bound, the machine may be busy


def main() -> None:
    """Answer requests until stdin ends."""
    import torch

    torch.set_num_threads(1)
    Image.init()
    cases = all_cases()
    import_all()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a case prints must not be taken for an answer
    for line in sys.stdin:
        request = json.loads(line)
        answers.write(json.dumps(run(cases[request["case"]], Path(request["folder"]))) + "\n")
        answers.flush()


def run(case: Case, folder: Path) -> dict[str, Any]:
    """What a case came to: `verdict` "as expected" or what went wrong, `megabytes` and `seconds`."""
    made = {} if case.make is nothing else _in_child(lambda: case.make(folder), folder)
    if "error" in made or "died" in made:
        return {"verdict": f"the file could not be made: {made}"}
    outcome = _in_child(lambda: case.act(folder), folder, case)
    return {"verdict": _verdict(case, outcome, folder)} | {k: outcome.get(k) for k in ("megabytes", "seconds")}


def _verdict(case: Case, outcome: dict[str, Any], folder: Path) -> str:
    if any(folder.rglob("canary")):
        return "code of the attacker ran: there is a file named canary"
    if "died" in outcome:
        return outcome["died"]
    if case.raises is None and "error" in outcome:
        return f"raised {outcome['error']}: {outcome['message']}\n{outcome['trace']}"
    if case.raises is not None and "error" not in outcome:
        return f"returned {outcome['result']} instead of raising {case.raises.__name__}"
    if case.raises is not None and case.raises.__name__ not in outcome["types"]:
        return f"raised {outcome['error']} ({outcome['message']}), not {case.raises.__name__}\n{outcome['trace']}"
    if case.raises is not None and not re.search(case.match, outcome["message"], re.DOTALL):
        return f"the message does not match {case.match!r}: {outcome['message']}"
    if not outcome.get("right", True):
        return f"returned {outcome['result']}, which is wrong"
    if outcome["megabytes"] > case.megabytes:
        return f"memory grew by {outcome['megabytes']:.0f} MB, more than {case.megabytes}"
    if outcome["seconds"] > case.seconds:
        return f"took {outcome['seconds']:.1f} s of processor time, more than {case.seconds}"
    return "as expected"


def _in_child(work: Callable[[], Any], folder: Path, case: Case | None = None) -> dict[str, Any]:
    """Run `work` in a forked child; what it returned or raised and what it cost, or how it died."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.setsid()  # so that what it starts can be ended with it
        with os.fdopen(writer, "w") as report:
            json.dump(_report(work, folder, case), report)
        os._exit(0)
    os.close(writer)
    overdue = threading.Event()

    def end() -> None:
        overdue.set()
        os.killpg(child, signal.SIGKILL)

    watch = threading.Timer(PATIENCE_S, end)
    watch.start()
    with os.fdopen(reader) as report:
        text = report.read()
    _, status = os.waitpid(child, 0)
    watch.cancel()
    if text:
        return json.loads(text)
    how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit status {os.WEXITSTATUS(status)}"
    return {"died": f"the process hung for {PATIENCE_S:.0f} s" if overdue.is_set() else f"the process died: {how}"}


def _report(work: Callable[[], Any], folder: Path, case: Case | None) -> dict[str, Any]:
    os.chdir(folder)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM_TO_MEASURE, resource.RLIM_INFINITY))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    outcome: dict[str, Any] = {}
    try:
        result = work()
        outcome["result"] = repr(result)[:500]
        outcome["right"] = case is None or case.expect is None or bool(case.expect(result))
    except BaseException as error:
        outcome["error"] = type(error).__name__
        outcome["types"] = [kind.__name__ for kind in type(error).__mro__]
        outcome["message"], outcome["trace"] = str(error)[:2000], traceback.format_exc()[-3000:]
    outcome["seconds"] = time.process_time() - start
    outcome["megabytes"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return outcome


if __name__ == "__main__":
    main()
