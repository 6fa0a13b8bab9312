"""Run targets in processes that are watched: what dies or hangs is a finding too."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import importlib.util
import io
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .target import ROOT

STARTS_S = 600.0  # wall time until the first input: imports, instrumented, of ten targets on a busy machine
HANGS_S = 60.0  # wall time for one input; far above the bound on processor time, because the machine may be busy


def main() -> int:
    """Exit code 1 where anything was found."""
    options = _options()
    os.environ.update(
        HF_HOME=str(options.folder / "cache"), HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", HIERAX_QUIET="1"
    )
    (options.folder / "cache").mkdir(parents=True, exist_ok=True)
    names = _names(options.target)
    if options.replay:
        return _replay(names[0], options)
    if options.child:
        return _child(names, options)
    if options.engine == "auto":
        guided = not options.executions and importlib.util.find_spec("atheris")
        options.engine = "atheris" if guided else "mutations"
    before = _findings(options.folder)
    bound = f"{options.executions} inputs each" if options.executions else f"{options.minutes:g} minutes"
    print(f"{', '.join(names)}: {bound}, {options.engine}, seed {options.seed}", flush=True)
    if options.executions:
        options.minutes = 1e6
        _run(names, 6e7, options)
    else:
        weights = _weights(names)
        for name in names:
            _run([name], options.minutes * 60 * weights[name], options)
    found = sorted(_findings(options.folder) - before)
    print(f"{len(found)} new findings" if found else "nothing new was found")
    return 1 if found else 0


def _options() -> argparse.Namespace:
    today = datetime.datetime.now(datetime.timezone.utc).toordinal()
    parser = argparse.ArgumentParser(prog="python -m tests.faults.fuzz")
    parser.add_argument("target", nargs="?", default="all")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all targets together")
    parser.add_argument("--seed", type=int, default=today, help="another one every day")
    parser.add_argument("--executions", type=int, default=0, help="instead of minutes: so many inputs, always the same")
    parser.add_argument("--engine", choices=("auto", "atheris", "mutations"), default="auto")
    parser.add_argument("--folder", type=Path, default=ROOT / "out" / "fuzz")
    parser.add_argument("--replay", type=Path, nargs="+", help="judge these inputs alone")
    parser.add_argument("--shrink", action="store_true", help="with --replay: write a smaller input that fails alike")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    return options


def _names(text: str) -> list[str]:
    """The targets; their modules are not imported here, because atheris must see that happen."""
    known = sorted(path.stem for path in Path(__file__).with_name("targets").glob("[a-z]*.py"))
    names = known if text == "all" else text.split(",")
    if wrong := [name for name in names if name not in known]:
        raise SystemExit(f"A target is one of {', '.join(known)}, or all; got {wrong[0]!r}.")
    return names


def _weights(names: Sequence[str]) -> dict[str, float]:
    """Each target's share of the time."""
    from .targets import find_target

    weights = {name: find_target(name).weight for name in names}
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def _findings(folder: Path) -> set[Path]:
    return set(folder.glob("*/findings/*.txt"))


_BROKEN = "exit of the process with 1"  # an exception of the harness; the judge lets none of hierax through


# --- the parent -----------------------------------------------------------------------------------------------------


def _run(names: Sequence[str], seconds: float, options: argparse.Namespace) -> None:
    """Run targets, in another process after one that died."""
    start, judged = time.monotonic(), 0
    for attempt in itertools.count():
        left = seconds - (time.monotonic() - start)
        if attempt and (options.executions or left < 5):
            break
        for name in names:
            (options.folder / name).mkdir(parents=True, exist_ok=True)
            for file in ("current", "status"):
                (options.folder / name / file).unlink(missing_ok=True)
        command = [sys.executable, "-m", str(__package__), ",".join(names), "--child", "--engine", options.engine]
        command += ["--folder", str(options.folder), "--seed", str(options.seed + 1_000_000 * attempt)]
        command += ["--minutes", str(max(left, 1) / 60), "--executions", str(options.executions)]
        end = _watched(command, [options.folder / name for name in names])
        judged += _count(names, options.folder)
        if not end:
            break
        if end == _BROKEN:
            raise SystemExit("The targets themselves are broken; the traceback is above.")
        _report_end(end, names, options.folder)
    took = time.monotonic() - start
    print(f"{', '.join(names)}: {judged} inputs in {took:.0f} s", flush=True)
    with (options.folder / "log.tsv").open("a") as log:  # how long each was run, over the nights
        day = datetime.datetime.now(datetime.timezone.utc).date()
        log.writelines(f"{day}\t{name}\t{options.seed}\t{took / len(names):.0f} s\n" for name in names)


