"""What a kept program saves: whole processes from their start to the first embedding, in turn, wall and processor time.

    OMP_NUM_THREADS=1 python -m benchmarks.kept [--rounds 3] [--networks hiera_tiny_224:224 ...]

"first" converts (its cache is empty), "second" finds what it kept, "auto" asks for no engine, "torch" is the engine
that needs no conversion, "imports" loads torch and OpenVINO alone. Weights are random, saved once, and every answer is
compared with the torch engine's. The shares are of a further first start, timed inside.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import hierax

from . import measure, peers
from .startup import save

RESULTS = Path(__file__).parent / "results"
NETWORKS = ("hiera_tiny_224:224", "hieradet_small:224", "hiera_tiny_224:1024", "hieradet_small:1024")
START = """
import sys, hierax
fast = hierax.load(sys.argv[1], fast=True, engine=sys.argv[2]).encoder
import torch
x = torch.randn(1, 3, *[int(sys.argv[3])] * 2, generator=torch.Generator().manual_seed(0))
with torch.inference_mode():
    print(fast.choice, *fast.embedding(x).flatten()[:8].tolist(), sep=";")
"""
IMPORTS = "import torch, openvino"
INSIDE = (
    """
import functools, json, sys, time
import hierax
from hierax.model.engines import graph, keeping, openvino
seconds = {}
def timed(owner, name):
    inner = getattr(owner, name)
    @functools.wraps(inner)
    def run(*args, **options):
        start = time.process_time()
        try:
            return inner(*args, **options)
        finally:
            seconds[name] = seconds.get(name, 0) + time.process_time() - start
    setattr(owner, name, run)
for owner, name in ((openvino, "export"), (openvino, "_converted"), (keeping, "_weights"), (keeping, "keep")):
    timed(owner, name)
timed(openvino.Program, "__init__")
timed(openvino.Program, "__call__")
"""
    + START
    + """
print(json.dumps(seconds))
"""
)


def process(script: str, *arguments: object, cache: str) -> tuple[float, float, str]:
    """Wall and processor seconds of a new interpreter, and what it printed."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HIERAX_CACHE": cache, "HIERAX_CACHE_LIMIT": "20GB"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def measured(name: str, size: int, rounds: int) -> dict:
    """Seconds of the starts of one network at one size."""
    times: dict[str, list[tuple[float, float]]] = {}
    answers: dict[str, set[str]] = {}
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = save(peers.loud(hierax.create(name)), Path(folder) / "network", "hierax")
        for number in range(rounds):
            cache = str(Path(folder) / f"cache-{number}")
            for what, engine in (("first", "openvino"), ("second", "openvino"), ("auto", "auto"), ("torch", "torch")):
                wall, processor, said = process(START, source, engine, size, cache=cache)
                times.setdefault(what, []).append((wall, processor))
                answers.setdefault(what, set()).add(said.strip())
            times.setdefault("imports", []).append(process(IMPORTS, cache=cache)[:2])
            sizes = {path.name: path.stat().st_size for path in Path(cache).rglob("program.*")}
        shares = json.loads(
            process(INSIDE, source, "openvino", size, cache=str(Path(folder) / "inside"))[2].splitlines()[-1]
        )
    ratios = [[b[at] / a[at] for a, b in zip(times["first"], times["second"], strict=True)] for at in (0, 1)]
    medians = {what: [statistics.median(each) for each in zip(*found, strict=True)] for what, found in times.items()}
    return {
        "second_over_first": {
            clock: round(statistics.median(each), 3) for clock, each in zip(("wall", "processor"), ratios, strict=True)
        },
        "median_s": {what: [round(each, 2) for each in found] for what, found in medians.items()},
        "inside_first_processor_s": {name: round(seconds, 2) for name, seconds in shares.items()},
        "bytes": sizes,
        "answers": {what: sorted(found) for what, found in answers.items()},
        "raw_wall_and_processor_s": times,
    }


def main() -> None:
    """Write a dated file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    options = parser.parse_args()
    now = datetime.datetime.now(datetime.timezone.utc)
    found: dict = {
        "date": now.date().isoformat(),
        "command": " ".join(["python -m benchmarks.kept", *sys.argv[1:]]),
        "environment": measure.environment(),
        "load_average_before": os.getloadavg(),
    }
    for network in options.networks:
        name, size = network.split(":")
        found[f"{name} at {size}"] = measured(name, int(size), options.rounds)
        print(json.dumps({network: found[f"{name} at {size}"]["second_over_first"]}), flush=True)
    found["load_average_after"] = os.getloadavg()
    place = RESULTS / f"{now:%Y-%m-%d-%H%M%S}-kept.json"
    place.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(place)


if __name__ == "__main__":
    main()
