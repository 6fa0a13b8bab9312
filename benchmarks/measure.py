"""Timing that survives a busy machine: runners in turn, medians and spread, ratios within the same rounds."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

from hierax.model.encoder import Encoder
from hierax.model.engines import FastEncoder, native_bfloat16, processor
from hierax.model.engines.base import EMBEDDING
from hierax.model.engines.eager import TorchEngine
from hierax.model.engines.openvino import has_openvino
from hierax.model.engines.products import Packed

PACKAGES = ("torch", "hiera-transformer", "timm", "transformers", "birder", "sam2", "openvino", "nncf", "onnxruntime")


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def interleaved(runners: dict[str, Callable[[], object]], rounds: int, clock: str = "wall") -> dict[str, list[float]]:
    """Seconds of each runner in each round; the order turns by one every round, after one round that is not kept.

    The "cpu" clock counts this process's own processor seconds: on a busy machine, with one thread, it measures the
    work itself.
    """
    now = CLOCKS[clock]
    names = list(runners)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        start_at = turn % len(names)
        for name in names[start_at:] + names[:start_at]:
            start = now()
            runners[name]()
            if turn:
                seconds[name].append(now() - start)
    return seconds


def summary(seconds: list[float]) -> dict[str, float]:
    """Median, fastest, and the spread of the middle half over the median."""
    quarters = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else [seconds[0]] * 3
    median = statistics.median(seconds)
    return {"median_s": median, "fastest_s": min(seconds), "spread": (quarters[2] - quarters[0]) / median}


def ratio(theirs: list[float], ours: list[float]) -> dict[str, float]:
    """How many times faster ours is: median of the rounds' own ratios, and the ratio of the fastest rounds."""
    return {
        "median": statistics.median(t / o for t, o in zip(theirs, ours, strict=True)),
        "of_medians": statistics.median(theirs) / statistics.median(ours),
        "of_fastest": min(theirs) / min(ours),
    }


def products(
    size: int = 768, rows: int = 1568, dtype: torch.dtype = torch.float32
) -> dict[str, tuple[Callable[[], object], float]]:
    """A GEMM on constant weights by every engine at hand, each with its FLOPs; the fastest is the ceiling.

    Which one that is depends on the processor: BLAS reaches less than half of the others on some.
    """
    a, b = torch.randn(rows, size).to(dtype), torch.randn(size, 4 * size).to(dtype)
    out = torch.empty(rows, 4 * size, dtype=dtype)
    runners: dict[str, Callable[[], object]] = {"BLAS": lambda: torch.mm(a, b, out=out)}
    if processor.packs(dtype):
        packed = Packed(b.t(), torch.zeros(4 * size, dtype=dtype))
        runners["packed"] = lambda: packed.linear(a, "ceiling")
    if has_openvino():
        runners["OpenVINO"] = _openvino_product(a, b)
    return {name: (run, 2.0 * rows * size * 4 * size) for name, run in runners.items()}


def _openvino_product(a: Tensor, b: Tensor) -> Callable[[], object]:
    import openvino
    from openvino import opset13

    given = opset13.parameter(list(a.shape))
    model = openvino.Model([opset13.matmul(given, opset13.constant(b.float().numpy()), False, False)], [given])
    hints = {
        "INFERENCE_PRECISION_HINT": "bf16" if a.dtype == torch.bfloat16 else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    request = openvino.Core().compile_model(model, "CPU", hints).create_infer_request()
    values = [a.float().numpy()]
    return lambda: request.infer(values, share_inputs=True, share_outputs=True)


def useful_flops(encoder: Encoder, x: Tensor) -> dict[str, float]:
    """FLOPs of one embedding by kind, of real tokens only: what windows are padded with is nobody's work."""
    fast = FastEncoder(encoder, partial(TorchEngine, products="plain"))
    with torch.no_grad():
        # The engine itself: torch's counter is a hook, and with hooks the readable path answers.
        return {kind: len(x) * n for kind, n in flops(lambda: fast.current().run(x[:1], EMBEDDING)).items()}


def flops(function: Callable[[], object]) -> dict[str, float]:
    """FLOPs of one call by kind: "products" (convolutions too) and "attention"."""
    from torch.utils.flop_counter import FlopCounterMode

    # torch's own table lacks these two.
    more = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        torch.ops.aten.addmm_: lambda x, a, b, *_, **__: 2 * a[0] * a[1] * b[1],
    }
    with FlopCounterMode(display=False, custom_mapping=more) as counter:
        function()
    found = {"products": 0.0, "attention": 0.0}
    for operator, count in counter.get_flop_counts()["Global"].items():
        found["attention" if "attention" in str(operator) else "products"] += count
    return found


def _attention_flops(q: list[int], k: list[int], v: list[int], *_: object, **__: object) -> int:
    batch, heads, queries, d = q
    return 2 * batch * heads * queries * k[2] * (d + v[3])


def peak_memory_mb() -> float:
    """Most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def environment() -> dict[str, object]:
    """Hardware and versions, without the machine's name or paths."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    root = Path(__file__).resolve().parents[1]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=False)
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "native_bfloat16": native_bfloat16(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "commit": commit.stdout.strip() + (" with changes" if changed.stdout.strip() else ""),
        "load_average": os.getloadavg(),
        "versions": versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    wanted = {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8"}
    flags = " ".join(sorted(wanted & set(found.get("flags", "").split())))
    return f"{found.get('model name', '?')} (family {found.get('cpu family')}, model {found.get('model')}; {flags})"
