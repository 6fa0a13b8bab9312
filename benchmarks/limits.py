"""Where one pass of the torch engine spends its time, and how much faster anything could be at all.

python -m benchmarks.limits --case hiera_base_b8 hiera_base_b1

On one thread, so that times add up. Two limits on the ratio to an eager peer are printed: with everything but
products and attention free, and with both of these at the rate of the best product of this processor besides.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch

import hierax

from . import measure, peers, report
from .cases import CASES, Case

KINDS = {
    "products": ("aten::addmm", "aten::addmm_", "aten::mm", "mkldnn::_linear_pointwise"),
    "attention": ("aten::_scaled_dot_product_flash_attention_for_cpu", "aten::bmm", "aten::_softmax"),
    "GELU": ("aten::gelu_", "aten::gelu"),
    "norms": ("aten::native_layer_norm",),
    "patch embedding": ("aten::mkldnn_convolution",),
    "copies": ("aten::copy_", "aten::cat", "aten::index_select", "aten::clone"),
    "sums": ("aten::add_", "aten::add", "aten::mul"),
    "pooling": ("aten::maximum", "aten::amax"),
}


def limits(case: Case, rounds: int) -> dict[str, object]:
    """Seconds by kind of operator, the rates of products, and what bounds the ratio to the best eager peer."""
    encoder = peers.loud(hierax.create(case.model, input_size=case.size))
    fast = hierax.optimize(encoder, engine="torch", input_size=case.size)
    x = torch.randn(case.batch, 3, case.size, case.size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        runners: dict[str, Callable[[], object]] = {"hierax torch": lambda: fast.embedding(x)}
        for name, build in case.others.items():
            runners[name] = peers.eager(build(encoder), x, torch.float32)
        products = measure.products()
        runs = {f"GEMM {name}": run for name, (run, _) in products.items()}
        seconds = measure.interleaved({**runs, **runners}, rounds)
        kinds, flops = by_kind(runners["hierax torch"]), measure.useful_flops(encoder, x)
    whole, peer = min(seconds["hierax torch"]), min(min(seconds[name]) for name in case.others)
    rates = {name: count / min(seconds.pop(f"GEMM {name}")) for name, (_, count) in products.items()}
    ceiling = report.ceiling(rates, seconds, sum(flops.values()))
    scale = whole / sum(kinds.values())  # the profiler's own cost is spread over all
    kinds = {kind: value * scale for kind, value in kinds.items()}
    needed = kinds["products"] + kinds["patch embedding"] + kinds["attention"]
    return {
        "model": case.model,
        "input": list(x.shape),
        "seconds": {"hierax torch": whole, "best eager peer": peer},
        "seconds_by_kind": kinds,
        "share_by_kind": {kind: value / whole for kind, value in kinds.items()},
        "gflop": {kind: value / 1e9 for kind, value in flops.items()},
        "gemm_gflops": {name: rate / 1e9 for name, rate in rates.items()},
        "gemm_ceiling_gflops": ceiling / 1e9,
        "products_gflops": flops["products"] / (kinds["products"] + kinds["patch embedding"]) / 1e9,
        "attention_gflops": flops["attention"] / kinds["attention"] / 1e9,
        "ratio_now": peer / whole,
        "ratio_with_the_rest_free": peer / needed,
        "ratio_with_the_rest_free_at_the_ceiling": peer / (sum(flops.values()) / ceiling),
    }


def by_kind(run: Callable[[], object]) -> dict[str, float]:
    """Seconds of one pass by kind of operator."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    own = {event.key: event.self_cpu_time_total / 1e6 for event in profile.key_averages()}
    found = {kind: sum(own.get(name, 0.0) for name in names) for kind, names in KINDS.items()}
    return {**found, "calls and the rest": sum(own.values()) - sum(found.values())}


def main(argv: list[str] | None = None) -> None:
    """Print the limits of the chosen cases and write a dated file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=sorted(CASES), default=sorted(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    found = {name: limits(CASES[name], args.rounds) for name in args.case}
    for name, result in found.items():
        print(name)
        for key, value in result.items():
            print(f"  {key}: {value}")
    typed = " ".join(["python -m benchmarks.limits", *(sys.argv[1:] if argv is None else argv)])
    report.write({"environment": measure.environment(), "command": typed, "limits": found}, report.RESULTS)


if __name__ == "__main__":
    main()
