"""Self-distillation from the first step to the last: what is logged, kept, frozen, written and refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from hierax.config import architecture
from hierax.errors import InputError, RecipeError
from hierax.registry import load
from hierax.train import checkpoint as checkpoints
from hierax.train import pretrain
from hierax.train.dinov2_auto import suited
from hierax.train.reading import recipe_of
from hierax.weights.card import ModelCard, Weights
from hierax.weights.safetensors_files import read_safetensors

from ..members import MEMBERS, coloured_classes, small_det, written
from . import runs
from .test_resume import killed_at_step, survive

SETTINGS = {
    **runs.SETTINGS, "steps": 6, "checkpoint_every": 2, "lr": 0.01, "batch_size": 4, "clip_norm": 1.0,
    "local_crops": 2, "local_size": 32, "prototypes": 32, "head_dim": 16, "bottleneck": 8, "drop_path": 0.2, "queue": 16,
    "freeze_steps": 1, "weight_decay_end": 0.4, "koleo_gathered": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dinov2")
    config = small_det((8, 4, 0, 0), head="norm_pool", input_size=(96, 96))
    return coloured_classes(folder / "data", per_class=3), written(config, folder / "start", "hierax")


def train(start, out, resume=False, **settings):
    return pretrain(start[0], out, method="dinov2", model=start[1], resume=resume, **{**SETTINGS, **settings})


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    return train(start, out), out


def saved(out):
    return checkpoints.newest(out / "checkpoints").tensors


def log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_what_a_run_says_and_yields(start, whole):
    """A result that is the student, a part of the loss that is left out of the sum, or health that nobody can read."""
    summary, out = whole
    assert np.isfinite(summary.losses).all()
    for line in log(out):
        parts = line["dino_local"] + line["dino_global"] + line["ibot"] + 0.1 * line["koleo"]
        assert line["loss"] == pytest.approx(parts, rel=1e-6)
        least = {"target_entropy": 0, "target_information": -1e-5, "prototype_share": 1 / 8, "agreement": 0}
        assert all(bound <= line[name] <= 1.000001 for name, bound in least.items())
    tensors, result = saved(out), runs.result(out)
    key = "patch_embed.proj.weight"
    assert torch.equal(result[key], tensors[f"method.teacher.encoder.{key}"])
    assert not torch.equal(result[key], tensors[f"model.encoder.{key}"])
    assert not any("head" in name or "mask" in name for name in result)
    heads, _ = read_safetensors(out / "heads.safetensors")
    assert torch.equal(heads["dino_head.last_layer.g"], tensors["method.teacher.dino_head.last_layer.g"])
    assert load(out / "model").embed(sorted(start[0].glob("*/*.png"))[:2]).shape == (2, 64)


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, start, whole):
    """A teacher, a queue or masks that begin anew change every later step."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        killed_at_step(monkeypatch, 5)
        assert runs.finished(runs.in_child(lambda: train(start, tmp_path / "killed"))) == -9
    assert train(start, tmp_path / "killed", resume=True).resumed_from == 4
    assert runs.identical(saved(whole[1]), saved(tmp_path / "killed"))
    assert runs.identical(runs.result(whole[1]), runs.result(tmp_path / "killed"))


KEPT = {
    "a queue": {},
    "a centre": {"centring": "centre", "queue": 0},
    "one head, parts": {"separate_heads": False, "accumulate": 2},
}


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("settings", KEPT.values(), ids=KEPT.keys())
def test_killed_at_random_steps_and_in_random_writes(tmp_path, start, settings, seed):
    """A kill at one chosen step misses what is lost only between a queue's rounds, in the thaw or in a write."""

    def run(out, resume, steps):
        train(start, out, resume, **{**settings, "steps": steps})

    whole, killed = survive(tmp_path, run, kills=3, seed=seed)
    assert runs.identical(whole, killed)
    tensors = saved(tmp_path / "whole")
    assert {"method.teacher.mask_token", "method.dino.queue", "method.ibot.centre"} <= tensors.keys()
    assert tensors["method.dino.centre"].any() == (settings.get("centring") == "centre")
    assert runs.identical(tensors, saved(tmp_path / "killed"))


def refused(start, out, said, **settings):
    with pytest.raises((RecipeError, InputError), match=said):
        train(start, out, **settings)
    assert not (out / "log.jsonl").exists()


BAD = {
    "a size that does not tile": ({"local_size": 98}, r"local_size .*multiple of 32x32.*98x98.*96x96 or 128x128"),
    "nothing hidden": ({"mask_ratio": 0}, "mask_ratio.* more than 0"),
    "no ratio": ({"mask_ratio": (0.0, 0.5)}, "mask_ratio.* more than 0"),
    "all hidden": ({"mask_ratio": (0.1, 1.0)}, "mask_ratio.* less than 1"),
    "a range that runs backwards": ({"mask_ratio": (0.5, 0.1)}, "mask_ratio must be .smallest, largest."),
    "an input that does not tile": ({"input_size": 100}, "multiple of 32x32"),
    "one image a part": ({"accumulate": 4}, "at least 2 images; got 1 .*koleo_weight=0"),
    "one average too many": ({"ema_decay": 0.9}, "ema_decay must be 0.*teacher"),
    "no such heads": ({"heads": "nowhere.safetensors"}, "heads must be 'auto', 'fresh' or a file"),
    "a misspelt policy": ({"augmentation": "dino"}, "augmentation"),
}


