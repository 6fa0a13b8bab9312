"""How much the training loop costs over a bare loop of the same steps, and how long it waits for data.

    OMP_NUM_THREADS=1 python benchmarks/training.py [--model hiera_tiny_224] [--steps 12] [--batch 8] [--workers 2]

Both run in one process on the same rendered JPEG folder, interleaved in rounds; the ratio of medians comes first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from hierax.data.datasets.shapes import render_folder
from hierax.registry import create
from hierax.train import finetune


def bare(model_name: str, size: int, steps: int, batch: int) -> float:
    """Seconds a step of forward, backward, clip-free AdamW on fixed pixels."""
    torch.manual_seed(0)
    model = create(model_name, num_classes=16).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    x, y = torch.randn(batch, 3, size, size), torch.arange(batch) % 16
    times = []
    for _ in range(steps):
        begin = time.perf_counter()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - begin)
    return statistics.median(times[2:])


def ours(data: Path, out: Path, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds a step of the real loop, and the share of time it waited for data."""
    finetune(
        data, out, model=options.model, pretrained=False, steps=options.steps, batch_size=options.batch, device="cpu",
        workers=options.workers, drop_path=0.0, ema_decay=0.0, layer_decay=1.0, clip_norm=None, validation_fraction=0.0,
        checkpoint_every=0,
    )  # fmt: skip
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()][2:]
    seconds = statistics.median(options.batch / record["images_per_second"] for record in records)
    return seconds, statistics.median(record["data_wait"] for record in records)


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="hiera_tiny_224")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = render_folder(root / "data", count=64, size=320)
        rounds = []
        for number in range(options.rounds):
            base = bare(options.model, options.size, options.steps, options.batch)
            loop, wait = ours(data, root / f"out{number}", options)
            rounds.append((loop / base, base, loop, wait))
    ratio, base, loop, wait = (statistics.median(values) for values in zip(*rounds, strict=True))
    print(json.dumps({"ratio": ratio, "bare_s": base, "loop_s": loop, "data_wait": wait, **vars(options),
                      "torch": torch.__version__, "threads": torch.get_num_threads()}))  # fmt: skip


if __name__ == "__main__":
    main()
