"""Times hierax against its peers, in turn, in one process; checks every answer first; writes a dated file.

python -m benchmarks --quick            # under three minutes on two idle cores: no compilers
python -m benchmarks                    # every peer through every compiler that is installed
python -m benchmarks --case hiera_base_b8 --rounds 20 --engines torch,openvino,int8 --dtype bfloat16
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import torch

from . import measure, peers, report
from .cases import CASES, DTYPES, Options, WrongAnswerError, run_case

ENGINES = ("torch", "plain", "packed", "openvino", "compile", "int8")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the cases and rounds that fit in three minutes")
    parser.add_argument("--case", action="append", choices=sorted(CASES), help="only these; may be repeated")
    parser.add_argument("--rounds", type=int, default=None, help="5 with --quick, else 15")
    parser.add_argument(
        "--dtype", choices=sorted(DTYPES), default="float32", help="what everybody computes in, int8 excepted"
    )
    parser.add_argument(
        "--engines", type=names_of(ENGINES), default=None, help="ours, comma-separated: " + ",".join(ENGINES)
    )
    parser.add_argument(
        "--compilers",
        type=names_of(peers.COMPILERS),
        default=None,
        help="peers through these too, comma-separated: " + ",".join(peers.COMPILERS),
    )
    parser.add_argument("--threads", type=int, default=None, help="also keeps the process on so many cores")
    parser.add_argument(
        "--clock", choices=tuple(measure.CLOCKS), default="wall", help="cpu: for a busy machine, with --threads 1"
    )
    parser.add_argument("--startup", action="store_true", help="also cold start and load memory, in new processes")
    parser.add_argument("--mae", action="store_true", help="also a masked and a supervised training step")
    parser.add_argument("--out", type=Path, default=report.RESULTS, help="folder of the dated file")
    return parser


def names_of(known: tuple[str, ...]) -> object:
    """An argument that is a comma-separated list of known names."""

    def read(text: str) -> tuple[str, ...]:
        names = tuple(name for name in text.split(",") if name)
        if not set(names) <= set(known):
            raise argparse.ArgumentTypeError(f"takes {', '.join(known)}; got {text!r}")
        return names

    return read


def main(argv: list[str] | None = None) -> None:
    """Run the chosen cases and write a dated file; a refused case is in it too, and makes the exit status 1."""
    args = parser().parse_args(argv)
    if args.threads:
        limit_threads(args.threads)
    options = Options(
        rounds=args.rounds or (5 if args.quick else 15),
        clock=args.clock,
        dtype=args.dtype,
        engines=or_else(args.engines, ("torch",) if args.quick else ("torch", "openvino", "compile")),
        compilers=or_else(args.compilers, () if args.quick else peers.COMPILERS),
    )
    results: list[dict] = []
    refused: dict[str, str] = {}
    for name in args.case or [name for name, case in CASES.items() if case.quick or not args.quick]:
        try:
            results.append(run_case(name, CASES[name], options))
        except WrongAnswerError as error:
            refused[name] = str(error)
        except KeyboardInterrupt:  # what was measured is still written
            refused[name] = "interrupted"
            break
        else:
            report.show(results[-1])
    extra = extras(args, options, refused)
    environment = measure.environment()
    report.write(
        {"environment": environment, "command": command(argv), "cases": results, "refused": refused, **extra}, args.out
    )
    if refused:
        raise SystemExit("\n".join(f"{name}: {error}" for name, error in refused.items()))


def extras(args: argparse.Namespace, options: Options, refused: dict[str, str]) -> dict[str, object]:
    """Training steps and start-up, where asked for."""
    found: dict[str, object] = {}
    if args.mae:
        from .mae import mae_step, supervised_step

        for step in (mae_step, supervised_step):
            try:
                found[step.__name__] = result = step(options.rounds, options.clock)
            except WrongAnswerError as error:
                refused[step.__name__] = str(error)
                continue
            print(f"\n{step.__name__}", json.dumps(result["ratios"], indent=2))
    if args.startup:
        from .startup import startup

        found["startup"] = result = startup()
        print(json.dumps({k: v for k, v in result.items() if k != "raw"}, indent=2))
    return found


def or_else(chosen: tuple[str, ...] | None, usual: tuple[str, ...]) -> tuple[str, ...]:
    """What was asked for, also where that is nothing."""
    return usual if chosen is None else chosen


def limit_threads(count: int) -> None:
    """So many threads for torch, and cores for everybody: OpenVINO does not ask torch how many it may use."""
    torch.set_num_threads(count)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:count]))


def command(argv: list[str] | None) -> str:
    """What was typed."""
    return " ".join(["python", "-m", "benchmarks", *(sys.argv[1:] if argv is None else argv)])
