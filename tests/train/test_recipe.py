"""Recipes: strict, complete, and equal to the tables they were taken from."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import pytest

from hierax.errors import RecipeError, UnknownNameError
from hierax.schema import to_toml
from hierax.train.methods import METHODS
from hierax.train.presets import PRESETS
from hierax.train.reading import read_recipe, recipe_of, to_dict, with_options
from hierax.train.recipe import Recipe

RECIPES = {name: recipe_of(data) for name, data in PRESETS.items()}


def write(tmp_path, text):
    path = tmp_path / "r.toml"
    path.write_text(text)
    return path


def test_unknown_key_names_the_nearest(tmp_path):
    """A parser that ignores what it does not know would train with another setting than the person wrote."""
    with pytest.raises(RecipeError, match="label_smoothing"):
        read_recipe(write(tmp_path, "label_smoothin = 0.1"), "finetune")
    with pytest.raises(RecipeError, match="weight_decay"):
        with_options(recipe_of({}), weight_deca=0.1)
    with pytest.raises(RecipeError, match=r"\[before\].*mask_ratio"):
        read_recipe(write(tmp_path, "[before]\nmask_rati = 0.5"), "finetune")


@pytest.mark.parametrize(
    "line",
    [
        "lr = 'fast'", "steps = 0", "steps = 1.5", "flip = 1.2", "[before]\nmask_ratio = 1.0", "batch_size = true",
        "optimizer = 'adam'", "crop_scale = [0.9, 0.2]", "betas = [0.9]", "accumulate = 3", "epochs = 0",
        "lr = nan", "[before]\nquery_pools = 1", "not toml", "supervised = 3", "task = 'train'", "task = 'pretrain'",
        "[supervised]\nlr = 1e-3", "flip = 0.1\n[supervised]\nflip = 0.2", "before = 3",
    ],
)  # fmt: skip
def test_impossible_values_are_refused(tmp_path, line):
    """Any of these accepted would fail hours later, or train something else."""
    with pytest.raises(RecipeError):
        read_recipe(write(tmp_path, line), "finetune")


@pytest.mark.parametrize(("method", "preset"), [("mae", "small_pretrain"), ("dinov2", "small_dinov2")])
def test_auto_of_pretraining_names_what_takes_its_place(method, preset):
    """A name that one command takes and the other calls unknown sends a person to the documentation."""
    with pytest.raises(UnknownNameError, match=f"for fine-tuning alone. Leave it out: .* takes '{preset}'"):
        read_recipe("auto", "pretrain", method)


@pytest.mark.parametrize("batch", [8, 32, 256])
def test_small_runs_of_dinov2_take_its_rate(batch):
    """A rate that falls linearly with the batch is half of it at 16 images, and next to nothing is learned."""
    small, published = (with_options(RECIPES[name], batch_size=batch) for name in ("small_dinov2", "dinov2"))
    assert small.peak_lr == pytest.approx(published.peak_lr)


def test_unknown_preset_and_wrong_task():
    """A missing file must not silently become the default, nor a pretraining recipe a fine-tuning one."""
    with pytest.raises(UnknownNameError, match="imagenet_finetune_tiny"):
        read_recipe("imagenet_finetun_tiny", "finetune")
    with pytest.raises(RecipeError, match="pretrain"):
        read_recipe("small_pretrain", "finetune")


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_survives_toml(tmp_path, name):
    """A value lost on the way out would make `recipe.toml` of a run a different run."""
    path = write(tmp_path, to_toml(to_dict(RECIPES[name])))
    assert read_recipe(path, RECIPES[name].task) == RECIPES[name]
    assert read_recipe(name, RECIPES[name].task) == RECIPES[name]


def test_stages_survive_toml(tmp_path):
    """The stage before must come back whole."""
    first = {"task": "pretrain", "steps": 3, "betas": (0.9, 0.95), "mae": {"decoder_dim": 96}}
    recipe = recipe_of({"before": {"task": "finetune", "before": first, "data": "shapes:9", "mixup": 0.5}, "steps": 2})
    assert recipe.before.before.settings.decoder_dim == 96
    assert read_recipe(write(tmp_path, to_toml(to_dict(recipe))), "finetune") == recipe


def test_paper_values():
    """Spot checks against the published tables; a swapped column or a rescaled rate fails."""
    large = RECIPES["imagenet_finetune_large"]
    assert (large.lr, large.epochs, large.drop_path, large.layer_decay) == (1e-3, 50, 0.1, 0.85)
    assert RECIPES["imagenet_pretrain_base"].peak_lr == pytest.approx(8e-4)
    assert with_options(RECIPES["imagenet_pretrain_base"], batch_size=1024).peak_lr == pytest.approx(2e-4)
    huge = RECIPES["kinetics_pretrain_huge"]
    assert (huge.lr, huge.repeats, huge.settings.mask_ratio, huge.drop_path) == (3.2e-4, 4, 0.9, 0.4)
    assert RECIPES["kinetics_finetune_base"].settings.head_dropout == 0.3
    assert RECIPES["ssv2_pretrain_large"].clip_norm == 0.02
    twelve = RECIPES["imagenet12k"]
    assert (twelve.batch_size, twelve.lr, twelve.layer_decay, twelve.groups) == (512, 5e-4, 0.65, "birder")


def test_steps_and_epochs_exclude_each_other():
    """Taking one and dropping the other in silence would change the length of a run."""
    with pytest.raises(RecipeError, match="not both"):
        with_options(recipe_of({}), steps=3, epochs=2)
    assert with_options(recipe_of({"steps": 5}), epochs=2).steps is None


def test_every_key_is_documented():
    """A key that nobody can find in the documentation is a key that nobody sets."""
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text("utf-8")
    kinds = [Recipe, *(method.Settings for method in METHODS.values())]
    names = {field.name for kind in kinds for field in dataclasses.fields(kind)} - {"settings"}
    assert not sorted(name for name in names if f"`{name}`" not in text)
    for kind in kinds:  # `help` shows what a class says of its own keys
        documentation = inspect.cleandoc(kind.__doc__)  # Python 3.13 takes the indentation away itself
        own = [name for name in kind.__annotations__ if f"\n    {name}: " not in documentation]
        assert not own, kind


@pytest.mark.parametrize(
    ("theirs", "ours"), [("learning_rate", "lr"), ("wd", "weight_decay"), ("img_size", "input_size")]
)
def test_keys_of_other_trainers(theirs, ours):
    """By spelling, `learning_rate` is nearest to `linear_probe`, which would send a person the wrong way."""
    with pytest.raises(RecipeError, match=f"Did you mean '{ours}'"):
        with_options(recipe_of({}), **{theirs: 1})


def test_a_method_has_its_own_table(tmp_path):
    """Keys that end up at another method, or in none, would train with another setting than the person wrote."""
    flat = read_recipe(write(tmp_path, "task = 'pretrain'\nmask_ratio = 0.7\nflip = 0.0"), "pretrain")
    table = read_recipe(write(tmp_path, "method = 'mae'\n[mae]\nmask_ratio = 0.7\nflip = 0.0"), "pretrain")
    assert flat == table
    assert (flat.settings.mask_ratio, flat.settings.flip) == (0.7, 0.0)
    assert with_options(flat, mask_ratio=0.5, lr=1.0).settings == dataclasses.replace(flat.settings, mask_ratio=0.5)
    assert "[mae]\n" in to_toml(to_dict(flat))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mask_ratio = 0.5", "'supervised'.*'mask_ratio' is a key of 'mae'"),
        ("[mae]\nmask_ratio = 0.5", "'mae' is a table of 'mae'"),
        ("[before]\nmixup = 0.5", r"\[before\].*'mixup' is a key of 'supervised'"),
        ("method = 'mae'\ntask = 'finetune'", "for finetune.*'mae'.*pretrain"),
    ],
)
def test_keys_of_another_method_are_refused(tmp_path, text, words):
    """A person who sets mask_ratio for a classifier believes that something is hidden."""
    with pytest.raises(RecipeError, match=words):
        read_recipe(write(tmp_path, text), "finetune")
    with pytest.raises(RecipeError, match="An option.*'mask_ratio' is a key of 'mae'"):
        with_options(recipe_of({}), mask_ratio=0.5)


def test_recipes_that_hierax_0_1_wrote(tmp_path):
    """It wrote every key of every method; what a person set for another method was without effect even then."""
    common = to_dict(recipe_of({"steps": 3, "lr": 0.1}))
    mae = dataclasses.asdict(recipe_of({"method": "mae"}).settings)
    flat = {**mae, **common.pop("supervised"), **common}
    flat = {key: list(value) if isinstance(value, tuple) else value for key, value in flat.items() if value is not None}
    assert recipe_of({**flat, "mixup": 0.3}) == recipe_of({"steps": 3, "lr": 0.1, "mixup": 0.3})
    with pytest.raises(RecipeError, match="a key of 'mae'"):
        recipe_of({**flat, "decoder_dim": 64})


def test_a_method_is_asked_for_by_name():
    """The preset for one method under another would be neither's."""
    assert read_recipe(None, "pretrain").method == read_recipe(None, "pretrain", "mae").method == "mae"
    assert read_recipe(None, "finetune").method == "supervised"
    with pytest.raises(UnknownNameError, match=r"got \['mae'\]"):
        recipe_of({"method": ["mae"]})
    assert read_recipe(None, "pretrain", "dinov2").method == "dinov2"
    with pytest.raises(RecipeError, match="for finetune; got pretrain"):
        read_recipe("small_finetune", "pretrain", "supervised")
    with pytest.raises(RecipeError, match="method='mae'; got 'supervised'"):
        with_options(read_recipe("small_pretrain", "pretrain"), method="supervised")


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "recipes").glob("*.toml")), ids=lambda p: p.stem)
def test_shipped_recipes_are_read(path):
    """The command in a recipe's header is a promise; a key that moved breaks it without any other test noticing."""
    recipe = read_recipe(path, "finetune")
    assert recipe.before is not None
    assert recipe_of(to_dict(recipe)) == recipe
