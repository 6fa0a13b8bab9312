"""Commands of hierax in forked children of a process that has imported it: what a new process would do, seconds earlier.

A new interpreter spends two seconds of processor time on imports before it does anything. What depends on a process
being new, such as what is imported when, is not run here.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def run(argv: list[str], *, code: str = "", cwd: Path, environment: dict[str, str], out: Path, err: Path) -> int:
    """The exit code of `hierax ARGV...` in a folder and an environment; what it prints goes into files, maybe one.

    With code, that of `python -c CODE ARGV...`.
    """
    said = {name: value for name, value in environment.items() if name != "PYTEST_CURRENT_TEST"}
    request = {"argv": argv, "code": code, "cwd": str(cwd), "out": str(out), "err": str(err)}
    server = _server(tuple(sorted(said.items())))
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


@functools.lru_cache(maxsize=1)
def _server(environment: tuple[tuple[str, str], ...]) -> subprocess.Popen[str]:
    """One for each environment: libraries read it when they are imported."""
    command = [sys.executable, "-m", __name__]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=dict(environment), **pipes)  # ends when its stdin does


def _serve() -> None:
    """Answer requests until stdin ends."""
    import hierax.bulk.run
    import hierax.cli
    import hierax.commands.images
    import hierax.evaluate
    import hierax.predictor
    import hierax.registry
    import hierax.train.run  # noqa: F401  so that no command pays for imports

    for module in ("accelerate", "matplotlib.pyplot"):
        with contextlib.suppress(ImportError):
            __import__(module)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _command(**json.loads(line))
        answers.write(json.dumps(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])) + "\n")
        answers.flush()


def _command(argv: list[str], code: str, cwd: str, out: str, err: str) -> None:
    """Become the command."""
    from hierax.cli import main

    answer = 70  # of a program that failed by itself
    try:
        os.chdir(cwd)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        sys.argv = ["-c" if code else "hierax", *argv]
        answer = main(argv) if not code else exec(code, {"__name__": "__main__"}) or 0
    except SystemExit as end:
        answer = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(answer)


if __name__ == "__main__":
    _serve()
