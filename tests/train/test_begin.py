"""What a run begins with: fresh parameters as the original packages draw them, a decoder as asked, and remedies that work."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch

from hierax.config import ARCHITECTURES, architecture
from hierax.errors import CheckpointError, RecipeError
from hierax.model.init import build
from hierax.train import finetune, pretrain
from hierax.train.checkpoint import Checkpoint, commit, newest
from hierax.train.methods.mae import as_autoencoder
from hierax.train.presets import PRESETS
from hierax.train.reading import read_recipe, recipe_of, with_options
from hierax.train.start import starting_weights
from hierax.weights.geometry import AmbiguousError

from ..members import coloured_classes, save_learner
from . import runs


def decoder(model="mae_hiera_tiny_224", **asked):
    recipe = recipe_of({"task": "pretrain", "model": model, "pretrained": False, **asked})
    return as_autoencoder(starting_weights(recipe, []), recipe).config


def test_a_fresh_decoder_is_as_asked():
    """They were keys without effect where the architecture had a decoder by name."""
    config = decoder(decoder_depth=2, decoder_dim=96, decoder_heads=4, query_pools=3)
    assert (config.decoder.depth, config.decoder.dim, config.decoder.num_heads, config.q_pool) == (2, 96, 4, 3)
    assert config.name == "mae_hiera_tiny_224"
    assert decoder() == architecture("mae_hiera_tiny_224")
    with pytest.raises(RecipeError, match="decoder_heads must divide"):
        decoder(decoder_dim=100)


def test_a_decoder_that_is_there_cannot_be_another(tmp_path):
    """Training on with the weights' own decoder while the recipe says another would be a key without effect."""
    model, data = save_learner(tmp_path / "mae", decoder=True), coloured_classes(tmp_path / "data", per_class=2)
    with pytest.raises(RecipeError, match="decoder_depth must be that of the weights.*got 3"):
        pretrain(data, tmp_path / "out", model=model, decoder_depth=3, steps=1, **runs.SETTINGS)


@pytest.mark.parametrize("name", ["mae_hiera_tiny_224", "mae_hiera_base_16x224"])
def test_biases_of_fresh_fusion_are_torchs(name):
    """Uniform within 1 / sqrt(fan_in) of the kernel; drawn by the number of outputs it is up to six times as wide."""
    parameters = dict(build(ARCHITECTURES[name]).named_parameters())
    seen = 0
    for key, kernel in parameters.items():
        if "fusion" in key and key.endswith("weight"):
            bound, bias = 1 / math.sqrt(kernel[0].numel()), parameters[key.removesuffix("weight") + "bias"]
            assert bias.abs().max() <= bound
            assert bias.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.12)
            seen += 1
    assert seen


def test_hieradet_begins_as_sam2s():
    """SAM 2 starts its position tables at zero, and its linear biases within 1 / sqrt(inputs)."""
    parameters = dict(build(ARCHITECTURES["hieradet_tiny"]).named_parameters())
    tables = [value for key, value in parameters.items() if "pos_embed" in key]
    assert len(tables) == 2
    assert all((table == 0).all() for table in tables)
    bias, weight = parameters["blocks.0.mlp.fc1.bias"], parameters["blocks.0.mlp.fc1.weight"]
    assert bias.std().item() == pytest.approx(1 / math.sqrt(3 * weight.shape[1]), rel=0.15)


def test_other_folders_are_no_checkpoints(tmp_path):
    """A person's `step-best` sorted as the newest and hid the run's own; `.good` copies were deleted."""
    tensors = {"model.a": torch.zeros(2)}
    first = commit(tmp_path, Checkpoint(1, tensors, {}))
    for name in ("step-best", "step-00000001.good", "step-9"):
        shutil.copytree(first, tmp_path / name)
    for step in range(2, 6):
        commit(tmp_path, Checkpoint(step, tensors, {}))
    assert newest(tmp_path).step == 5
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [
        "step-00000001.good", "step-00000004", "step-00000005", "step-9", "step-best",
    ]  # fmt: skip


