"""The recipe that is chosen for the data: what each rule gives, that it is said, written down, and overruled."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from PIL import Image

from hierax.config import architecture
from hierax.errors import UnknownNameError
from hierax.registry import load
from hierax.schema import read_toml
from hierax.train import finetune
from hierax.train.auto import Facts, chosen
from hierax.train.look import Look, Mirror, look, mirror
from hierax.train.probe import left_out
from hierax.train.reading import read_recipe, recipe_of, to_dict, with_options

from ..members import coloured_classes, save_learner
from . import runs

NANO, TINY, LARGE = (architecture(f"hiera_{name}") for name in ("nano_96", "tiny_224", "large_224"))
HARMLESS = Mirror(looked=100, plain=80, mirrored=78, chance=10.0)
CHANGED = Mirror(looked=100, plain=80, mirrored=30, chance=10.0)


def choose(asked=None, mirror=CHANGED, sizes=(), flat=0, **facts):
    seen = Look(mirror, tuple(sizes), flat)
    known = {"samples": 300, "classes": 10, "held": 30, "config": NANO, "started": True, "seen": seen, **facts}
    asked = asked or {}
    return chosen(with_options(recipe_of({}), **asked), asked, Facts(**known))


@pytest.mark.parametrize(
    ("facts", "steps", "batch"),
    [
        ({"samples": 16}, 600, 16),  # a floor in passes would be 30 steps here
        ({"samples": 300}, 600, 16),
        ({"samples": 999}, 1874, 16),
        ({"samples": 1000}, 938, 32),
        ({"samples": 100_000}, 93_750, 32),
        ({"samples": 100, "config": TINY}, 300, 16),
        ({"samples": 100, "config": TINY, "started": False}, 600, 16),
        ({"samples": 100, "parts": 6}, 600, 18),  # three processes of two parts: 16 cannot be shared out
    ],
)
def test_length(facts, steps, batch):
    """A small set gets steps, a large one passes."""
    recipe, _ = choose(**facts)
    assert (recipe.steps, recipe.batch_size) == (steps, batch)
    assert recipe.warmup_steps == math.ceil(steps / 20)
    assert recipe.ema_warmup
    assert recipe.ema_decay == pytest.approx(1 - 20 / steps, abs=1e-4)


@pytest.mark.parametrize(
    ("config", "started", "rate", "decay"),
    [
        (NANO, True, 1.5e-3, 0.75),
        (NANO, False, 1.5e-3, 1.0),
        (TINY, True, 2e-3 / 8, 0.75),
        (TINY, False, 2e-3 / 8, 1.0),
        (LARGE, True, 1e-3 / 8, 0.75),
    ],
)
def test_rates(config, started, rate, decay):
    """The paper's rates at batch 1024, by the square root of the batch; random layers learn at the full rate."""
    recipe, _ = choose(config=config, started=started)
    assert recipe.peak_lr == pytest.approx(rate, rel=0.05)
    assert recipe.layer_decay == decay


def test_features_that_fit_are_spared():
    """Trained at full rates, a network that knew the classes already forgets: 84 % where a linear probe has 95 %."""
    recipe, lines = choose(told_apart=0.95, samples=100)
    assert (recipe.steps, recipe.groups) == (300, "birder")
    assert recipe.layer_decay == 0.1
    assert "the network tells 95% apart already" in lines[1]
    assert choose(told_apart=0.85)[0].layer_decay == 0.75
    assert choose(told_apart=0.95, started=False)[0].layer_decay == 1.0


def test_leaving_one_out_is_exact():
    """The short formula against fitting once for every row that is left out."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 8)
    rows = rng.normal(size=(24, 6)) + 1.2 * np.eye(6)[labels]
    scaled = (rows - rows.mean(0)) / (rows.std(0) + 1e-6)
    targets = np.eye(3)[labels] - np.eye(3)[labels].mean(0)
    kernel = scaled @ scaled.T / 6 + 1 / 24
    right = 0
    for out in range(24):
        rest = np.delete(np.arange(24), out)
        weights = np.linalg.solve(kernel[np.ix_(rest, rest)] + 0.1 * np.eye(23), targets[rest])
        right += (kernel[out, rest] @ weights).argmax() == labels[out]
    assert left_out(rows, labels) == pytest.approx(right / 24)
    assert 0.5 < right / 24 < 1.0
    assert left_out(rng.normal(size=(200, 6)), np.arange(200) % 2) < 0.65  # fitted to each row itself it would be 1
    assert left_out(rng.normal(size=(3, 6)), np.arange(3)) == 0.0  # no class has another row: nothing can be told


def test_rare_classes_count_as_much_as_frequent_ones():
    """93 % of 150 and 50 common digits hid that the rare ones were not known: spared, the network never learned them."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [60, 30, 3])
    rows = rng.normal(size=(93, 6)) + 4 * np.eye(6)[[0] * 60 + [1] * 30 + [0] * 3]  # the rare ones look like the first
    assert 0.6 < left_out(rows, labels) < 0.7


