"""Whole runs: that they learn, that they fail where they should, and that processes change nothing."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hierax.data.datasets.open import open_data
from hierax.data.datasets.samples import Subset
from hierax.errors import HieraxError, InputError, RecipeError, UnknownNameError
from hierax.registry import convert, load
from hierax.train import finetune, pretrain
from hierax.train.batches import Views
from hierax.train.methods.mae import MaskedPretraining
from hierax.train.methods.supervised import Supervised
from hierax.train.pictures import first_views
from hierax.train.reading import recipe_of
from hierax.visualize import charts, sheets
from hierax.visualize.reconstruction import reconstruction

from ..members import coloured_classes, learner, save_learner
from . import runs

PLAIN = {**runs.SETTINGS, "drop_path": 0.0, "ema_decay": 0.0, "layer_decay": 1.0}
SHARDINGS = ["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)]


@pytest.fixture
def start(tmp_path):
    return (
        coloured_classes(tmp_path / "data", per_class=6),
        save_learner(tmp_path / "start"),
        save_learner(tmp_path / "mae", decoder=True),
    )


@pytest.mark.drawn
def test_learns_and_everything_is_written(tmp_path, start):
    """Colours are separable in a few dozen steps; a trainer with a wrong sign, label or rate stays at 1/3."""
    settings = {**PLAIN, "lr": 4e-3, "validation_fraction": 0.34}
    summary = finetune(start[0], tmp_path / "out", model=start[1], steps=25, **settings)
    assert summary.metrics["top1"] == 1.0
    assert summary.metrics["total"] == 6
    for name in ("recipe.toml", "run.json", "summary.json", "log.jsonl", "curves.png", "confusion.png", "model"):
        assert (tmp_path / "out" / name).exists(), name
    predictor = load(tmp_path / "out" / "model")
    assert predictor.labels == ["class_0", "class_1", "class_2"]
    rows = predictor.classify(sorted(start[0].glob("*/*.png")), top_k=1)
    assert [row[0].label for row in rows].count("class_1") == 6
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["samples"] == 12
    assert run["fingerprint"]


def test_parents_licence_is_carried_over(tmp_path, start):
    """Dropping it would turn non-commercial weights into free ones."""
    finetune(start[0], tmp_path / "out", model=start[1], steps=1, **PLAIN)
    config = json.loads((tmp_path / "out" / "model" / "config.json").read_text())
    assert config["license"] == "cc-by-nc-4.0"
    assert config["commercial"] is False
    assert config["base_model"] == "someone/tiny"
    assert str(tmp_path) not in json.dumps(config)


def test_same_seed_same_losses(tmp_path, start):
    """Any draw that does not come from the seed shows in the losses."""
    settings = {**PLAIN, "steps": 4, "drop_path": 0.3, "mixup": 0.8, "cutmix": 1.0, "erasing": 0.5}
    one, two = (finetune(start[0], tmp_path / n, model=start[1], **settings) for n in ("a", "b"))
    other = finetune(start[0], tmp_path / "c", model=start[1], seed=1, **settings)
    assert one.losses == two.losses != other.losses
    assert runs.identical(runs.result(tmp_path / "a"), runs.result(tmp_path / "b"))


def test_lr_zero_trains_nothing(tmp_path, start):
    """Negative control: if this changed weights, something besides the optimiser would be writing them."""
    finetune(start[0], tmp_path / "out", model=start[1], steps=3, **{**PLAIN, "lr": 0.0})
    before, after = load_file(start[1] / "model.safetensors"), runs.result(tmp_path / "out")
    assert all(torch.equal(before[key], after[key]) for key in before if key in after)


def test_shuffled_labels_teach_nothing(tmp_path, start):
    """Negative control: held-out accuracy far above chance would mean that labels leak."""
    data = open_data(coloured_classes(tmp_path / "more", per_class=12))
    shuffled = Subset(data, np.arange(len(data)))
    shuffled.labels = np.arange(len(data)) % 3  # the same number of every class under each label
    summary = finetune(
        shuffled, tmp_path / "out", model=start[1], steps=25, validation=str(start[0]), **{**PLAIN, "lr": 4e-3}
    )
    assert summary.metrics["top1"] < 0.8


def test_nan_is_skipped_then_stops_with_the_batch(tmp_path, start, monkeypatch):
    """Stepping on a NaN gradient would poison every weight; stopping at the first would waste the run."""
    real, calls = Supervised.loss, []

    def loss(self, model, part, context):
        value, shown = real(self, model, part, context)
        calls.append(context.step)
        return (value * math.nan if context.step in poisoned else value), shown

    monkeypatch.setattr(Supervised, "loss", loss)
    poisoned = {1, 2}
    summary = finetune(start[0], tmp_path / "once", model=start[1], steps=5, max_bad_steps=3, **PLAIN)
    assert summary.skipped_steps == 2
    assert all(torch.isfinite(tensor).all() for tensor in runs.result(tmp_path / "once").values())
    poisoned = {1, 2, 3}
    with pytest.raises(HieraxError, match="3 steps in a row"):
        finetune(start[0], tmp_path / "stop", model=start[1], steps=9, max_bad_steps=3, **PLAIN)
    saved = load_file(tmp_path / "stop" / "bad_batch_rank0.safetensors")
    assert saved["0.pixels"].shape == (8, 3, 64, 64)


def test_linear_probe_moves_only_the_head(tmp_path, start):
    """An encoder that is not frozen, or a head that is, fails."""
    finetune(start[0], tmp_path / "out", model=start[1], recipe="linear_probe", steps=3, **runs.SETTINGS)
    before, after = load_file(start[1] / "model.safetensors"), runs.result(tmp_path / "out")
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert after["head.projection.weight"].abs().max() > 0


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_equals_one_batch(tmp_path, start, accumulate):
    """Averaging parts instead of samples is off as soon as parts differ in size."""
    settings = {**PLAIN, "epochs": 2, "validation_fraction": 0.0}
    finetune(start[0], tmp_path / "one", model=start[1], **settings)
    finetune(start[0], tmp_path / "parts", model=start[1], accumulate=accumulate, **settings)
    one, parts = runs.result(tmp_path / "one"), runs.result(tmp_path / "parts")
    assert max((one[key] - parts[key]).abs().max().item() for key in one) <= 1e-5


def broken(folder):
    """The same data with files that cannot be read."""
    (folder / "class_0" / "002.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (folder / "class_2" / "004.png").write_bytes(b"")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("task", ["finetune", "pretrain"])
@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.drawn
def test_two_processes_equal_one(tmp_path, start, task, sharding):
    """Unequal shares (18 samples in steps of 8, two of them unreadable) make a plain mean of means wrong."""
    train = finetune if task == "finetune" else pretrain
    model = start[1] if task == "finetune" else start[2]
    broken(start[0])
    settings = {**PLAIN, "epochs": 2, "validation_fraction": 0.0, "ema_decay": 0.5}
    summary = train(start[0], tmp_path / "one", model=model, **settings)
    assert set(summary.unreadable) == {"class_0/002.png", "class_2/004.png"}
    drawn = {**settings, "sharding": sharding}
    codes = runs.in_processes(lambda: train(start[0], tmp_path / "two", model=model, **drawn), 2)
    assert codes == [0, 0]
    pictures = {path.name for path in (tmp_path / "two").glob("*.png")}
    over_time = {"features_over_time.png"} if sharding == "ddp" else set()  # needs the weights in one piece
    assert pictures == {"curves.png"} | ({"reconstructions.png", *over_time} if task == "pretrain" else set())
    one, two = runs.result(tmp_path / "one"), runs.result(tmp_path / "two")
    assert max((one[key] - two[key]).abs().max().item() for key in one) <= 1e-5
    listed = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert set(listed["unreadable"]) == set(summary.unreadable)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", SHARDINGS)
def test_validation_of_two_processes_is_that_of_one(tmp_path, start, sharding):
    """Nine samples over two processes, one unreadable: padding counts ten, dropping eight, and a lost failure hides."""
    held = coloured_classes(tmp_path / "held", per_class=3, seed=9)
    (held / "class_2" / "001.png").write_bytes(b"")
    settings = {**PLAIN, "steps": 3, "validate_every": 2, "validation": str(held), "sharding": sharding}
    one = finetune(start[0], tmp_path / "one", model=start[1], **{**settings, "sharding": "ddp"})
    codes = runs.in_processes(lambda: finetune(start[0], tmp_path / "two", model=start[1], **settings), 2)
    assert codes == [0, 0]
    two = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert one.metrics["total"] == 8
    assert two["metrics"] == one.metrics
    assert list(two["unreadable"]) == list(one.unreadable) == ["class_2/001.png"]


def test_pretraining_then_finetuning_in_one_call(tmp_path, start):
    """A second stage that does not start from the first one's encoder keeps the random patch embedding."""
    recipe = tmp_path / "two.toml"
    recipe.write_text(
        f"steps = 1\nbatch_size = 8\nlr = 0.0\nworkers = 0\ndevice = 'cpu'\n"
        f"[before]\nmodel = '{start[2]}'\nsteps = 3\nbatch_size = 8\nlr = 0.01\nworkers = 0\ndevice = 'cpu'\n"
    )
    finetune(start[0], tmp_path / "out", recipe=recipe)
    stage = runs.result(tmp_path / "out" / "before")
    final = runs.result(tmp_path / "out")
    first = load_file(start[2] / "model.safetensors")
    key = "patch_embed.proj.weight"
    assert not torch.equal(first[f"encoder.{key}"] if f"encoder.{key}" in first else first[key], final[key])
    assert torch.equal(stage.get(f"encoder.{key}", stage.get(key)), final[key])
    assert not any("decoder" in name for name in final)


