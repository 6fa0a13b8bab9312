"""How long the two stages take: images of a run over images a second, which are measured here or given.

    OMP_NUM_THREADS=1 python hours.py                        # measures a few steps of both stages on a core of this CPU
    python hours.py --stage1 RATE --stage2 RATE              # images a second that runs on your devices showed

The measured steps are real ones of the real recipes with four images instead of hundreds: forward, backward,
clipping, AdamW and the teacher. The first one is left out, and reading, whose
cost stands in docs/training.md. What is measured is processor time, so that a busy machine
gives the same numbers; with one thread it is that of a core. GPUs are not measured by it: the line of progress of a run
there says images/s, and needs a hundred steps for it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from run import HERE, write_start

import hierax
from hierax import console
from hierax.data.datasets.shapes import CLASSES
from hierax.train.loop import Loop

# Images of an epoch and epochs; those of stage 1 are birder's, which were about so many.
STAGES = {"stage1": (21_000_000, 100, 1024), "stage2": (12_129_687, 100, 512)}
STEPS = 4


def measured(stage: str, batch: int, out: Path) -> float:
    """Images that real steps take a second of processor time for."""
    seconds: list[float] = []
    step = Loop._step

    def timed(*given: Any) -> bool:
        begin = time.process_time()
        found = step(*given)
        seconds.append(time.process_time() - begin)
        return found

    start = write_start(out / "start", {})
    few = {"batch_size": batch, "accumulate": 1, "steps": STEPS, "workers": 0, "checkpoint_every": 0}
    few |= {"recipe": HERE / f"{stage}.toml", "model": start, "precision": "fp32"}
    data = f"shapes:{batch * STEPS}@0x256"
    # The head has its 11,821 rows, whatever the images.
    names = [*CLASSES, *(f"class {index}" for index in range(len(CLASSES), 11_821))]
    (out / "classes.txt").write_text("\n".join(names), "utf-8")
    with mock.patch.object(Loop, "_step", timed):
        if stage == "stage1":
            hierax.pretrain(data, out / stage, method="dinov2", **few)
        else:
            hierax.finetune(data, out / stage, class_file=str(out / "classes.txt"), validation_fraction=0.0, **few)
    return batch / statistics.median(seconds[1:])


def told(stage: str, rate: float) -> str:
    """The arithmetic, in one line."""
    images, epochs, batch = STAGES[stage]
    hours = images * epochs / rate / 3600
    return (
        f"{stage}: {images:,} images x {epochs} epochs = {images * epochs:.3g} images = "
        f"{images * epochs / batch:,.0f} steps of {batch}; at {rate:.4g} images/s {hours:,.0f} hours, "
        f"{hours / 24:,.0f} days"
    )


def main() -> None:
    """Measure what is not given, and print a line a stage."""
    parser = argparse.ArgumentParser(description="How long the two stages take.")
    parser.add_argument("--stage1", type=float, help="images a second, of all devices together")
    parser.add_argument("--stage2", type=float, help="the same of stage 2")
    parser.add_argument("--batch", type=int, default=4, help="images of a measured step")
    given = parser.parse_args()
    console.emit(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        for stage in STAGES:
            rate = getattr(given, stage) or measured(stage, given.batch, Path(folder))
            console.emit(told(stage, rate))


if __name__ == "__main__":
    main()
