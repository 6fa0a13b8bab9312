"""A way to train that is written here and nowhere else: the seam must carry self-distillation without an edit."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hierax.data.augment import Augment
from hierax.errors import RecipeError, UnknownNameError
from hierax.registry import load
from hierax.schema import Natural, Positive, Share, conform, to_toml
from hierax.train import checkpoint as checkpoints
from hierax.train import pretrain, run
from hierax.train.methods import METHODS
from hierax.train.methods.base import Method
from hierax.train.methods.supervised import as_classifier
from hierax.train.reading import read_recipe, recipe_of, to_dict
from hierax.visualize import sheets
from hierax.weights.network import to_module

from ..members import classifier, coloured_classes, save_learner
from . import runs
from .test_resume import killed_at_step


@dataclass(frozen=True, kw_only=True)
class ToySettings:
    """Keys of `[toy]`."""

    local_crops: Positive = 3
    momentum: Share = 0.9
    prototypes: Positive = 16
    frozen_steps: Natural = 2

    def __post_init__(self) -> None:
        conform(self, RecipeError)


@dataclass(frozen=True)
class Crops:
    """Two large crops and some small ones: tensors of several sizes from one image."""

    locals: int

    def __call__(self, frames: np.ndarray, key: int) -> dict[str, torch.Tensor]:
        large, small = Augment(size=(64, 64)), Augment(size=(32, 32), crop_scale=(0.1, 0.4))
        keys = [key // (index + 1) for index in range(2 + self.locals)]
        views = [(large if index < 2 else small)(frames, draw)[0] for index, draw in enumerate(keys)]
        return {"global": torch.stack(views[:2]), "local": torch.stack(views[2:])}


class Student(nn.Module):
    """Scores of prototypes for crops of any sizes."""

    def __init__(self, encoder: nn.Module, prototypes: int) -> None:
        super().__init__()
        self.encoder, self.prototypes = encoder, nn.Linear(encoder.embedding_size, prototypes, bias=False)

    def forward(self, crops: list[torch.Tensor]) -> list[torch.Tensor]:
        """Each (b, n, 3, h, w) gives (b, n, prototypes)."""
        return [
            self.prototypes(self.encoder.embedding(x.flatten(0, 1))).unflatten(0, tuple(x.shape[:2])) for x in crops
        ]


class Toy(Method):
    """A student that learns to answer as the average of itself does, for other crops of the same image."""

    name, task, Settings, picture = "toy", "pretrain", ToySettings, "crops.png"

    def __init__(self, weights: Any, recipe: Any, classes: list[str]) -> None:
        super().__init__(weights, recipe, classes)
        self.module = Student(to_module(self.weights), self.settings.prototypes)
        self.kept.teacher = copy.deepcopy(self.module).requires_grad_(False)
        self.kept.register_buffer("centre", torch.zeros(self.settings.prototypes))

    def views(self) -> Crops:
        return Crops(self.settings.local_crops)

    def loss(self, model, part, context):
        large, small = self.input(part, "global"), self.input(part, "local")
        with torch.no_grad():
            answers = self.kept.teacher.eval()([large])[0]  # (b, 2, k)
            target = ((answers - self.kept.centre) / 0.04).softmax(-1)
            self.kept.centre.lerp_(answers.mean((0, 1)), 0.1)
        scores = [x.div(0.1).log_softmax(-1) for x in model([large, small])]
        across = -(target.flip(1) * scores[0]).sum(-1).mean()
        local = -(target.mean(1, keepdim=True) * scores[1]).sum(-1).mean()
        return across + local, {"across": across, "local": local}

    def before_step(self, context, groups):
        if context.step < self.settings.frozen_steps:
            self.module.prototypes.weight.grad = None
        for group in groups:
            group["weight_decay"] = 0.04 * (1 + context.step / context.total)

    def after_step(self, context):
        with torch.no_grad():
            for mine, new in zip(self.kept.teacher.parameters(), self.module.parameters(), strict=True):
                mine.lerp_(new, 1 - self.settings.momentum)

    def draw(self, part):
        crops = [crop.permute(1, 2, 0).numpy() for crop in part.views["local"].flatten(0, 1)]
        return sheets.contact_sheet(crops, [""] * len(crops))

    def result(self):
        return self.kept.teacher.encoder


SETTINGS = {**runs.SETTINGS, "steps": 6, "checkpoint_every": 2, "lr": 0.01, "clip_norm": 1.0}


@pytest.fixture
def start(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "toy", Toy)
    return coloured_classes(tmp_path / "data", per_class=4), save_learner(tmp_path / "start", drop_path=0.2)


def train(start, out, resume=False, **settings):
    return pretrain(start[0], out, method="toy", model=start[1], resume=resume, **{**SETTINGS, **settings})


def test_a_method_of_ones_own_trains(tmp_path, start):
    """Crops of two sizes, parts of the loss, a teacher as the result, a picture and a table: none is in the loop."""
    summary = train(start, tmp_path / "out", local_crops=2)
    assert np.isfinite(summary.losses).all()
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert all(line["loss"] == pytest.approx(line["across"] + line["local"]) for line in lines)
    assert "[toy]\nlocal_crops = 2" in (tmp_path / "out" / "recipe.toml").read_text()
    with Image.open(tmp_path / "out" / "crops.png") as picture:
        assert picture.width > 100
    saved = checkpoints.newest(tmp_path / "out" / "checkpoints").tensors
    result = runs.result(tmp_path / "out")
    key = "patch_embed.proj.weight"
    assert torch.equal(result[key], saved[f"method.teacher.encoder.{key}"])
    assert not torch.equal(result[key], saved[f"model.encoder.{key}"])
    assert saved["method.centre"].abs().sum() > 0
    assert not any("prototypes" in name for name in result)
    assert load(tmp_path / "out" / "model").embed(sorted(start[0].glob("*/*.png"))[:2]).shape == (2, 64)


def test_what_precedes_a_step_acts(tmp_path, start):
    """Gradients that are dropped after the step, or before the backward pass, move what is frozen."""

    def trained(name, **settings):
        train(start, tmp_path / name, steps=2, **settings)
        return checkpoints.newest(tmp_path / name / "checkpoints").tensors

    first, frozen, moved = trained("first", lr=0.0), trained("frozen", frozen_steps=2), trained("moved", frozen_steps=1)
    head, stem = "model.prototypes.weight", "model.encoder.patch_embed.proj.weight"
    assert torch.equal(frozen[head], first[head])
    assert not torch.equal(frozen[stem], first[stem])
    assert not torch.equal(moved[head], first[head])


def test_a_killed_run_of_it_goes_on_to_the_same_bits(tmp_path, start):
    """A teacher or a centre that is not saved starts again from the student, and every later step differs."""
    train(start, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as monkeypatch:
        killed_at_step(monkeypatch, 5)
        assert runs.finished(runs.in_child(lambda: train(start, tmp_path / "killed"))) == -9
    summary = train(start, tmp_path / "killed", resume=True)
    assert summary.resumed_from == 4
    assert runs.identical(runs.result(tmp_path / "whole"), runs.result(tmp_path / "killed"))
    whole, killed = (checkpoints.newest(tmp_path / name / "checkpoints").tensors for name in ("whole", "killed"))
    assert runs.identical(whole, killed)


@pytest.mark.slow
def test_two_processes_train_it(tmp_path, start):
    """One forward pass of crops of two sizes through the wrapped network, and state that is saved once."""
    assert runs.in_processes(lambda: train(start, tmp_path / "two", steps=2), 2) == [0, 0]
    assert (tmp_path / "two" / "model" / "model.safetensors").is_file()


def test_its_recipe_is_as_strict_as_any(tmp_path, start):
    """A table that nobody checks trains with defaults where a key is misspelt."""
    with pytest.raises(RecipeError, match=r"'locl_crops'.*Did you mean 'local_crops'"):
        train(start, tmp_path / "a", locl_crops=2)
    with pytest.raises(RecipeError, match="local_crops must be at least 1; got 0"):
        train(start, tmp_path / "a", local_crops=0)
    with pytest.raises(RecipeError, match="'mask_ratio' is a key of 'mae'"):
        train(start, tmp_path / "a", mask_ratio=0.5)
    with pytest.raises(UnknownNameError, match=r"got 'toi'.*Did you mean 'toy'"):
        recipe_of({"method": "toi"})
    recipe = read_recipe(None, "pretrain", "toy")
    path = tmp_path / "toy.toml"
    path.write_text(to_toml(to_dict(recipe)))
    assert read_recipe(path, "pretrain") == recipe
    stage = {"method": "toy", "model": str(start[1]), **SETTINGS, "steps": 1}
    first = run(start[0], tmp_path / "staged", recipe_of({"before": stage, **SETTINGS, "steps": 1}))
    assert (first.out / "before" / "crops.png").is_file()


def test_classes_in_another_order_keep_their_head():
    """hierax sorted class folders 0, 10, 2 as text: a model of then would lose its head, or answer other classes."""
    weights = classifier(["0", "10", "2"])
    turned = as_classifier(weights, ["0", "2", "10"], recipe_of({}))
    assert turned.labels == ["0", "2", "10"]
    for kind in ("weight", "bias"):
        name = f"head.projection.{kind}"
        assert torch.equal(turned.tensors[name], weights.tensors[name][[0, 2, 1]])
    fresh = as_classifier(weights, ["0", "2", "11"], recipe_of({}))
    assert "head.projection.weight" not in fresh.tensors or not fresh.tensors["head.projection.weight"].any()