def test_mae_learns_and_shows_reconstructions(tmp_path, start):
    """A decoder fed with the wrong positions stays at the baseline of predicting zero."""
    settings = {**PLAIN, "lr": 3e-3, "lr_batch": 8, "mask_ratio": 0.5}
    summary = pretrain(start[0], tmp_path / "out", model=start[2], steps=6, **settings)
    assert summary.losses[-1] < summary.losses[0]
    assert (tmp_path / "out" / "reconstructions.png").exists()
    model = load(tmp_path / "out" / "model").model
    assert type(model).__name__ == "MaskedAutoencoder"


def test_reconstruction_of_a_perfect_prediction_is_the_image(start, monkeypatch):
    """Images, masks or predictions of different views, or in another order, do not give the image back."""
    recipe = recipe_of({"method": "mae", "mask_ratio": 0.5, "repeats": 2})
    method = MaskedPretraining(learner(decoder=True), recipe, [])
    part = first_views(Views(open_data(start[0]), method.views(), method.weights.config, recipe), 3)
    assert part.samples == [0, 6, 12]  # one of each class; one view each, though training takes two
    real = method.module.forward

    def perfect(x, **kwargs):
        output = real(x, **kwargs)
        return output._replace(prediction=output.target)

    monkeypatch.setattr(method.module, "forward", perfect)
    shape = {"pixels": method.module.pixels, "unit": method.module.unit}
    for image, visible, prediction in method.rebuilt(part):
        whole = reconstruction(image, visible, prediction, **shape)[0]
        np.testing.assert_allclose(whole, image, atol=1e-5)
        empty = reconstruction(image, visible, prediction * 0, **shape)[0]
        assert np.abs(empty - image).max() > 0.1