def test_an_ambiguous_checkpoint_gets_a_remedy_that_training_has(tmp_path, monkeypatch):
    """Neither finetune nor pretrain has a name=."""

    def ambiguous(source):
        raise AmbiguousError("Say which with name=.", ("hiera_base_224", "hiera_abswin_base_224"))

    monkeypatch.setattr("hierax.train.start.find_weights", ambiguous)
    with pytest.raises(
        CheckpointError, match="hierax convert SOURCE FOLDER --to hierax --name hiera_base_224"
    ) as raised:
        finetune("shapes:32", tmp_path / "out", model=str(tmp_path), **runs.SETTINGS)
    assert "name=" not in str(raised.value)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: read_recipe("small_finetune", "pretrain", "mae"), "for finetune; got pretrain. Call finetune"),
        (lambda: read_recipe("small_pretrain", "finetune"), "for pretrain; got finetune. Call pretrain"),
        (lambda: with_options(recipe_of({}), method="mae"), "a method of pretrain: call pretrain"),
    ],
)
def test_remedies_between_methods_end_somewhere(call, words):
    """Each sent the person to the other, or told to take keys away that the preset itself had."""
    with pytest.raises(RecipeError, match=words):
        call()


def test_keys_of_another_method_are_told_even_at_their_defaults():
    """All five of them together were taken for what hierax 0.1 had written, and dropped in silence."""
    keys = {"mask_ratio": 0.6, "decoder_depth": 8, "decoder_dim": 512, "decoder_heads": 16, "query_pools": 2}
    with pytest.raises(RecipeError, match="is a key of 'mae'"):
        recipe_of({"lr": 1e-3, **keys})


def test_small_pretraining_quotes_its_own_rate():
    """The paper's 8e-4 belongs to a batch of 4096; quoted at 256 it would be another rule's."""
    preset = recipe_of(PRESETS["small_pretrain"])
    assert (preset.lr_batch, preset.peak_lr) == (preset.batch_size, 2e-4)
    assert json.dumps(PRESETS["small_pretrain"]["lr"]) == "0.0002"


@pytest.mark.slow
def test_two_processes_of_mae_differ_by_rounding_alone(tmp_path):
    """Losses agree to 1e-6. Weights under SGD to 1e-7; under AdamW key biases move by rounding, and only they.

    The gradient of a key's bias is zero (softmax does not see it), so what is computed is noise, which AdamW scales up to the
    rate. Processes that averaged wrongly would differ in every parameter, with either optimiser.
    """
    data, model = coloured_classes(tmp_path / "data", per_class=6), save_learner(tmp_path / "mae", decoder=True)
    for optimizer, largest in (("sgd", 1e-7), ("adamw", 1e-6)):
        settings = {**runs.SETTINGS, "steps": 6, "drop_path": 0.0, "optimizer": optimizer}
        one = pretrain(data, tmp_path / f"{optimizer}1", model=model, **settings)
        assert runs.in_processes(
            lambda s=settings, o=optimizer: pretrain(data, tmp_path / f"{o}2", model=model, **s), 2
        ) == [0, 0]
        log = (tmp_path / f"{optimizer}2" / "log.jsonl").read_text().splitlines()
        two = [loss for line in log for loss in json.loads(line).get("losses", [])]
        assert max(abs(a - b) for a, b in zip(one.losses, two, strict=True)) <= 1e-6
        first, second = runs.result(tmp_path / f"{optimizer}1"), runs.result(tmp_path / f"{optimizer}2")
        for name, tensor in first.items():
            apart = (tensor - second[name]).abs()
            if name.endswith("qkv.bias"):
                apart = apart.view(3, -1)[[0, 2]]  # queries and values
            assert apart.max() <= largest, name