def test_what_is_asked_for_wins():
    """A choice that overrules the person, or one that contradicts what the person asked for, fails."""
    recipe, lines = choose(
        {"steps": 7, "lr": 0.5, "flip": 1.0, "crop_scale": [0.1, 0.2], "ema_decay": 0.0, "batch_size": 3}
    )
    assert (recipe.steps, recipe.lr, recipe.batch_size, recipe.ema_decay) == (7, 0.5, 3, 0.0)
    assert (recipe.settings.flip, recipe.settings.crop_scale) == (1.0, (0.1, 0.2))
    assert recipe.warmup_steps == 1
    assert sum("as asked" in line for line in lines) == 3
    recipe, _ = choose({"epochs": 2.0, "warmup_epochs": 1.0})
    assert recipe.steps is None
    assert recipe.warmup_steps is None
    half, _ = choose({"batch_size": 4})  # a rate for another batch would be twice too high
    assert half.lr == pytest.approx(choose()[0].lr / 2, rel=0.05)
    probe, _ = choose({"linear_probe": True})
    assert (probe.lr, probe.layer_decay, probe.weight_decay) == (1e-3, 1.0, 1e-4)


def test_validations_cost_little():
    """Ten a run; with many images to validate on fewer, or validating would take longer than training."""
    assert choose(held=30)[0].validate_every == 60
    assert choose(held=0)[0].validate_every == 0
    every = choose(held=1600)[0].validate_every
    assert every == math.ceil(1600 / 3 / 1.6)
    assert choose(held=100_000)[0].validate_every == 0


def test_three_lines_say_what_and_why():
    """A person who is not told cannot object."""
    recipe, lines = choose(mirror=HARMLESS)
    assert len(lines) == 3
    assert "600 steps of 16" in lines[0]
    assert "300 samples of 10 classes" in lines[0]
    assert "0.0015" in lines[1]
    assert "flips on (of 100 thumbnails 80 are nearest to their own class, mirrored 78)" in lines[2]
    assert recipe.settings.flip == 0.5
    assert "flips off (of 100" in choose(mirror=CHANGED)[1][2]
    assert "flips off (thumbnails" in choose(mirror=Mirror())[1][2]


def pictures(draw, per_class=20, classes=2):
    """Thumbnails of noisy drawings, and their labels."""
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(classes), per_class)
    return np.stack([draw(label) + rng.normal(0, 0.2, (12, 12, 3)) for label in labels]).astype(np.float32), labels


def half(side):
    """Bright on one side, left, right, top or bottom."""
    image = np.zeros((12, 12, 3))
    image[(np.s_[:], np.s_[:], np.s_[:6], np.s_[6:])[side], (np.s_[:6], np.s_[6:], np.s_[:], np.s_[:])[side]] = 1
    return image


def test_flips_are_on_only_where_they_are_seen_to_be_harmless():
    """A mirrored left half is a right half; a top half stays one; noise tells nothing, and then flips stay off."""
    assert not mirror(*pictures(half)).harmless
    assert mirror(*pictures(lambda label: half(label + 2))).harmless
    noise = mirror(*pictures(lambda label: np.zeros((12, 12, 3))))
    assert not noise.telling
    assert not noise.harmless


def test_one_pair_of_mirrored_classes_among_many_is_enough():
    """Over all twelve classes mirrored images keep most of what is told, yet two of them exchange their labels."""
    rng = np.random.default_rng(1)
    even = [np.where(np.arange(12)[:, None, None] == row, 1.0, 0.0) + np.zeros((12, 12, 3)) for row in range(10)]
    left = rng.normal(size=(12, 12, 3))
    found = mirror(*pictures(lambda label: [*even, left, left[:, ::-1]][label], classes=12))
    assert found.mirrored >= 0.8 * found.plain
    assert found.changed == (10, 11)
    assert not found.harmless


