"""Recipes: strict, complete, and equal to the tables they were taken from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from hierax.errors import RecipeError, UnknownNameError
from hierax.train.presets import PRESETS
from hierax.train.recipe import Recipe, read_recipe


def write(tmp_path, text):
    path = tmp_path / "r.toml"
    path.write_text(text)
    return path


def test_unknown_key_names_the_nearest(tmp_path):
    """A parser that ignores what it does not know would train with another setting than the person wrote."""
    with pytest.raises(RecipeError, match="label_smoothing"):
        read_recipe(write(tmp_path, "label_smoothin = 0.1"), "finetune")
    with pytest.raises(RecipeError, match="weight_decay"):
        Recipe().with_options(weight_deca=0.1)
    with pytest.raises(RecipeError, match=r"\[before\].*mask_ratio"):
        read_recipe(write(tmp_path, "[before]\nmask_rati = 0.5"), "finetune")


@pytest.mark.parametrize(
    "line",
    [
        "lr = 'fast'", "steps = 0", "steps = 1.5", "flip = 1.2", "mask_ratio = 1.0", "batch_size = true",
        "optimizer = 'adam'", "crop_scale = [0.9, 0.2]", "betas = [0.9]", "accumulate = 3", "epochs = 0",
        "lr = nan", "query_pools = 1", "not toml",
    ],
)  # fmt: skip
def test_impossible_values_are_refused(tmp_path, line):
    """Any of these accepted would fail hours later, or train something else."""
    with pytest.raises(RecipeError):
        read_recipe(write(tmp_path, line), "finetune")


def test_unknown_preset_and_wrong_task():
    """A missing file must not silently become the default, nor a pretraining recipe a fine-tuning one."""
    with pytest.raises(UnknownNameError, match="imagenet_finetune_tiny"):
        read_recipe("imagenet_finetun_tiny", "finetune")
    with pytest.raises(RecipeError, match="pretrain"):
        read_recipe("small_pretrain", "finetune")


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_survives_toml(tmp_path, name):
    """A value lost on the way out would make `recipe.toml` of a run a different run."""
    path = write(tmp_path, PRESETS[name].to_toml())
    assert read_recipe(path, PRESETS[name].task) == PRESETS[name]


def test_stages_survive_toml(tmp_path):
    """The stage before must come back whole."""
    first = Recipe(task="pretrain", method="mae", steps=3, betas=(0.9, 0.95))
    recipe = Recipe(before=Recipe(before=first, data="shapes:9"), steps=2)
    assert read_recipe(write(tmp_path, recipe.to_toml()), "finetune") == recipe


def test_paper_values():
    """Spot checks against the published tables; a swapped column or a rescaled rate fails."""
    large = PRESETS["imagenet_finetune_large"]
    assert (large.lr, large.epochs, large.drop_path, large.layer_decay) == (1e-3, 50, 0.1, 0.85)
    assert PRESETS["imagenet_pretrain_base"].peak_lr == pytest.approx(8e-4)
    assert PRESETS["imagenet_pretrain_base"].with_options(batch_size=1024).peak_lr == pytest.approx(2e-4)
    huge = PRESETS["kinetics_pretrain_huge"]
    assert (huge.lr, huge.repeats, huge.mask_ratio, huge.drop_path) == (3.2e-4, 4, 0.9, 0.4)
    assert PRESETS["kinetics_finetune_base"].head_dropout == 0.3
    assert PRESETS["ssv2_pretrain_large"].clip_norm == 0.02
    twelve = PRESETS["imagenet12k"]
    assert (twelve.batch_size, twelve.lr, twelve.layer_decay, twelve.groups) == (512, 5e-4, 0.65, "birder")


def test_steps_and_epochs_exclude_each_other():
    """Taking one and dropping the other in silence would change the length of a run."""
    with pytest.raises(RecipeError, match="not both"):
        Recipe().with_options(steps=3, epochs=2)
    assert Recipe(steps=5).with_options(epochs=2).steps is None


def test_every_key_is_documented():
    """A key that nobody can find in the documentation is a key that nobody sets."""
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text("utf-8")
    missing = [field.name for field in dataclasses.fields(Recipe) if f"`{field.name}`" not in text]
    assert not missing


@pytest.mark.parametrize(
    ("theirs", "ours"), [("learning_rate", "lr"), ("wd", "weight_decay"), ("img_size", "input_size")]
)
def test_keys_of_other_trainers(theirs, ours):
    """By spelling, `learning_rate` is nearest to `linear_probe`, which would send a person the wrong way."""
    with pytest.raises(RecipeError, match=f"Did you mean '{ours}'"):
        Recipe().with_options(**{theirs: 1})
