"""Parameter groups, layer decay, schedules and averages against closed forms."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from hierax.config import ARCHITECTURES
from hierax.model.init import build
from hierax.train.optim import AveragedWeights, learning_rate, parameter_groups, warmup_steps
from hierax.train.presets import PRESETS
from hierax.train.reading import recipe_of
from hierax.train.recipe import Recipe

NAMES = sorted(ARCHITECTURES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("style", ["meta", "birder"])
def test_every_parameter_once_with_its_rate(name, style):
    """A parameter in no group would never train, in two groups twice; a shifted layer id changes every rate."""
    config = dataclasses.replace(ARCHITECTURES[name], num_classes=0 if ARCHITECTURES[name].decoder else 7)
    module = build(config, device="meta")
    recipe = Recipe(layer_decay=0.65, weight_decay=0.05, groups=style)
    groups = parameter_groups(module, config, recipe)
    listed = [n for group in groups for n in group["names"]]
    assert sorted(listed) == sorted(n for n, _ in module.named_parameters())
    depth = sum(config.depths)
    last = depth if style == "meta" else depth + 1
    rate = {n: (group["lr_scale"], group["weight_decay"]) for group in groups for n in group["names"]}
    shapes = {n: p.ndim for n, p in module.named_parameters()}
    for n, (scale, decay) in rate.items():
        bare = n.removeprefix("encoder.")
        if bare.startswith("blocks."):
            layer = int(bare.split(".")[1]) + 1
        else:
            layer = 0 if bare.startswith(("patch_embed", "pos_embed")) else last
        assert scale == pytest.approx(0.65 ** (last - layer)), n
        spared = "norm" in n if style == "birder" else shapes[n] == 1 or bare.startswith("pos_embed")
        assert decay == (0.0 if spared else 0.05), n


def test_birder_head_is_one_layer_later():
    """The known figures of HieraDet-S: last block 0.65, patch embedding 0.65 ** 17."""
    config = dataclasses.replace(ARCHITECTURES["hieradet_small"], num_classes=3)
    module = build(config, device="meta")
    groups = parameter_groups(module, config, Recipe(layer_decay=0.65, groups="birder"))
    scales = {n: group["lr_scale"] for group in groups for n in group["names"]}
    assert scales["head.projection.weight"] == 1.0
    assert scales["blocks.15.mlp.fc1.weight"] == pytest.approx(0.65)
    assert scales["patch_embed.proj.weight"] == pytest.approx(0.65**17)
    assert len({round(value, 12) for value in scales.values()}) == 18


def test_mask_token_and_decoder_positions_decay():
    """Sparing everything with `pos_embed` in its name would spare the decoder's too."""
    config = ARCHITECTURES["mae_hiera_tiny_224"]
    groups = parameter_groups(build(config, device="meta"), config, Recipe(weight_decay=0.05))
    decay = {n: group["weight_decay"] for group in groups for n in group["names"]}
    assert decay["mask_token"] == decay["decoder_pos_embed"] == 0.05
    assert decay["encoder.pos_embed"] == 0.0


@pytest.mark.parametrize(("total", "warmup"), [(100, 10), (7, 0), (50, 50), (1, 0)])
def test_schedule(total, warmup):
    """Off by one in the warm-up or the cosine moves one of these values."""
    recipe, length = Recipe(lr=2.0, min_lr=0.5), {"total": total, "warmup": warmup}
    rates = [learning_rate(step, recipe, **length) for step in range(total)]
    for step, rate in enumerate(rates):
        if step < warmup:
            assert rate == pytest.approx(2.0 * (step + 1) / warmup)
        else:
            progress = (step - warmup) / (total - warmup)
            assert rate == pytest.approx(0.5 + 1.5 * 0.5 * (1 + math.cos(math.pi * progress)))
    assert max(rates) == 2.0
    assert learning_rate(total, recipe, **length) == pytest.approx(0.5 if total > warmup else 2.0)
    assert learning_rate(total - 1, Recipe(lr=2.0, schedule="constant"), **length) == 2.0


def test_average_is_the_geometric_sum():
    """A decay on the wrong side, or swapping that loses one of the two, fails."""
    parameter = torch.nn.Parameter(torch.tensor([0.0]))
    average = AveragedWeights([("p", parameter)], 0.9)
    for value in (1.0, 2.0, 3.0):
        parameter.data.fill_(value)
        average.update([("p", parameter)])
    expected = 0.1 * (3 + 0.9 * 2 + 0.81 * 1)
    assert average.values["p"].item() == pytest.approx(expected)
    average.swap([("p", parameter)])
    assert parameter.item() == pytest.approx(expected)
    average.swap([("p", parameter)])
    assert parameter.item() == 3.0


def test_average_warms_up():
    """The t-th average takes min(decay, (1 + t) / (10 + t)), t from 0: without it a short run is mostly where it began."""
    parameter, expected = torch.nn.Parameter(torch.tensor([8.0], dtype=torch.float64)), 8.0
    average = AveragedWeights([("p", parameter)], 0.3, warmup=True)
    for count in range(40):
        parameter.data.fill_(count)
        average.update([("p", parameter)])
        decay = min(0.3, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * count
        assert average.values["p"].item() == pytest.approx(expected, rel=1e-5)
    assert average.updates == 40


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_no_preset_warms_up_for_most_of_a_short_run(name):
    """`--steps 20` of a preset with 40 epochs of warm-up would never leave the first percent of its rate."""
    recipe = recipe_of(PRESETS[name])
    assert warmup_steps(recipe, samples=1_281_167, total=20) <= 4
    full = math.ceil(recipe.warmup_epochs / recipe.repeats * 1_281_167 / (recipe.batch_size // recipe.repeats))
    total = round(recipe.epochs / recipe.repeats * 1_281_167 / (recipe.batch_size // recipe.repeats))
    assert warmup_steps(recipe, samples=1_281_167, total=total) == full  # the published runs as they are
    assert warmup_steps(Recipe(warmup_steps=50), samples=10, total=20) == 50