def _count(names: Sequence[str], folder: Path) -> int:
    notes = (folder / name / "status" for name in names)
    return sum(int(note.read_text().split()[0]) for note in notes if note.exists())


def _watched(command: Sequence[str], folders: Sequence[Path]) -> str:
    """How a process ended; empty where it came to its end."""
    started = time.time()
    with subprocess.Popen(command, cwd=ROOT) as process:
        while True:
            try:
                code = process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                inputs = [path.stat().st_mtime for folder in folders if (path := folder / "current").exists()]
                patience = HANGS_S if inputs else STARTS_S
                if time.time() - max(inputs, default=started) > patience:
                    process.kill()
                    return f"hang of more than {patience:.0f} s"
                continue
            return "" if code == 0 else f"death by signal {-code}" if code < 0 else f"exit of the process with {code}"


def _report_end(end: str, names: Sequence[str], folder: Path) -> None:
    """The input that a process ended with is a finding."""
    inputs = [folder / name / "current" for name in names if (folder / name / "current").exists()]
    if not inputs:
        raise SystemExit(f"The targets could not be started: {end}.")
    last = max(inputs, key=lambda path: path.stat().st_mtime)
    path = last.parent / "findings" / f"end-{hashlib.sha256(last.read_bytes()).hexdigest()[:12]}"
    path.write_bytes(last.read_bytes())
    path.with_suffix(".txt").write_text(f"{end}\n")
    name = last.parent.name
    print(f"FOUND {name}: {end}\n  replay: python -m {__package__} {name} --replay {path}", flush=True)


# --- the child ------------------------------------------------------------------------------------------------------


def _child(names: Sequence[str], options: argparse.Namespace) -> int:
    end = time.monotonic() + options.minutes * 60
    if options.engine == "atheris":
        import atheris

        # It names every module on stderr.
        with contextlib.redirect_stderr(io.StringIO()), atheris.instrument_imports(include=["hierax"]):
            _import_everything()
    from .judge import limited
    from .targets import find_target
    from .worker import Worker

    _settle()
    for name in names:
        worker = Worker(find_target(name), options.folder / name, keeps=not options.executions)
        with limited():
            if options.engine == "atheris":
                worker.atheris(options.seed, end)
            else:
                worker.mutations(options.seed, end, options.executions or sys.maxsize)
    return 0


def _import_everything() -> None:
    import pkgutil

    import hierax

    for module in pkgutil.walk_packages(hierax.__path__, "hierax."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def _settle() -> None:
    """Offline, quiet, one thread, and everything imported: an input pays for itself only."""
    import logging
    import warnings

    import torch

    _import_everything()
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")


def _replay(name: str, options: argparse.Namespace) -> int:
    from .judge import Judge, limited
    from .targets import find_target
    from .worker import shrink

    _settle()
    judge, found = Judge(find_target(name), options.folder / name), 0
    with limited():
        for path in [path.resolve() for path in options.replay]:  # the judge moves
            data = path.read_bytes()
            finding = judge.judge(data)
            found += finding is not None
            print(f"{path.name}: {finding or f'nothing is wrong: {judge.answer}'}", flush=True)
            if finding and options.shrink:
                small = path.with_suffix(".small")
                small.write_bytes(shrink(judge, data, finding.key))
                print(f"{len(data)} bytes, {small.stat().st_size} in {small}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
