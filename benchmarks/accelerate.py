"""What `hierax.accelerate` gains on models of other packages, as their users call them.

    OMP_NUM_THREADS=1 python -m benchmarks.accelerate [--rounds 5] [--engines torch openvino] [--only NAME...]

Every model exists twice with the same loud random weights: as it came, and faster. Both run in turn in one process;
answers are compared before. The "cpu" clock counts processor seconds of all threads, which a busy machine allows.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import hierax
from hierax.accelerate.peer import tensors_in
from hierax.accelerate.report import distances

from .measure import environment, interleaved, ratio, summary
from .peers import loud, prepare
from .report import write

Call = Callable[[], Any]


class Case:
    """A model, and a call of it for a batch."""

    def __init__(
        self, make: Callable[[], Any], ask: Callable[[Any, int], Any], batches: tuple[int, ...] = (1,)
    ) -> None:
        self.make, self.ask, self.batches = make, ask, batches


def image(batch: int, side: int) -> torch.Tensor:
    return torch.randn((batch, 3, side, side), generator=torch.Generator().manual_seed(1))


def photograph(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (720, 960, 3), dtype=np.uint8)


def sam2_predictor(config: str = "sam2.1/sam2.1_hiera_s.yaml") -> Any:
    hydra, conf = importlib.import_module("hydra.utils"), importlib.import_module("omegaconf").OmegaConf
    importlib.import_module("sam2.modeling.sam2_base")
    folder = Path(importlib.import_module("sam2").__file__ or "").parent / "configs"
    model = hydra.instantiate(conf.load(folder / config)["model"], _convert_="all")
    return importlib.import_module("sam2.sam2_image_predictor").SAM2ImagePredictor(loud(model))


def set_image(predictor: Any, _batch: int) -> Any:
    predictor.set_image(photograph())
    return [tensor for _, tensor in tensors_in(predictor._features)]


def vision_model() -> Any:
    transformers = importlib.import_module("transformers")
    backbone = {"blocks_per_stage": [1, 2, 11, 2], "global_attention_blocks": [7, 10, 13]}
    config = transformers.Sam2VisionConfig(backbone_config={"model_type": "sam2_hiera_det_model", **backbone})
    return loud(transformers.Sam2VisionModel(config))


def pipeline() -> Any:
    transformers = importlib.import_module("transformers")
    model = loud(transformers.HieraForImageClassification(transformers.HieraConfig()))
    processor = transformers.BitImageProcessor(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224})
    return transformers.pipeline("image-classification", model=model, image_processor=processor, device="cpu")


def classify(pipe: Any, batch: int) -> Any:
    from PIL import Image

    found = pipe([Image.fromarray(photograph(seed)) for seed in range(batch)], batch_size=batch, top_k=1000)
    found = [found] if isinstance(found[0], dict) else found
    return [torch.tensor([each["score"] for each in sorted(one, key=lambda e: e["label"])]) for one in found]


def timm(name: str) -> Any:
    return loud(importlib.import_module("timm").create_model(name))


def birder(name: str, side: int) -> Any:
    registry = importlib.import_module("birder.model_registry").registry
    for module in ("hiera", "hieradet"):
        importlib.import_module(f"birder.net.{module}")
    return loud(registry.net_factory(name, 1000, size=(side, side)))


def calls(side: int, method: str = "__call__") -> Callable[[Any, int], Any]:
    return lambda model, batch: getattr(model, method)(image(batch, side))


CASES: dict[str, Case] = {
    "timm hiera_base_224": Case(lambda: timm("hiera_base_224"), calls(224), (1, 8)),
    "birder hiera_base 224": Case(lambda: birder("hiera_base", 224), calls(224, "embedding"), (1, 8)),
    "birder hieradet_small 256 (pads)": Case(lambda: birder("hieradet_small", 256), calls(256, "embedding"), (1, 8)),
    "timm sam2_hiera_tiny 256 (pads)": Case(lambda: timm("sam2_hiera_tiny"), calls(256, "forward_features"), (1, 8)),
    "transformers pipeline, Hiera base": Case(pipeline, classify, (1, 8)),
    "SAM2ImagePredictor.set_image, SAM 2.1 small at 1024": Case(sam2_predictor, set_image),
    "Sam2VisionModel, SAM 2.1 small at 1024": Case(vision_model, calls(1024)),
}


def network(obj: Any) -> nn.Module:
    return obj if isinstance(obj, nn.Module) else obj.model


def measured(case: Case, engine: str, rounds: int, clock: str, dtype: str | None) -> list[dict[str, Any]]:
    """One row for each batch: how far answers are apart, and how much faster."""
    theirs = case.make()
    network(theirs).requires_grad_(False)
    ours = copy.deepcopy(theirs)
    handle = hierax.accelerate(ours, engine=engine, dtype=dtype, check=False)
    rows = []
    for batch in case.batches:
        runners: dict[str, Call] = {
            "original": lambda batch=batch: case.ask(theirs, batch),
            "accelerated": lambda batch=batch: case.ask(ours, batch),
        }
        with torch.no_grad():
            apart = max(distances(runners["accelerated"](), runners["original"]()).values())
            seconds = interleaved(runners, max(2, rounds // (1 if batch == 1 else 2)), clock)
        rows.append(
            {
                "batch": batch,
                "engine": handle.choice,
                "difference": apart,
                "ratio": ratio(seconds["original"], seconds["accelerated"]),
                **{who: {**summary(times), "seconds": times} for who, times in seconds.items()},
            }
        )
    return rows


def main() -> None:
    """Run, print and write a dated file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--engines", nargs="+", default=["torch"])
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--only", nargs="+", default=list(CASES))
    given = parser.parse_args()
    prepare()
    torch.set_grad_enabled(False)
    load = os.getloadavg()
    result: dict[str, Any] = {}
    for name, case in CASES.items():
        if not any(word in name for word in given.only):
            continue
        case.batches = tuple(batch for batch in case.batches if batch in given.batches)
        for engine in given.engines:
            for row in measured(case, engine, given.rounds, given.clock, given.dtype):
                result.setdefault(name, []).append(row)
                gain, times = row["ratio"]["median"], [row[who]["median_s"] for who in ("original", "accelerated")]
                print(
                    f"{name}, batch {row['batch']}, {engine}: {gain:.2f}x "
                    f"({times[0]:.3f} s, {times[1]:.3f} s), apart {row['difference']:.1e}",
                    flush=True,
                )
    settings = {"clock": given.clock, "rounds": given.rounds, "dtype": given.dtype, "load_average": load}
    write({"benchmark": "accelerate", "environment": environment(), "settings": settings, "cases": result})


if __name__ == "__main__":
    main()
