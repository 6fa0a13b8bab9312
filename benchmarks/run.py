"""Times hierax against its peers, in turn, in one process; checks every answer first; writes a dated file.

python -m benchmarks --quick            # under three minutes on two idle cores
python -m benchmarks --case hiera_base_b8 --rounds 20 --engines torch,openvino
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import hierax
from hierax.model.encoder import Encoder

from . import measure, peers

RESULTS = Path(__file__).parent / "results"
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Case:
    """One row of the table: a network, a batch, and who else can run it."""

    model: str
    size: int
    batch: int
    others: tuple[Callable[[Encoder], peers.Peer], ...]
    quick: bool = True


HIERA = (peers.meta_hiera, peers.timm_hiera, peers.transformers_hiera)
CASES: dict[str, Case] = {
    "hiera_base_b8": Case("hiera_base_224", 224, 8, HIERA),
    "hiera_base_b1": Case("hiera_base_224", 224, 1, HIERA),
    "hieradet_small_b8": Case("hieradet_small", 256, 8, (lambda e: peers.birder_net("hieradet_small", e, 256),)),
    "sam2_small_b1": Case("sam2_hiera_small", 1024, 1, (peers.sam2_trunk,), quick=False),
}


def run_case(name: str, case: Case, rounds: int, engines: list[str], clock: str, compilers: list[str]) -> dict:
    """Build, check, time and compare one case."""
    encoder = peers.loud(hierax.create(case.model, input_size=case.size))
    x = torch.randn(case.batch, 3, case.size, case.size, generator=torch.Generator().manual_seed(1))
    asks: dict[str, Callable[[Tensor], Tensor]] = {"hierax readable": encoder.embedding}
    chosen = {}
    for engine in engines:
        fast = hierax.optimize(encoder, engine=engine, input_size=case.size)
        asks[f"hierax {engine}"], chosen[engine] = fast.embedding, fast
    skipped = {}
    eager = []
    for build in case.others:
        try:
            peer = build(encoder)
        except Exception as error:  # a peer that is not installed, or is broken, must not stop the others
            skipped[getattr(build, "__name__", "peer")] = f"{type(error).__name__}: {error}"[:300]
            continue
        asks[peer.name] = peer.ask
        eager.append(peer.name)
        for how in compilers:
            try:
                through = peers.compiled(peer, x, how)
                asks[through.name] = through.ask
            except Exception as error:
                skipped[f"{peer.name} {how}"] = f"{type(error).__name__}: {error}"[:300]
    with torch.inference_mode():
        expected = encoder.embedding(x)
        apart = {who: check(ask(x), expected) for who, ask in asks.items()}
        wrong = {who: value for who, value in apart.items() if not value <= TOLERANCE}
        if wrong:
            raise SystemExit(f"{name}: refused to time what answers differently: {wrong}")
        product, product_flops = measure.product()
        work = measure.flops(lambda: encoder.embedding(x))
        runners = {who: (lambda ask=ask: ask(x)) for who, ask in asks.items()}
        seconds = measure.interleaved({"GEMM": product, **runners}, rounds, clock)
    gemm = product_flops / min(seconds["GEMM"])
    best_peer = min(eager, key=lambda who: measure.summary(seconds[who])["median_s"], default=None)
    ours = [who for who in asks if who.startswith("hierax") and who != "hierax readable"]
    return {
        "case": name,
        "model": case.model,
        "input": [case.batch, 3, case.size, case.size],
        "dtype": "float32",
        "clock": clock,
        "best_eager_peer": best_peer,
        "ratios_to_best_eager_peer": {
            who: measure.ratio(seconds[best_peer], seconds[who]) for who in ("hierax readable", *ours)
        }
        if best_peer
        else {},
        "choice": {engine: fast.choice for engine, fast in chosen.items()},
        "padded_gflop": work / 1e9,
        "gemm_ceiling_gflops": gemm / 1e9,
        "runners": {
            who: {
                **measure.summary(seconds[who]),
                "images_per_s": case.batch / measure.summary(seconds[who])["median_s"],
                "gflops": work / measure.summary(seconds[who])["median_s"] / 1e9,
                "share_of_gemm_ceiling": work / measure.summary(seconds[who])["median_s"] / gemm,
                "max_difference": apart[who],
                "seconds": seconds[who],
            }
            for who in asks
        },
        "skipped": skipped,
        "peak_memory_mb": measure.peak_memory_mb(),
    }


def check(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, on the scale of the reference where that is above 1."""
    return (ours - theirs).abs().max().item() / max(1.0, theirs.abs().max().item())


def show(result: dict) -> None:
    """One case for people."""
    ceiling, best = result["gemm_ceiling_gflops"], result["best_eager_peer"]
    print(f"\n{result['case']}: {result['model']} {result['input']} {result['dtype']}")
    print(f"  {result['clock']} clock; GEMM ceiling {ceiling:.0f} GFLOP/s; best eager peer {best}")
    for who, value in result["ratios_to_best_eager_peer"].items():
        print(
            f"  {who:18s} x{value['median']:.2f} (medians {value['of_medians']:.2f}, fastest {value['of_fastest']:.2f})"
        )
    for who, row in result["runners"].items():
        print(
            f"  {who:18s} {row['images_per_s']:6.2f} images/s  {row['gflops']:5.0f} GFLOP/s "
            f"({row['share_of_gemm_ceiling']:.0%} of GEMM)  spread {row['spread']:.0%}  "
            f"differs {row['max_difference']:.1e}"
        )
    for who, reason in result["skipped"].items():
        print(f"  without {who}: {reason}")


def main(argv: list[str] | None = None) -> None:
    """Run the chosen cases and write a dated file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the cases and rounds that fit in three minutes")
    parser.add_argument("--case", action="append", choices=sorted(CASES), help="only these; may be repeated")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--engines", default="torch", help="comma-separated: torch,compile,openvino")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a busy machine, with --threads 1"
    )
    parser.add_argument("--compilers", default="", help="peers through these too, comma-separated: openvino,compile")
    parser.add_argument("--startup", action="store_true", help="also cold start and load memory, in new processes")
    parser.add_argument("--mae", action="store_true", help="also a training step of hiera_tiny_224's autoencoder")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    names = args.case or [name for name, case in CASES.items() if case.quick or not args.quick]
    rounds = args.rounds or (5 if args.quick else 15)
    compilers = [how for how in args.compilers.split(",") if how]
    results: list[dict] = []
    for name in names:
        results.append(run_case(name, CASES[name], rounds, args.engines.split(","), args.clock, compilers))
        show(results[-1])
    extra: dict[str, object] = {}
    if args.mae:
        from .mae import mae_step

        extra["mae_step"] = mae_step(rounds, args.clock)
        print(json.dumps(extra["mae_step"]["ratios"], indent=2))
    if args.startup:
        from .startup import startup

        extra["startup"] = startup()
        print(json.dumps({k: v for k, v in extra["startup"].items() if k != "raw"}, indent=2))
    write({"environment": measure.environment(), "command": command(argv), "cases": results, **extra})


def command(argv: list[str] | None) -> str:
    """What was typed."""
    return " ".join(["python", "-m", "benchmarks", *(sys.argv[1:] if argv is None else argv)])


def write(result: dict) -> Path:
    """A new dated file; none is ever overwritten."""
    RESULTS.mkdir(exist_ok=True)
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d-%H%M%S")
    path = RESULTS / f"{stamp}.json"
    path.write_text(json.dumps({"date": stamp, **result}, indent=1) + "\n")
    print(f"\nwrote benchmarks/results/{path.name}")
    return path