def test_a_look_survives_what_cannot_be_read(tmp_path):
    """The run names unreadable files later; the look must not end it."""
    from hierax.data.datasets.open import open_data

    folder = coloured_classes(tmp_path / "data", per_class=3)
    (folder / "class_0" / "000.png").write_bytes(b"broken")
    data = open_data(folder)
    found = look(data)
    assert found.mirror.looked == len(found.sizes) == len(data) - 1
    assert (set(found.sizes), found.flat) == ({(72, 80)}, 0)
    for path in folder.glob("*/*"):
        path.write_bytes(b"broken")
    assert look(data) == Look()


def test_the_recipe_that_was_written_gives_the_same_run(tmp_path, capsys):
    """A key that is chosen but not written, or written but not taken, makes the second run another one."""
    data, model = coloured_classes(tmp_path / "data", per_class=4), save_learner(tmp_path / "start")
    few = {"steps": 3, "device": "cpu", "workers": 0}
    finetune(data, tmp_path / "one", model=model, recipe="auto", **few)
    said = capsys.readouterr().err
    assert said.count("recipe auto:") == 3
    finetune(data, tmp_path / "two", model=model, recipe=tmp_path / "one" / "recipe.toml")
    assert "recipe auto:" not in capsys.readouterr().err
    assert runs.identical(runs.result(tmp_path / "one"), runs.result(tmp_path / "two"))
    written = read_toml(tmp_path / "one" / "recipe.toml", what="A recipe")
    assert "auto" not in str({key: value for key, value in written.items() if key not in ("device", "precision")})
    finetune(data, tmp_path / "three", model=model, **few)  # the default
    assert runs.identical(runs.result(tmp_path / "one"), runs.result(tmp_path / "three"))


def test_resume_keeps_what_was_chosen(tmp_path, capsys, monkeypatch):
    """Choosing again with other rules, of a later version, would refuse to go on with a run of this one."""
    data, model = coloured_classes(tmp_path / "data", per_class=4), save_learner(tmp_path / "start")
    few = {"steps": 3, "device": "cpu", "workers": 0}
    first = finetune(data, tmp_path / "out", model=model, **few)
    monkeypatch.setattr("hierax.train.auto.LEAST_STEPS", 5)
    monkeypatch.setattr("hierax.train.auto._BATCH", 2)
    monkeypatch.setattr("hierax.train.auto._SMALL_BATCH", 2)
    again = finetune(data, tmp_path / "out", model=model, resume=True, **few)
    assert again.resumed_from == 3
    assert first.losses == again.losses


def test_auto_is_for_fine_tuning():
    """Whoever misspells it is shown it, and pretraining does not promise it."""
    with pytest.raises(UnknownNameError, match="Did you mean 'auto'"):
        read_recipe("autp", "finetune")
    with pytest.raises(UnknownNameError, match="Presets: small_finetune"):
        read_recipe("auto", "pretrain")


def test_what_is_chosen_survives_toml():
    """Numbers that no file can hold exactly would make the written recipe another one."""
    recipe, _ = choose(samples=12_345, config=LARGE)
    assert recipe_of(to_dict(recipe)) == recipe
    assert dataclasses.replace(recipe, steps=1) != recipe


@pytest.mark.parametrize(
    ("side", "asked", "said"), [(28, {}, "input_size=32"), (28, {"input_size": 64}, ""), (60, {}, "")]
)
def test_small_images_are_told_of(side, asked, said, tmp_path, capsys):
    """Digits of 28 pixels took three times as long at 96 as at 32, for nothing; the size stays that of the weights."""
    data = coloured_classes(tmp_path / "data", per_class=2)
    for path in data.glob("*/*"):
        with Image.open(path) as image:
            image.resize((side, side)).save(path)
    settings = {"steps": 1, "workers": 0, "device": "cpu", "checkpoint_every": 0, "batch_size": 2, **asked}
    done = finetune(data, tmp_path / "out", model="hiera_nano_96", recipe="small_finetune", **settings)
    words = capsys.readouterr().err
    assert ("images of about 28 pixels are enlarged to 96x96" in words) == bool(said)
    assert said in words
    side = asked.get("input_size", 96)
    assert load(done.model).card.config.input_size == (side, side)


TALL = [(200, 16)] * 20