@pytest.fixture
def drawn(monkeypatch):
    """The names of the pictures that a run asks for, and with what; drawing them fails."""
    asked = []

    def fail(name):
        def draw(*given, **named):
            asked.append((name, (*given, named)))
            raise OSError("no space left")

        return draw

    monkeypatch.setattr(charts, "training_curves", fail("curves.png"))
    monkeypatch.setattr(charts, "confusion", fail("confusion.png"))
    monkeypatch.setattr(sheets, "contact_sheet", fail("mistakes.png"))
    monkeypatch.setattr(MaskedPretraining, "draw", fail("reconstructions.png"))
    return asked


def test_reconstructions_are_shown_during_the_run(tmp_path, start, monkeypatch):
    """Pictures only at the end come too late; pictures that draw random numbers or move weights change the run."""
    settings = {**PLAIN, "ema_decay": 0.5, "steps": 6, "checkpoint_every": 2, "validate_every": 3}
    shown, real = [], MaskedPretraining.rebuilt
    with monkeypatch.context() as patch:
        patch.setattr(MaskedPretraining, "rebuilt", lambda self, part: shown.append(real(self, part)) or shown[-1])
        seen = pretrain(start[0], tmp_path / "seen", model=start[2], **settings)
    assert len(shown) == 4  # after steps 2, 3, 4 and at the end
    for (image, visible, prediction), (later, visible_later, prediction_later) in zip(shown[0], shown[3], strict=True):
        assert np.array_equal(image, later)
        assert np.array_equal(visible, visible_later)
        assert not np.array_equal(prediction, prediction_later)
    monkeypatch.setattr(MaskedPretraining, "picture", None)
    unseen = pretrain(start[0], tmp_path / "unseen", model=start[2], **settings)
    assert seen.losses == unseen.losses
    assert runs.identical(runs.result(tmp_path / "seen"), runs.result(tmp_path / "unseen"))
    assert not (tmp_path / "unseen" / "reconstructions.png").exists()