@pytest.mark.parametrize(("settings", "said"), BAD.values(), ids=BAD.keys())
def test_refused_before_the_first_step(tmp_path, start, settings, said):
    """Each of these ends in a shape error, a NaN or a run that learns nothing."""
    refused(start, tmp_path / "out", said, **settings)


def test_data_that_teaches_nothing(tmp_path, start, capsys):
    """One image has nothing to be told apart from; small ones are enlarged, and that is said."""
    one = coloured_classes(tmp_path / "one", per_class=1, classes=1)
    refused((one, start[1]), tmp_path / "a", "at least 2; the data has 1")
    train(start, tmp_path / "b", steps=1)
    said = capsys.readouterr().err
    assert "9 of 9 images that were looked at are smaller than a crop, 96x96, the smallest" in said
    assert "crops of 96x96 pixels have 9 cells to hide" in said


FAMILIES = {
    "fixed windows": small_det((8, 4, 14, 7), head="norm_pool", input_size=(96, 96)),
    "a bare trunk": small_det((8, 4, 14, 7), head="pool", input_size=(96, 96)),
    "abswin": MEMBERS["birder abswin, attention pool"],
    "timm's abswin": MEMBERS["timm small abswin"],
    "plain": MEMBERS["Hiera"],
    "a masked autoencoder": MEMBERS["Hiera MAE"],
}


@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES.keys())
def test_every_family(tmp_path, start, config, capsys):
    """Windows of 14, attention pooling, branch scales, a trunk without a norm: what a family has must reach the result."""
    model = written(config, tmp_path / "start", "hierax")
    plain = config.position == "grid"
    sizes = {
        "local_size": None if plain else 32,
        "separate_heads": not plain,
        "centring": "centre" if plain else "sinkhorn",
    }
    summary = train((start[0], model), tmp_path / "out", steps=1, warm_start_heads=0, **sizes)
    assert np.isfinite(summary.losses).all()
    assert "trained alone" not in capsys.readouterr().err  # they are not
    before, after = read_safetensors(model / "model.safetensors")[0], runs.result(tmp_path / "out")
    assert before.keys() - after.keys() <= {name for name in before if "head" in name or "decoder" in name or "mask" in name
                                            or "encoder_norm" in name}  # fmt: skip
    assert after["norm.weight"].shape == (64,)
    if plain:
        refused(
            (start[0], model), tmp_path / "b", r"Plain Hiera takes one size only.*local_size=32.*64x64", local_size=32
        )


def test_going_on_with_heads(tmp_path, start, whole):
    """A backbone whose heads are fresh forgets what it knows: heads are taken along, or warmed up alone."""
    _, out = whole
    saved_heads = read_safetensors(out / "heads.safetensors")[0]
    train((start[0], out / "model"), tmp_path / "a", steps=1, lr=0.0, teacher_momentum=1.0)
    again = read_safetensors(tmp_path / "a" / "heads.safetensors")[0]
    assert runs.identical(again, saved_heads)
    refused((start[0], out / "model"), tmp_path / "b", "'prototypes': 32.*heads=fresh", prototypes=48)

    settings = {"steps": 2, "heads": "fresh", "warm_start_heads": 1, "teacher_momentum": 0.5}
    train((start[0], out / "model"), tmp_path / "c", **{**settings, "steps": 1})
    assert runs.identical(runs.result(tmp_path / "c"), runs.result(out))
    heads = read_safetensors(tmp_path / "c" / "heads.safetensors")[0]
    assert heads["dino_head.mlp.0.weight"].abs().sum() > 0
    train((start[0], out / "model"), tmp_path / "d", **settings)
    assert not runs.identical(runs.result(tmp_path / "d"), runs.result(out))


def test_what_is_frozen_stays(tmp_path, start):
    """By weights, not by flags: momentum or weight decay would still move it. A rate of 0 keeps gradients for clipping."""
    first = {"steps": 1, "freeze_steps": 0, "lr": 0.0}
    head, other = "model.dino_head.last_layer.v", "model.dino_head.mlp.0.weight"
    train(start, tmp_path / "first", **first)
    norms = {}
    for freeze in ("gradient", "lr"):
        out = tmp_path / freeze
        train(start, out, steps=2, freeze_steps=2, freeze=freeze)
        tensors, begun = saved(out), saved(tmp_path / "first")
        assert torch.equal(tensors[head], begun[head])
        assert not torch.equal(tensors[other], begun[other])
        norms[freeze] = log(out)[0]["gradient_norm"]
    assert norms["lr"] > norms["gradient"]


