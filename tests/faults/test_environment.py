"""Whatever the process stands in: no home, another locale or clock, a folder that is gone, limits, no rights.

Every command in a child of its own, a fresh one where what is tried matters when a process starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from .. import warm
from ..members import coloured_classes, save_learner
from ..small_disk import on_small_disk, result_of

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="limits and users of Linux")]
ROOT = Path(__file__).parents[2]

# All that writes; `main` gives exit codes.
COMMANDS = """
import json, os, sys
from pathlib import Path
from hierax.cli import main

def codes(data, model, out):
    quick = ["--device", "cpu", "--steps", "1", "--set", "workers=0", "batch_size=4"]
    return [
        main(["-q", "embed", data, "-m", model, "-o", f"{out}/v.npz"]),
        main(["-q", "features", data, "-m", model, "-o", f"{out}/m.npz"]),
        main(["-q", "convert", model, f"{out}/hf", "--to", "transformers"]),
        main(["-q", "convert", model, f"{out}/w.pth", "--to", "meta"]),
        main(["-q", "finetune", data, f"{out}/run", "-m", model, *quick]),
    ]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a model, which any user may read."""
    folder = tmp_path_factory.mktemp("place")
    coloured_classes(folder / "data", per_class=3)
    save_learner(folder / "model")
    return folder


def child(
    place: Path,
    code: str,
    *,
    environment: dict[str, str | None] | None = None,
    more: Sequence[str] = (),
    fresh: bool = False,
) -> Any:
    """The JSON that code prints which has `codes` and the arguments of this process: data, model, an empty folder.

    It is forked from a process that has imported everything, or a fresh one: where imports depend on what is tried.
    """
    out = place / f"out{len(list(place.iterdir()))}"
    out.mkdir()
    changed = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1", **(environment or {})}
    changed = {name: value for name, value in changed.items() if value is not None}
    arguments = [*map(str, (place / "data", place / "model", out)), *more]
    code = COMMANDS + textwrap.dedent(code)
    if fresh:
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, cwd=out, env=changed
        )
    else:
        done = warm.captured(arguments, code=code, cwd=out, environment=changed)
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), out, done.stderr


RUN_ALL = "print(json.dumps(codes(*sys.argv[1:])))"
NO_HOME = dict.fromkeys(("HOME", "HF_HOME", "XDG_CACHE_HOME", "HIERAX_CACHE", "MPLCONFIGDIR"))
TURKISH = {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"}
C = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
ENVIRONMENTS: dict[str, dict[str, str | None]] = {
    "no home": NO_HOME,
    "a home that cannot be written, Turkish": {**NO_HOME, "HOME": "/proc", **TURKISH},
    "a home that is no folder, C": {**NO_HOME, "HOME": "/dev/null", **C},
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_environment(name, place):
    """A cache that cannot be made, or text that is no ASCII, would end commands that need neither."""
    found, _, _ = child(place, RUN_ALL, environment=ENVIRONMENTS[name], fresh=True)
    assert found == [0] * 5


@pytest.mark.parametrize("seconds", [0.0, -1e9, 4.2e9])
def test_clock(seconds, place):
    """1970 comes before every file's time, 1938 cannot be told to all libraries, 2103 is beyond 32 bits."""
    code = f"""
    import time
    start, real = {seconds!r}, time.monotonic
    begun = real()
    time.time = lambda: start + real() - begun
    {RUN_ALL}
    """
    found, _, _ = child(place, code)
    assert found == [0] * 5


def test_files_of_any_time(place):
    """What was last written in 1901 or 2200."""
    code = """
    for number, path in enumerate(sorted(Path(sys.argv[1]).rglob("*.png"))):
        os.utime(path, ((-2**31, 2**33 - 2)[number % 2],) * 2)
    print(json.dumps(codes(*sys.argv[1:])))
    """
    found, _, _ = child(place, code)
    assert found == [0] * 5


def test_working_folder__gone(place):
    """Libraries ask for it at any time: nothing begins, and one line says why."""
    code = f"""
    os.mkdir("gone")
    os.chdir("gone")
    os.rmdir("../gone")
    {RUN_ALL}
    """
    found, out, said = child(place, code, fresh=True)
    assert found == [1] * 5
    assert said.count("it was removed. Change to another: cd DIR.") == 5
    assert os.listdir(out) == []


