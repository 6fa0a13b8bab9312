"""CUDA throughput in bfloat16, ours against the timm and transformers installed there. Needs no network.

    python -m benchmarks.gpu [--quick]

Status: written without a CUDA machine at hand and never run; nothing about GPUs is claimed from it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

import hierax
from hierax.model.encoder import Encoder

from . import measure, peers
from .report import difference, write

CASES = (
    ("hiera_base_224", 224, 256),
    ("hiera_huge_224", 224, 64),
    ("sam2_hiera_small", 1024, 1),
    ("sam2_hiera_small", 1024, 8),
    ("sam2_hiera_large", 1024, 1),
    ("sam2_hiera_large", 1024, 8),
)
FP32_TOLERANCE = 1e-3  # TF32 is switched off; another order of sums remains


def on_device(function: Callable[[], object], seconds: float = 2.0) -> list[float]:
    """Seconds a call, between synchronisations, for about that long."""
    for _ in range(3):
        function()
    torch.cuda.synchronize()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        function()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return times


def ceiling() -> float:
    """FLOP/s of a large bfloat16 product on this device."""
    n = 8192
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * n**3 / min(on_device(lambda: a @ b))


def graphed(ask: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], object]:
    """The same work as one CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            ask(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ask(x)
    return graph.replay


def runners(encoder: Encoder, name: str, x: Tensor) -> dict[str, Callable[[], object]]:
    """Ours eager, fast, compiled and graphed, and the peers that know this network."""
    fast = hierax.optimize(encoder, engine="torch")
    compiled = torch.compile(encoder.embedding)
    found: dict[str, Callable[[], object]] = {
        "hierax eager": lambda: encoder.embedding(x),
        "hierax torch": lambda: fast.embedding(x),
        "hierax compiled": lambda: compiled(x),
        "hierax CUDA graph": graphed(fast.embedding, x),
    }
    if name in ("hiera_base_224", "hiera_huge_224") and peers.installed("timm"):
        peers.prepare()
        import timm

        module = timm.create_model(name, num_classes=0).to(x.device, x.dtype).eval()
        found["timm"] = lambda: module(x)
    if name == "hiera_base_224" and peers.installed("transformers"):
        peers.prepare()
        from transformers import HieraConfig, HieraModel

        config = HieraConfig(embed_dim=96, depths=[2, 3, 16, 3], num_heads=[1, 2, 4, 8])
        model = HieraModel(config).to(x.device, x.dtype).eval()
        found["transformers"] = lambda: model(x).pooler_output
    return found


def main() -> None:
    """Check against float32 on the CPU, then time every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="hiera_base_224 only")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu needs a CUDA device; this machine has none.")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    top = ceiling()
    rows = []
    for name, size, batch in CASES[:1] if args.quick else CASES:
        encoder = peers.loud(hierax.create(name, input_size=size))
        sample = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            expected = encoder.embedding(sample)
            work = sum(measure.flops(lambda e=encoder, x=sample: e.embedding(x)).values()) * batch
            encoder = encoder.to("cuda")
            apart = difference(hierax.optimize(encoder).embedding(sample.cuda()).cpu(), expected)
            if not apart <= FP32_TOLERANCE:
                raise SystemExit(f"{name}: the GPU differs from the CPU by {apart:.1e}; not timed.")
            encoder = encoder.to(torch.bfloat16)
            x = torch.randn(batch, 3, size, size, device="cuda", dtype=torch.bfloat16)
            seconds = {who: on_device(run) for who, run in runners(encoder, name, x).items()}
        row = {
            "model": name,
            "input": [batch, 3, size, size],
            "max_difference_fp32": apart,
            "images_per_s": {who: batch / measure.summary(t)["median_s"] for who, t in seconds.items()},
            "share_of_ceiling": {who: work / measure.summary(t)["median_s"] / top for who, t in seconds.items()},
            "seconds": seconds,
        }
        rows.append(row)
        print(name, size, batch, {who: round(value, 1) for who, value in row["images_per_s"].items()})
    device = torch.cuda.get_device_name()
    write({"environment": {**measure.environment(), "gpu": device}, "bf16_ceiling_flops": top, "cases": rows})


if __name__ == "__main__":
    main()