@pytest.mark.drawn
def test_a_picture_that_fails_stops_nothing(tmp_path, start, caplog, drawn):
    """A full disk or a strange image in the last second would throw the trained model's summary away."""
    with caplog.at_level(logging.WARNING):
        summary = finetune(start[0], tmp_path / "out", model=start[1], steps=1, **PLAIN)
        pretrain(start[0], tmp_path / "mae_out", model=start[2], steps=1, **PLAIN)
    assert summary.model.is_dir()
    assert (tmp_path / "mae_out" / "summary.json").is_file()
    names = [name for name, _ in drawn]
    assert {"curves.png", "confusion.png", "reconstructions.png"} <= set(names)
    assert [message.split()[0] for message in caplog.messages if "was not drawn" in message] == names
    given = dict(drawn)
    assert given["confusion.png"][0].sum() == summary.metrics["total"]
    curves = given["curves.png"][-1]
    assert curves["baseline"] == pytest.approx(1 - 1 / 768)
    assert [step for step, _ in curves["below"]["Learning rate"]] == [1]


@pytest.mark.drawn
def test_a_missing_matplotlib_is_one_note(tmp_path, start, capsys, monkeypatch):
    """Two warnings for one missing package are one too many; an exception would cost the run."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    finetune(start[0], tmp_path / "out", model=start[1], steps=1, **PLAIN)
    assert capsys.readouterr().err.count('pip install "hierax[viz]"') == 1
    assert not (tmp_path / "out" / "curves.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.drawn
def test_only_the_main_process_draws(tmp_path, start, monkeypatch, sharding):
    """Two processes that write one file make a broken picture; one that waits for the other's forward pass hangs."""

    def mark(picture, path):
        (tmp_path / f"{path.name}.{os.getpid()}").touch()

    monkeypatch.setattr(sheets, "write_picture", mark)
    monkeypatch.setattr(charts, "training_curves", lambda losses, path, **_: mark(None, path))
    settings = {**PLAIN, "steps": 2, "checkpoint_every": 1, "sharding": sharding}
    codes = runs.in_processes(lambda: pretrain(start[0], tmp_path / sharding, model=start[2], **settings), 2)
    assert codes == [0, 0]
    marks = sorted(path.name.rpartition(".")[0] for path in tmp_path.glob("*.png.*"))
    over_time = ["features_over_time.png"] if sharding == "ddp" else []  # which needs the weights in one piece
    assert marks == ["curves.png", *over_time, "reconstructions.png"]


@pytest.mark.drawn
def test_a_picture_that_cannot_be_is_missed_aloud(tmp_path, start, monkeypatch, capsys):
    """A confusion matrix that is silently absent looks like a bug of the run."""
    monkeypatch.setattr("hierax.train.pictures._CLASSES", 2)
    finetune(start[0], tmp_path / "out", model=start[1], steps=1, **PLAIN)
    assert not (tmp_path / "out" / "confusion.png").exists()
    assert "confusion.png is not drawn: 3 classes" in capsys.readouterr().err
    notes = json.loads((tmp_path / "out" / "summary.json").read_text())["notes"]
    assert any("confusion.png" in note for note in notes)


def test_advice(tmp_path, start, capsys):
    """Few images, a random start and classes too small to hold anything out must be said, not found out."""
    few = coloured_classes(tmp_path / "few", per_class=2)
    finetune(few, tmp_path / "a", model="hiera_nano_96", pretrained=False, steps=1, **PLAIN)
    said = capsys.readouterr().err
    for words in (
        "6 images are few to train from random weights",
        "about 2 images a class",
        "no accuracy will be measured",
    ):
        assert words in said, words
    pretrain(start[0], tmp_path / "b", model=start[2], steps=1, **{**PLAIN, "lr": 8e-4, "lr_batch": 256})
    said = capsys.readouterr().err
    for words in (
        "18 images are few for pretraining",
        "predicting zero: 0.9987",
        "learning rate 2.5e-05 = 0.0008 x batch 8 / 256",
    ):
        assert words in said, words
    pretrain(start[0], tmp_path / "b", model=start[2], steps=1, resume=True, **{**PLAIN, "lr": 8e-4, "lr_batch": 256})
    assert "going on after step 1 of 1" in capsys.readouterr().err
    finetune(few, tmp_path / "c", model=start[1], steps=1, resume=True, **PLAIN)
    assert "starts from the beginning" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model", "summary.json", "checkpoints"])