def test_memory_for_time_is_the_same_run(tmp_path, start):
    """Blocks and heads that are computed again must drop the same paths."""
    for name, saves in (("kept", False), ("again", True)):
        train(start, tmp_path / name, steps=2, checkpoint_blocks=saves)
    a, b = (runs.result(tmp_path / name) for name in ("kept", "again"))
    assert max((a[name] - b[name]).abs().max().item() for name in a) < 1e-6


def for_network(name: str, **options) -> dict:
    weights = Weights(card=ModelCard(config=architecture(name)))
    recipe = recipe_of({"task": "pretrain", "method": "dinov2", **options})
    return suited(2000, weights, recipe, options)[0]


def test_blocks_are_computed_twice_where_memory_would_run_out():
    """32 images of HieraDet-S, the default batch, took 18 GB: the run was killed on a machine of 24."""
    assert for_network("hieradet_d_small")["checkpoint_blocks"]
    assert "checkpoint_blocks" not in for_network("hiera_nano_96")
    assert "checkpoint_blocks" not in for_network("hieradet_d_small", batch_size=32, accumulate=8)
    assert "checkpoint_blocks" not in for_network("hieradet_d_small", checkpoint_blocks=False)


def test_a_bare_command_suits_the_data(tmp_path, start, capsys):
    """The published settings give each of a few images' prototypes a sample in a thousand steps."""
    settings = {
        "device": "cpu",
        "workers": 0,
        "steps": 2,
        "head_dim": 16,
        "bottleneck": 8,
        "local_crops": 1,
        "local_size": 32,
    }
    pretrain(start[0], tmp_path / "out", method="dinov2", model=start[1], **settings)
    said = capsys.readouterr().err
    assert "recipe auto: 2 steps of 9; 256 prototypes (about one for 16 images, at least 256), balanced over 18" in said
    recipe = (tmp_path / "out" / "recipe.toml").read_text()
    assert "prototypes = 256" in recipe
    assert "queue = 18" in recipe
    again = pretrain(start[0], tmp_path / "out", method="dinov2", model=start[1], resume=True, **settings)
    assert again.resumed_from == 2


TARGETS = {
    "balanced with a queue": {"centring": "sinkhorn", "queue": 12, "koleo_gathered": True},
    "centred": {"centring": "centre", "queue": 0, "koleo_weight": 0.0, "separate_heads": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("settings", TARGETS.values(), ids=TARGETS.keys())
def test_two_processes_are_one(tmp_path, start, settings):
    """Balance, centre, queue, masks and neighbours of each process by itself would make another run of it."""
    given = {**settings, "drop_path": 0.0, "steps": 3, "clip_norm": None, "warm_start_heads": 0}
    # Biases of keys have no gradient but rounding, which AdamW makes steps of: the rate bounds how far they come apart.
    given |= {"lr": 6.25e-5, "lr_batch": 4, "teacher_temperature": 0.07}
    train(start, tmp_path / "one", **given)
    assert runs.in_processes(lambda: train(start, tmp_path / "two", **given), 2) == [0, 0]
    one, two = saved(tmp_path / "one"), saved(tmp_path / "two")
    assert one.keys() == two.keys()
    apart = {
        name: (one[name].double() - two[name].double()).abs().max().item() / max(1, one[name].abs().max().item())
        for name in one
        if not name.startswith("optimizer.") and one[name].numel()
    }
    assert {name: value for name, value in apart.items() if value > 2e-5} == {}
    for a, b in zip(log(tmp_path / "one"), log(tmp_path / "two"), strict=True):
        for name in ("loss", "ibot", "target_entropy", "prototype_share", "agreement"):
            assert a[name] == pytest.approx(b[name], rel=1e-4), name


@pytest.mark.slow
def test_a_process_that_could_read_nothing_keeps_up(tmp_path, start):
    """It has no row to give, and the others wait for it in every sum: a part that is left out hangs them."""
    data = coloured_classes(tmp_path / "data", per_class=1)
    (data / "class_0" / "0.png").write_bytes(b"no image")
    given = {"batch_size": 2, "steps": 3, "koleo_gathered": True, "queue": 4}
    assert runs.in_processes(lambda: train((data, start[1]), tmp_path / "two", **given), 2) == [0, 0]
    assert runs.summary(tmp_path / "two")["skipped_steps"] == 0
    assert all(torch.isfinite(tensor).all() for tensor in saved(tmp_path / "two").values())


@pytest.mark.slow
def test_sharded_weights_have_a_whole_teacher(tmp_path, start):
    """A teacher that averages one process's share of the student is nobody's."""
    given = {"drop_path": 0.0, "steps": 2, "clip_norm": None, "warm_start_heads": 0, "lr": 1e-3}
    train(start, tmp_path / "one", **given)
    work = lambda: train(start, tmp_path / "two", sharding="fsdp2", **given)  # noqa: E731
    assert runs.in_processes(work, 2) == [0, 0]
    one, two = runs.result(tmp_path / "one"), runs.result(tmp_path / "two")
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-4