def test_strips_are_brought_whole_to_an_input_of_their_shape():
    """Cropped to a square, a strip of 16 x 200 loses eleven twelfths, and six classes were told apart as by accident."""
    recipe, lines = choose(sizes=TALL)
    assert (recipe.settings.resize, recipe.input_size) == ("squash", (352, 32))
    assert len(lines) == 3
    assert "brought whole to 352x32: of 100% a crop of 96x96 shows less than half, about 8%" in lines[2]
    assert recipe_of(to_dict(recipe)) == recipe
    mixed, _ = choose(sizes=[(200, 16), (16, 200)] * 10)
    assert (mixed.settings.resize, mixed.input_size) == ("squash", None)


@pytest.mark.parametrize(
    "sizes", [[(200, 300)] * 9, [(1080, 1920)] * 9, [(1024, 768)] * 9, [(90, 90)] * 9 + TALL[:1], []]
)
def test_photographs_are_cropped_as_ever(sizes):
    """Another default for 3:2, 4:3 or 16:9 would change every run that works."""
    recipe, lines = choose(sizes=sizes)
    assert (recipe.settings.resize, recipe.input_size) == (None, None)
    assert lines[2].endswith("of the area")


def test_how_images_become_the_input_can_be_said():
    """A choice that overrules the person fails, as does one that changes the size that was asked for."""
    cropped, lines = choose({"resize": "shortest"}, sizes=TALL)
    assert (cropped.settings.resize, cropped.input_size) == ("shortest", None)
    assert "whole" not in lines[2]
    sized, lines = choose({"input_size": 96}, sizes=TALL)
    assert (sized.settings.resize, sized.input_size) == ("squash", 96)
    assert "brought whole to 96x96" in lines[2]
    squashed, _ = choose({"resize": "squash"}, sizes=[(90, 90)])
    assert (squashed.settings.resize, squashed.input_size) == ("squash", None)


def banded(folder, sizes, per_class=4):
    """Strips whose class is where they are bright: at one end or at the other."""
    for label in (0, 1):
        for index in range(per_class):
            height, width = sizes[index % len(sizes)]
            pixels = np.random.default_rng(index).integers(0, 90, (height, width, 3), np.uint8)
            part = np.s_[: height // 6] if label else np.s_[-(height // 6) :]
            (pixels if height > width else pixels.swapaxes(0, 1))[part] += 120
            (folder / f"class_{label}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"class_{label}" / f"{index}.png")
    return folder


def test_the_result_sees_what_training_saw(tmp_path, capsys):
    """Without its preprocess on the card, `classify` would show the network a crop that it never learned from."""
    data, model = banded(tmp_path / "data", [(300, 30)]), save_learner(tmp_path / "start")
    few = {"steps": 2, "device": "cpu", "workers": 0, "validation_fraction": 0.25}
    done = finetune(data, tmp_path / "one", model=model, **few)
    said = capsys.readouterr().err
    assert "brought whole to 160x32" in said
    assert "input 160x32" in said
    made = load(done.model)
    assert made.card.config.input_size == made.preprocess.size == (160, 32)
    assert (made.preprocess.resize, made.preprocess.crop_ratio) == ("squash", 1.0)
    one, other = (Image.open(tmp_path / f"data/class_{label}/0.png") for label in (0, 1))
    assert (made.prepare(one)[:, :20] - made.prepare(other)[:, :20]).abs().mean() > 0.5  # the end that tells
    again = finetune(data, tmp_path / "one", model=model, resume=True, **few)
    assert again.resumed_from == 2
    capsys.readouterr()
    finetune(data, tmp_path / "two", model=model, recipe="small_finetune", **{**few, "steps": 1})
    assert "--set resize=squash input_size=[160,32]" in capsys.readouterr().err


def test_images_without_contrast_are_told_of(tmp_path):
    """White on transparent shows white on white, and twelve bits of sixteen nearly black; both learn nothing in silence."""
    from hierax.data.datasets.open import open_data

    level = np.random.default_rng(0).integers(0, 4096, (20, 20)).astype(np.uint16)
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        Image.fromarray(level).save(tmp_path / label / "dark.png")
        clear = np.dstack([np.full((20, 20, 3), 255), level >> 4]).astype(np.uint8)
        Image.fromarray(clear, "RGBA").save(tmp_path / label / "white.png")
        Image.fromarray((level >> 4).astype(np.uint8)).save(tmp_path / label / "plain.png")
    found = look(open_data(tmp_path))
    assert (len(found.sizes), found.flat) == (6, 4)
    lines = choose(sizes=found.sizes, flat=found.flat)[1]
    assert "4 of 6 images that were looked at are of one colour" in lines[3]
    assert len(choose(sizes=found.sizes, flat=0)[1]) == 3