def test_a_run_overwrites_nothing_that_is_not_its_own(tmp_path, start, name):
    """A trained model beside which somebody trains the next would be gone."""
    theirs = tmp_path / "out" / name / "weights.bin"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("a month of work")
    (tmp_path / "out" / "notes.txt").write_text("no harm in these")
    for train, model in ((finetune, start[1]), (pretrain, start[2])):
        for resume in (False, True):
            with pytest.raises(InputError, match=f"overwrites nothing.*{name}"):
                train(start[0], tmp_path / "out", model=model, steps=1, resume=resume, **PLAIN)
    assert theirs.read_text() == "a month of work"
    theirs.unlink()
    theirs.parent.rmdir()
    finetune(start[0], tmp_path / "out", model=start[1], steps=1, **PLAIN)


def test_out_must_be_a_folder(tmp_path, start):
    """`OUT` is a file, or below one: a plain message and not an internal error."""
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="can be written"):
            finetune(start[0], out, model=start[1], steps=1, **PLAIN)


@pytest.mark.parametrize(
    ("form", "license"),
    [("meta", "cc-by-nc-4.0"), ("timm", "cc-by-nc-4.0"), ("birder", "cc-by-nc-4.0"), ("meta", None), ("birder", None)],
)
def test_licence_of_a_plain_file(tmp_path, start, capsys, form, license):
    """A file that states its licence passes it on; of one that states none, the result may claim none."""
    path = convert(start[1], tmp_path / f"plain_{form}", to=form)
    (file,) = [path] if path.is_file() else [p for p in path.iterdir() if p.suffix in (".safetensors", ".pt", ".pth")]
    if license is None:
        content = torch.load(file, weights_only=True)
        torch.save({key: value for key, value in content.items() if key != "hierax"}, file)
    finetune(start[0], tmp_path / "out", model=file, steps=1, **PLAIN)
    config = json.loads((tmp_path / "out" / "model" / "config.json").read_text())
    assert config.get("license") == license
    assert config.get("commercial") is (False if license else None)
    card = (tmp_path / "out" / "model" / "README.md").read_text()
    assert ("no commercial use" if license else "Licence: unknown") in card
    assert (
        "no commercial use: so is the result" if license else "is unknown, so the result's"
    ) in capsys.readouterr().err


def test_refusals(tmp_path, start):
    """Each of these would otherwise fail late, or train something else."""
    with pytest.raises(RecipeError, match="lr"):
        finetune(start[0], tmp_path / "o", model=start[1], lrr=1)
    with pytest.raises(UnknownNameError, match="mae"):
        pretrain(start[0], tmp_path / "o", method="mea", model=start[2])
    with pytest.raises(RecipeError, match="model"):
        pretrain(start[0], tmp_path / "o", model=None)
    with pytest.raises(UnknownNameError):
        finetune(start[0], tmp_path / "o", model="hiera_tinny_224")
    with pytest.raises(InputError, match="two classes"):
        finetune(coloured_classes(tmp_path / "one", classes=1), tmp_path / "o", model=start[1])
    with pytest.raises(InputError, match="does not exist"):
        finetune(tmp_path / "nothing", tmp_path / "o", model=start[1])
    with pytest.raises(RecipeError, match="windows"):
        pretrain(start[0], tmp_path / "o", model="hieradet_tiny", pretrained=False)
    with pytest.raises(RecipeError, match="device"):
        finetune(start[0], tmp_path / "o", model=start[1], device="cuda:9")
    assert not (tmp_path / "o" / "model").exists()


def test_fewer_samples_than_a_batch(tmp_path, start):
    """Dropping the last batch would leave nothing to train on."""
    data = coloured_classes(tmp_path / "few", per_class=1)
    summary = finetune(data, tmp_path / "out", model=start[1], epochs=2, **{**PLAIN, "batch_size": 32})
    assert summary.steps == 1
    assert summary.samples == 3


def test_classes_that_stay_keep_their_head(tmp_path, start):
    """Replacing a trained head by a fresh one would throw the classifier away."""
    finetune(start[0], tmp_path / "a", model=start[1], steps=3, **PLAIN)
    finetune(start[0], tmp_path / "b", model=tmp_path / "a" / "model", steps=1, **{**PLAIN, "lr": 0.0})
    assert runs.identical(runs.result(tmp_path / "a"), runs.result(tmp_path / "b"))


