"""Exact accuracy of a classifier on labelled images, by the evaluation protocol of each origin."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from .. import console
from ..config import PreprocessSpec
from ..data.datasets.open import open_data
from ..data.datasets.samples import SPLITS, TrainingData
from ..data.datasets.seen import find_held_out, seen_in
from ..data.datasets.some import sizes_of
from ..data.framing import remark
from ..data.inputs import plain_batches
from ..errors import HieraxError, InputError, UnknownNameError, nearest
from ..model.metrics import Accuracy, count_correct
from ..predictor import Predictor
from ..schema import read_json
from .classes import model_classes

# How the origins evaluate, at the size of the checkpoint.
PROTOCOLS: dict[str, dict[str, Any]] = {
    "checkpoint": {},
    "birder": {"resize": "squash", "crop_ratio": 1.0, "engine": "uint8"},
    "timm": {"resize": "shortest", "crop_ratio": 0.9, "engine": "pil"},
    "meta": {"resize": "shortest", "crop_ratio": 224 / 256, "engine": "pil"},
}  # fmt: skip


def accuracy(
    data: Any,
    predictor: Predictor,
    *,
    protocol: str = "checkpoint",
    split: str = "validation",
    batch_size: int = 32,
    frame_stride: int | None = None,
) -> Accuracy:
    """Count right answers on labelled images or clips.

    Where a run of hierax trained the model (its folder still lies in the run's), and held some of these data out, only
    those are counted; whatever else was trained on is counted with a warning.

    Args:
        data: As for `finetune`; a split folder or column is used where there is one.
        predictor: A classifier.
        protocol: "checkpoint" preprocesses as the checkpoint says, "birder", "timm" and "meta" as those evaluate.
        split: Which split, where the data has splits.
        batch_size: Samples at a time.
        frame_stride: For clips, source frames from one frame to the next; None is what the checkpoint says.

    Raises:
        InputError: No data, no classifier, or classes that cannot be matched to the model's.
        UnknownNameError: No such protocol.
    """
    spec = protocol_spec(protocol, predictor.preprocess)
    if frame_stride is not None:
        spec = dataclasses.replace(spec, frame_stride=frame_stride)
    count = predictor.encoder.num_classes
    if count == 0:
        raise InputError(f"Accuracy needs a classifier; {predictor.card.name!r} has no classes. Fine-tune it first.")
    samples = _samples(data, predictor, split)
    labels = model_classes(samples, count, predictor.labels)
    if far := remark(sizes_of(samples), predictor.encoder.config, cropped=spec.resize == "shortest"):
        console.say(far)

    def logits(inputs: Tensor) -> Tensor:
        with torch.inference_mode():
            return predictor.encoder(inputs.to(predictor.device)).float().cpu()

    batches = plain_batches(samples, predictor.encoder.config, spec, batch_size=batch_size, workers=0)
    return count_correct(logits, batches, samples, labels=labels)


def _samples(data: Any, predictor: Predictor, split: str) -> TrainingData:
    """The samples to count, those that the model's run held out where it held out any of these data."""
    run = run_of(predictor)
    held = find_held_out(data, run) if split in SPLITS["validation"] else None
    if held is not None:
        console.say(
            f"counting the {len(held)} samples that training held out; the model was trained on the other "
            f"{run.get('samples')}. All of them: split 'all'."
        )
        return held
    samples = open_data(data, split=split)
    if seen_in(samples, run):
        console.say(
            f"the model {predictor.card.name!r} was trained on samples that are counted here, so the result says "
            "little about new ones. Name data that training never saw."
        )
    return samples


def run_of(predictor: Predictor) -> dict[str, Any]:
    """What was written of the run that a model is the result of; empty where it is not in a run's folder."""
    if predictor.card.path is None:
        return {}
    path = predictor.card.path.resolve().parent.parent / "run.json"
    try:
        found = read_json(path, what="What a run wrote down", error=InputError) if path.is_file() else {}
    except (HieraxError, OSError):
        return {}
    return found if isinstance(found, dict) else {}


def protocol_spec(protocol: str, spec: PreprocessSpec) -> PreprocessSpec:
    """The preprocess of a protocol at the checkpoint's size.

    Raises:
        UnknownNameError: No such protocol.
    """
    if protocol not in PROTOCOLS:
        raise UnknownNameError(
            f"Evaluation protocols are {', '.join(PROTOCOLS)}; got {protocol!r}. {nearest(protocol, PROTOCOLS)}"
        )
    if protocol == "checkpoint":
        return spec
    changes = {"resize_to": None, "crop_rounding": "even", "interpolation": "bicubic", **PROTOCOLS[protocol]}
    if protocol == "meta" and min(spec.size) > 224:
        changes["crop_ratio"] = 1.0
    return dataclasses.replace(spec, **changes)
