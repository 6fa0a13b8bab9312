"""Every preset: real in full, and able to train when its network is swapped for a tiny one of the same kind."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from hierax.config import DecoderConfig, ModelConfig, architecture
from hierax.data.datasets.samples import TrainingData
from hierax.model.init import build
from hierax.train import run
from hierax.train.batches import Stream
from hierax.train.methods.mae import as_autoencoder
from hierax.train.methods.supervised import as_classifier
from hierax.train.optim import parameter_groups
from hierax.train.presets import PRESETS
from hierax.train.reading import recipe_of, with_options
from hierax.train.start import starting_weights
from hierax.weights import catalog
from hierax.weights.card import ModelCard, Weights
from hierax.weights.network import from_module
from hierax.weights.write import write_weights

from ..members import learner
from . import runs

pytestmark = pytest.mark.slow

NAMED = sorted(name for name, keys in PRESETS.items() if "model" in keys and keys.get("method") != "dinov2")


# Of presets that leave the model to the person.
USUAL = {"mae": "mae_hiera_tiny_224", "supervised": "hiera_tiny_224", "dinov2": "hieradet_d_tiny"}
HEADS = {"prototypes": 64, "head_dim": 16, "bottleneck": 8, "local_size": 32, "local_crops": 2}


class Memory(TrainingData):
    """Images or clips of random bytes, without a file."""

    def __init__(self, count: int, shape: tuple[int, ...], classes: int = 2) -> None:
        super().__init__(np.arange(count) % classes, [f"class_{index}" for index in range(classes)])
        self.shape = shape

    def name(self, index):
        return f"sample {index}"

    def read(self, index):
        return np.random.default_rng(index).integers(0, 256, self.shape, dtype=np.uint8)


def kind(config: ModelConfig) -> dict[str, object]:
    """What makes networks of one kind behave alike in training, whatever their size."""
    return {"family": config.family, "q_stride": config.q_stride, "q_pool": config.q_pool, "video": config.is_video,
            "decoder": config.decoder is not None, "position": config.position}  # fmt: skip


def shrunk(config: ModelConfig) -> ModelConfig:
    """The same kind of network, a few thousand parameters large."""
    size = (6, 96, 96) if config.is_video else (64, 64)
    changes = {"name": "custom", "input_size": size, "embed_dim": 8, "num_heads": 1, "depths": (1, 1, 1, 1),
               "num_classes": 0, "drop_path": 0.0}  # fmt: skip
    if config.decoder is not None:
        changes["decoder"] = dataclasses.replace(config.decoder, dim=16, depth=1, num_heads=2)
    if config.family == "hieradet":
        changes |= {"global_blocks": (2,), "input_size": (64, 64)}
    return dataclasses.replace(config, **changes)


@pytest.mark.parametrize("name", NAMED)
def test_preset_resolves_to_a_network_that_it_fits(name):
    """A misspelt model, a size or drop path that its network cannot have, or weights nobody published, all at once."""
    recipe = recipe_of(PRESETS[name])
    entry = catalog.resolve(recipe.model)
    assert entry.pretrained, "a fine-tuning preset that starts from no published weights would start at random"
    assert entry.architecture.startswith("mae_") == (recipe.task == "pretrain" or "hieradet" not in entry.architecture)
    bare = starting_weights(with_options(recipe, model=entry.architecture, pretrained=False), [])
    if recipe.task == "pretrain":
        config = as_autoencoder(bare, recipe).config
        assert config.decoder == DecoderConfig(dim=512, depth=8, num_heads=8 if config.is_video else 16)
    else:
        config = as_classifier(bare, ["a", "b"], recipe).config
        assert config.num_classes == 2
        assert config.q_pool == 3
    assert config.drop_path == (recipe.drop_path if recipe.drop_path is not None else bare.config.drop_path)
    module = build(config, device="meta")
    groups = parameter_groups(module, config, recipe)
    assert sum(len(group["names"]) for group in groups) == len(list(module.parameters()))
    stream = Stream(1_281_167, recipe)
    assert stream.total == -(
        -round(recipe.epochs / recipe.repeats * 1_281_167) // (recipe.batch_size // recipe.repeats)
    )


# One of each method and kind of data: whose pictures the rest would draw again.
DRAWN = {"small_pretrain", "small_finetune", "small_dinov2", "kinetics_pretrain_base", "kinetics_finetune_base"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.drawn] if name in DRAWN else []) for name in sorted(PRESETS)]
)
def test_preset_trains(tmp_path, name):
    """Two steps of everything that the preset turns on, over a tiny network of its kind: weights move and stay finite."""
    recipe = recipe_of(PRESETS[name])
    real = architecture(catalog.resolve(recipe.model).architecture if recipe.model else USUAL[recipe.method])
    config = shrunk(real)
    assert kind(config) == kind(real)
    torch.manual_seed(3)
    empty = Weights(card=ModelCard(config=config, preprocess=learner().preprocess))
    start = write_weights(from_module(build(config), empty), tmp_path / "start", to="hierax")
    data = Memory(4, (12, 40, 48, 3) if config.is_video else (40, 48, 3))
    batch = 2 * recipe.repeats * recipe.accumulate
    changes = {"batch_size": batch, "steps": 2, "warmup_steps": 1, "workers": 0, "device": "cpu", "pretrained": True,
               "lr_batch": None, "lr": 1e-3, "input_size": 64 if recipe.input_size else None,
               "frame_stride": 2, "log_every": 1}  # fmt: skip
    settings = dataclasses.replace(recipe, epochs=None, model=str(start), **changes)
    if recipe.task == "finetune":
        settings = dataclasses.replace(settings, validation_fraction=0.5)
    if recipe.method == "dinov2":  # whose heads are larger than most networks
        settings = dataclasses.replace(settings, settings=dataclasses.replace(settings.settings, **HEADS))
    summary = run(data, tmp_path / "out", settings)
    assert summary.steps == 2
    assert summary.skipped_steps == 0
    assert not summary.unreadable
    assert all(np.isfinite(summary.losses))
    after = runs.result(tmp_path / "out")
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
    assert any("decoder" in key for key in after) == (recipe.method == "mae")
    own = {"mae": {"reconstructions.png"}, "supervised": {"confusion.png"}}
    expected = {"curves.png"} | own.get(recipe.method, set())
    assert name not in DRAWN or expected <= {path.name for path in (tmp_path / "out").glob("*.png")}