def test_drop_path_of_the_recipe_reaches_the_network(tmp_path):
    """A config that is replaced but not rebuilt from would ignore the setting."""
    method = Supervised(learner(), recipe_of({"drop_path": 0.5, "head_dropout": 0.25}), ["a", "b"])
    assert method.module.blocks[-1].drop_path.rate == pytest.approx(0.5)
    assert method.module.head.dropout.p == 0.25
    assert dataclasses.asdict(method.weights.config)["drop_path"] == 0.5


@pytest.mark.parametrize("task", ["finetune", "pretrain"])
def test_checkpointed_blocks_give_the_same_run(tmp_path, start, task, monkeypatch):
    """A block that draws its dropped paths anew when it is computed again has the gradient of another loss."""
    from hierax.model import encoder

    train, model = (finetune, start[1]) if task == "finetune" else (pretrain, start[2])
    settings = {**PLAIN, "steps": 3, "drop_path": 0.4}
    plain = train(start[0], tmp_path / "plain", model=model, **settings)
    real, calls = encoder.checkpoint, []
    monkeypatch.setattr(encoder, "checkpoint", lambda *given, **named: calls.append(1) or real(*given, **named))
    saved = train(start[0], tmp_path / "saved", model=model, checkpoint_blocks=True, **settings)
    assert len(calls) == 3 * 4  # each block of each step
    assert saved.losses == plain.losses
    assert runs.identical(runs.result(tmp_path / "plain"), runs.result(tmp_path / "saved"))
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("plain", "saved")]
    norms = [[json.loads(line)["gradient_norm"] for line in log] for log in logs]
    assert norms[0] == norms[1]


def test_resuming_with_other_parts_is_refused(tmp_path, start):
    """Drop path and mixup are drawn once a part: another number of parts is another run."""
    settings = {**PLAIN, "steps": 2, "mixup": 0.8}
    finetune(start[0], tmp_path / "out", model=start[1], **settings)
    with pytest.raises(RecipeError, match=r"accumulate \(1 before, 2 now\)"):
        finetune(start[0], tmp_path / "out", model=start[1], resume=True, accumulate=2, **settings)
    finetune(start[0], tmp_path / "out", model=start[1], resume=True, checkpoint_blocks=True, **settings)


def test_a_step_waits_once(tmp_path, start, monkeypatch):
    """Three blocking reductions a step, and one more a part, keep a GPU waiting for its host."""
    from hierax.train.devices import Devices

    sums, waits = [], []

    def counted(name):
        real = getattr(torch.Tensor, name)
        return lambda self, *given: waits.append(name) or real(self, *given)

    real_sums = Devices.sums
    with monkeypatch.context() as patch:
        patch.setattr(Devices, "sums", lambda self, *given: sums.append(real_sums(self, *given)) or sums[-1])
        for name in ("tolist", "item", "__float__", "__bool__", "__int__"):
            patch.setattr(torch.Tensor, name, counted(name))
        settings = {**PLAIN, "steps": 3, "accumulate": 4, "validation_fraction": 0.0, "clip_norm": 0.1}
        summary = finetune(start[0], tmp_path / "out", model=start[1], **settings)
    assert waits.count("tolist") == len(sums) == 3
    assert "__float__" not in waits  # the optimiser asks for its own step count on a CPU
    assert [tuple(numbers[:2]) for numbers in sums] == [(8.0, 0.0)] * 3
    assert [numbers[2] / 8 for numbers in sums] == pytest.approx(summary.losses)


def test_unreadable_samples_do_not_weigh(tmp_path, start):
    """A step's mean is over what could be read, known only after the backward pass: half a batch must not halve it."""
    for path in sorted(start[0].glob("*/*.png"))[::2]:
        path.write_bytes(b"")
    settings = {**PLAIN, "epochs": 1, "batch_size": 18, "validation_fraction": 0.0, "clip_norm": 1e9, "flip": 0.0,
                "crop_scale": [1.0, 1.0], "crop_ratio": [1.1, 1.1], "optimizer": "sgd", "lr": 0.1}  # fmt: skip
    half = finetune(start[0], tmp_path / "half", model=start[1], **settings)
    assert len(half.unreadable) == 9
    for path in list(start[0].glob("*/*.png")):
        if not path.stat().st_size:
            path.unlink()
    good = finetune(start[0], tmp_path / "good", model=start[1], **{**settings, "batch_size": 9})
    assert half.loss == pytest.approx(good.loss, rel=1e-5)
    one, two = runs.result(tmp_path / "half"), runs.result(tmp_path / "good")
    assert max((one[key] - two[key]).abs().max().item() for key in one) <= 1e-6
