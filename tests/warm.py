"""Commands of hierax in forked children of a process that has imported it: what a new process would do, seconds earlier.

A new interpreter spends two seconds of processor time on imports before it does anything. What depends on a process
being new, such as what is imported when, is not run here.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# What commands import late, so that no child pays for it.
MODULES = (
    "hierax.bulk.embed", "hierax.bulk.local", "hierax.bulk.run", "hierax.cli", "hierax.evaluate", "hierax.predictor",
    "hierax.registry", "hierax.search", "hierax.train.run", "hierax.weights.hub", "hierax.weights.repository",
    "pyarrow.parquet", "pandas", "huggingface_hub.file_download", "tyro", "sympy", "accelerate", "matplotlib.pyplot",
    "torch.utils.tensorboard",
)  # fmt: skip
_FD_BYTES = 8  # of a request's length, with which its files travel


@dataclass(frozen=True)
class Child:
    """A command at work, in a session of its own."""

    pid: int
    server: _Server

    def wait(self) -> int:
        """Its exit code; negative is the signal that ended it."""
        return self.server.ask({"wait": self.pid})


def start(
    argv: Sequence[str],
    *,
    files: tuple[int, int, int],
    code: str = "",
    cwd: Path | str | None = None,
    environment: dict[str, str] | None = None,
    forget: Iterable[str] = (),
) -> Child:
    """Begin `hierax ARGV...`, or with code `python -c CODE ARGV...`.

    Args:
        argv: Arguments.
        files: Descriptors that become its stdin, stdout and stderr.
        code: Run in place of the command line.
        cwd: Its folder; None for the current one.
        environment: Its variables; None for those of this process.
        forget: Packages to import anew: those that read variables when they are imported.
    """
    variables = dict(os.environ if environment is None else environment)
    variables.pop("PYTEST_CURRENT_TEST", None)
    forgotten = list(forget)
    late = ("HIERAX_", "PATH", "COLUMNS", "NO_COLOR", "PYTEST_", "TMPDIR")
    # Those of the command are for what it starts, or imports anew: the server keeps ours, and one serves more commands.
    ours = ("PYTHONPATH", *(["HF_"] if "huggingface_hub" in forgotten else []))
    early = {name: value for name, value in variables.items() if not name.startswith((*late, *ours))}
    early |= {name: value for name, value in os.environ.items() if name.startswith(ours)}
    server = _server(tuple(sorted(early.items())))
    request = {"argv": [*argv], "code": code, "cwd": str(cwd or os.getcwd()), "environment": variables}
    return Child(server.ask({**request, "forget": forgotten}, files), server)


def run(argv: list[str], *, out: Path, err: Path, **options: Any) -> int:
    """The exit code of a command (`start`); what it prints goes to the ends of files, maybe one."""
    with open(os.devnull, "rb") as nothing, out.open("ab") as printed, err.open("ab") as said:
        return start(argv, files=(nothing.fileno(), printed.fileno(), said.fileno()), **options).wait()


def captured(argv: Sequence[str], *, given: bytes = b"", **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command (`start`) with bytes on its stdin; its exit code and what it printed."""
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        source.write(given)
        source.seek(0)
        code = start(argv, files=(source.fileno(), out.fileno(), err.fileno()), **options).wait()
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return subprocess.CompletedProcess([*argv], code, *texts)


def import_all() -> None:
    """Import what commands do, read the catalogue as most of them do, and leave fewer pages to copy for each child."""
    import hierax.commands

    names = [module.name for module in pkgutil.iter_modules(hierax.commands.__path__, "hierax.commands.")]
    for name in (*names, *MODULES):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    hierax.list_models()
    gc.collect()
    gc.freeze()


class _Server:
    def __init__(self, environment: dict[str, str]) -> None:
        self._socket, theirs = socket.socketpair()
        command = [sys.executable, "-m", __name__, str(theirs.fileno())]
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, pass_fds=[theirs.fileno()])
        theirs.close()  # it ends when our side does
        self._answers, self._lock = self._socket.makefile("r"), threading.Lock()

    def ask(self, request: dict[str, Any], files: Sequence[int] = ()) -> int:
        text = json.dumps(request).encode()
        with self._lock:
            length = len(text).to_bytes(_FD_BYTES, "big")
            socket.send_fds(self._socket, [length], files)
            self._socket.sendall(text)
            return json.loads(self._answers.readline())


@functools.lru_cache(maxsize=1)
def _server(environment: tuple[tuple[str, str], ...]) -> _Server:
    """One for each environment: libraries read it when they are imported."""
    return _Server(dict(environment))


def _serve(connection: socket.socket) -> None:
    """Answer requests until the other side ends."""
    import_all()
    answers = connection.makefile("w")
    while True:
        length, files, _, _ = socket.recv_fds(connection, _FD_BYTES, 3)
        if not length:
            return
        text = b""
        while len(text) < int.from_bytes(length, "big"):
            text += connection.recv(int.from_bytes(length, "big") - len(text))
        request = json.loads(text)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                connection.close()
                _command(files, **request)
        for file in files:
            os.close(file)
        answers.write(f"{answer}\n")
        answers.flush()


def _command(
    files: list[int], argv: list[str], code: str, cwd: str, environment: dict[str, str], forget: list[str]
) -> None:
    """Become the command."""
    answer = 70  # of a program that failed by itself
    try:
        os.setsid()
        for number, file in enumerate(files):
            os.dup2(file, number)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may have had them ignored
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(environment)
        tempfile.tempdir = None
        for name in [name for name in sys.modules if name.partition(".")[0] in forget]:
            del sys.modules[name]
        sys.argv = ["-c" if code else "hierax", *argv]
        exec(code or "import hierax.cli, sys; sys.exit(hierax.cli.main())", {"__name__": "__main__"})
        answer = 0
    except SystemExit as end:
        answer = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(answer)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
