"""Cold process to first embedding, and peak memory of loading, each in processes of their own."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import hierax

from . import measure, peers

OURS = """
import sys, hierax, numpy as np
predictor = hierax.load(sys.argv[1])
import torch
print(float(np.abs(predictor.embed(torch.zeros(1, 3, 224, 224))).sum()))
"""
TRANSFORMERS = """
import sys, torch
for name in ("nms", "qnms"):
    torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from transformers import HieraModel
model = HieraModel.from_pretrained(sys.argv[1]).eval()
with torch.inference_mode():
    print(float(model(torch.zeros(1, 3, 224, 224)).pooler_output.abs().sum()))
"""
BARE = "import torch"
# VmHWM and not getrusage: a new process's ru_maxrss starts at what its parent held.
HELD = """
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
"""
PEAK = f"""
import sys, torch
{HELD}
before = peak()
import hierax
predictor = hierax.load(sys.argv[1])
print(peak() - before)
"""
IMPORTS = f"""
import torch
{HELD}
before = peak()
import hierax, hierax.registry
print(peak() - before)
"""


def load_memory(path: Path) -> dict:
    """Bytes above `import torch` at the peak of loading, over the file's size."""
    size = sum(file.stat().st_size for file in path.rglob("*.safetensors"))
    peak, imports = (statistics.median(float(python(s, path)[1]) for _ in range(3)) for s in (PEAK, IMPORTS))
    return {"load_peak_over_file_size": peak / size, "of_which_importing_hierax": imports / size, "file_bytes": size}


def startup(rounds: int = 7) -> dict:
    """Seconds of whole processes in turn, and bytes above `import torch` while loading hiera_base."""
    encoder = peers.loud(hierax.create("hiera_base_224"))
    with tempfile.TemporaryDirectory() as folder:
        ours = save(encoder, Path(folder) / "ours", "hierax")
        theirs = save(encoder, Path(folder) / "theirs", "transformers")
        scripts = {"hierax": (OURS, ours), "transformers": (TRANSFORMERS, theirs), "import torch": (BARE, ours)}
        answers = {name: python(*script)[1] for name, script in scripts.items()}
        seconds: dict[str, list[float]] = {name: [] for name in scripts}
        for _ in range(rounds):
            for name, script in scripts.items():
                seconds[name].append(python(*script)[0])
        memory = load_memory(ours)
    return {
        "ratio_to_transformers": measure.ratio(seconds["transformers"], seconds["hierax"]),
        "answers": {name: answer.strip() for name, answer in answers.items()},
        "median_s": {name: statistics.median(times) for name, times in seconds.items()},
        **memory,
        "raw": seconds,
    }


def save(encoder: object, folder: Path, format: str) -> Path:
    """Our weights in a format, as a folder or file."""
    from hierax.weights.card import ModelCard, Weights
    from hierax.weights.network import from_module
    from hierax.weights.write import write_weights

    weights = Weights(card=ModelCard(config=encoder.config, preprocess=hierax.PreprocessSpec()))
    return write_weights(from_module(encoder, weights), folder, to=format)


def python(script: str, path: Path) -> tuple[float, str]:
    """Run a script in a new interpreter: seconds and what it printed."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, env=environment, check=False
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"a start-up script failed:\n{done.stderr[-2000:]}")
    return seconds, done.stdout


if __name__ == "__main__":
    print(json.dumps(startup(), indent=2))