@pytest.mark.parametrize("umask", [0o077, 0o777])
def test_umask(umask, place):
    """Files follow the umask, and what is written on the way can be read by whoever writes it."""
    found, _, _ = child(place, f"os.umask({umask})\n" + RUN_ALL)
    assert found == [0] * 5


@pytest.mark.parametrize(
    "most", [pytest.param(0, marks=pytest.mark.nightly), 1000, pytest.param(20_000, marks=pytest.mark.nightly)]
)
def test_file_size_limit(most, place):
    """A quota answers as a full disk does, by EFBIG or a signal: one line, nothing half written, all well without it."""
    code = f"""
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, resource.RLIM_INFINITY))
    {RUN_ALL}
    """
    limited, out, said = child(place, code, fresh=True)
    there = os.listdir(out)
    # 20 kB hold the vectors.
    assert limited == [0 if most > 1000 else 1, 1, 1, 1, 1]
    assert set(there) <= {"run", "v.npz"}
    assert not (out / "run" / "model").exists()
    # Without a byte there is no temporary file either, which some libraries ask for before anything is written.
    told = said.count("File too large. Raise the limit (ulimit -f)")
    assert limited.count(1) - (most == 0) <= told <= limited.count(1)
    again = out / "again"
    again.mkdir()
    found, _, _ = child(place, "print(json.dumps(codes(*sys.argv[1:3], sys.argv[4])))", more=[str(again)])
    assert found == [0] * 5


def test_no_rights(place):
    """A folder that may only be read, for a user who is no root: refused before any work, and by the system's word."""
    if os.geteuid():
        pytest.skip("only root can become another user")
    code = """
    import tempfile
    first, second = Path(sys.argv[3]) / "first", Path(tempfile.mkdtemp())  # that of pytest is closed to other users
    first.mkdir()
    known = codes(*sys.argv[1:3], str(first))  # everything is imported while it can be read
    for name, mode in (("closed", 0o555), ("open", 0o777)):
        (second / name).mkdir()
        (second / name).chmod(mode)
    os.system(f"cp -r {sys.argv[1]} {sys.argv[2]} {second} && chmod -R a+rX {second}")
    os.chdir(second)
    os.setgid(65534)
    os.setuid(65534)
    found = codes("data", "model", "closed")
    print(json.dumps([known, found, os.listdir("closed"), codes("data", "model", "open")]))
    """
    (known, found, left, written), _, said = child(place, code)
    assert known == written == [0] * 5
    assert (found, left) == ([1] * 5, [])
    assert said.count("Permission denied") == 5


def test_tensorboard__on_a_full_disk_of_its_own(tmp_path):
    """What is only shown must not end what took days; the log in JSON lines has it all."""
    pytest.importorskip("accelerate")
    pytest.importorskip("tensorboard")
    code = """
    import subprocess, tempfile
    from hierax.train.report import Report
    from tests.members import coloured_classes, save_learner
    away = Path(tempfile.mkdtemp(dir=DISK.parent))
    data, model = coloured_classes(away / "data", per_class=4), save_learner(away / "tiny")
    real = Report.open

    def opened(report, step):
        board = report.path.with_name("tensorboard")
        board.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(board)], check=True)
        (board / "ballast").write_bytes(bytes(4096))
        real(report, step)

    Report.open = opened
    run = str(DISK / "run")
    settings = ["--steps", "40", "--set", "workers=0", "log_every=1", "validate_every=0"]
    code = main(["finetune", str(data), run, "-m", str(model), "--batch-size", "4", "--device", "cpu", *settings])
    steps = [json.loads(line) for line in (DISK / "run/log.jsonl").read_text().splitlines()]
    print(json.dumps([code, len([line for line in steps if "loss" in line]), os.path.isdir(run + "/model")]))
    """
    done = on_small_disk(tmp_path / "disk", code, size="40m")
    assert result_of(done) == [0, 40, True]
    assert done.stderr.count("TensorBoard") == 1
    assert "Traceback" not in done.stderr
