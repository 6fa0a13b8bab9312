"""A network that our own fine-tuning made, by the command line, into the packages themselves and back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

import hierax
import hierax.compat.birder as birder
import hierax.compat.transformers as transformers
from hierax.cli import main
from hierax.compat.birder.common.fs_ops import load_model
from hierax.compat.birder.inference.classification import infer_image
from hierax.errors import InputError

from ..blocks import ROOT
from ..peers import peer
from ..tolerance import FP32, distance
from .outputs import images

pytestmark = [pytest.mark.parity, pytest.mark.slow]
SAID = ("task", "signature", "class_to_idx", "rgb_stats", "config")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `run/model`, fine-tuned on a few pictures for a few steps."""
    place = tmp_path_factory.mktemp("routes")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    for line in ("render photos --count 32 --seed 3", "finetune photos run --steps 3 --batch-size 16 -q"):
        subprocess.run([sys.executable, "-m", "hierax", *line.split()], cwd=place, env=environment, check=True)
    return place


def said_by(path: Path) -> dict[str, Any]:
    """What a birder file says beside its weights."""
    if path.suffix == ".pt":
        return torch.load(path, weights_only=True)
    with safe_open(path, "pt") as file:
        return {key: json.loads(text) for key, text in file.metadata().items() if key in SAID and key != "task"} | {
            "task": file.metadata()["task"]
        }


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_birder(suffix: str, run: Path, tmp_path: Path) -> None:
    """The lines of the tutorial, on a file of this run: birder builds the network and its input as they were here."""
    path = tmp_path / f"for_birder{suffix}"
    assert main(["convert", str(run / "run" / "model"), str(path), "--to", "birder"]) == 0
    predictor, file = hierax.load(run / "run" / "model"), said_by(path)
    config = {
        "name": "hiera_tiny",
        "registered_name": None,
        "task": file["task"],
        "model_config": file["config"],
        "signature": file["signature"],
    }
    photo, x = next(iter(sorted((run / "photos").rglob("*.jpg")))), images(96, 96)
    theirs, _ = peer("birder").load_model_with_cfg(config, path)
    mine, _ = birder.load_model_with_cfg(config, path)
    reads, _ = peer("birder.common.fs_ops").load_model(
        torch.device("cpu"), "hiera_tiny", path=path, inference=True, st=suffix == ".safetensors"
    )
    ours_reads, _ = load_model(torch.device("cpu"), "hiera_tiny", path=path, inference=True)
    with pytest.raises(InputError, match="pts"):
        load_model(torch.device("cpu"), "hiera_tiny", path=path, inference=True, pts=True)
    with torch.no_grad():
        expected = predictor.model(x)
        for net in (theirs.eval(), mine.eval(), reads, ours_reads):
            assert distance(net(x), expected) <= FP32
    assert sorted(file["class_to_idx"], key=file["class_to_idx"].__getitem__) == predictor.weights().labels
    size = birder.get_size_from_signature(file["signature"])
    transform = peer("birder").classification_transform(size, file["rgb_stats"])
    out, _ = peer("birder.inference.classification").infer_image(theirs.requires_grad_(False), str(photo), transform)
    ours, _ = infer_image(mine, photo, birder.classification_transform(size, file["rgb_stats"]))
    assert np.abs(out - ours).max() <= FP32
    assert hierax.load(path).model(x).shape == expected.shape


def test_transformers(run: Path, tmp_path: Path) -> None:
    """transformers' own Auto classes, and ours, on the converted folder; and the folder that theirs saves again."""
    folder = tmp_path / "for_transformers"
    assert main(["convert", str(run / "run" / "model"), str(folder), "--to", "transformers"]) == 0
    package, predictor, x = peer("transformers"), hierax.load(run / "run" / "model"), images(96, 96)
    theirs = package.AutoModelForImageClassification.from_pretrained(folder).eval()
    theirs.save_pretrained(tmp_path / "again")
    with torch.no_grad():
        expected = predictor.model(x)
        for model in (
            theirs,
            transformers.AutoModelForImageClassification.from_pretrained(folder),
            transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "again"),
        ):
            assert distance(model(x).logits, expected) <= FP32
            assert list(model.config.id2label.values()) == predictor.weights().labels


def test_trainer(run: Path, tmp_path: Path) -> None:
    """A model of ours in transformers' own training loop: what it asks of a model is there."""
    package = peer("transformers")
    hierax.convert(run / "run" / "model", tmp_path / "model", to="transformers")
    names = ["x", "y", "z"]
    # As transformers' guides write the two tables: numbers as text.
    model = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path / "model",
        num_labels=3,
        id2label={str(index): name for index, name in enumerate(names)},
        label2id={name: str(index) for index, name in enumerate(names)},
        ignore_mismatched_sizes=True,
    )
    assert model.config.id2label == dict(enumerate(names))
    assert model.config.label2id == {name: index for index, name in enumerate(names)}
    samples = [{"pixel_values": x, "labels": index % 3} for index, x in enumerate(images(96, 96, batch=6))]
    settings = package.TrainingArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=2,
        per_device_train_batch_size=3,
        gradient_checkpointing=True,
        report_to=[],
        use_cpu=True,
        save_steps=2,
        disable_tqdm=True,
    )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = package.Trainer(model=model, args=settings, train_dataset=samples, eval_dataset=samples)
    trainer.train()
    assert model.is_gradient_checkpointing
    assert np.isfinite(trainer.evaluate()["eval_loss"])
    after = model.state_dict()
    assert not torch.equal(after["classifier.weight"], before["classifier.weight"])
    saved = tmp_path / "out" / "checkpoint-2"
    model.config.save_pretrained(saved)
    again = transformers.AutoModelForImageClassification.from_pretrained(saved)
    assert all(torch.equal(tensor, after[name]) for name, tensor in again.state_dict().items())
