"""What is looked at while a run goes on: bounds that warn of a collapse, a kNN probe, a picture of the features."""

from __future__ import annotations

import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from hierax.cli import main
from hierax.data.datasets.open import open_data
from hierax.errors import HieraxError, InputError, RecipeError
from hierax.registry import load
from hierax.train import finetune, pretrain
from hierax.train.bounds import Bound
from hierax.train.devices import Devices
from hierax.train.health import Health, Watch
from hierax.train.knn_probe import MOST, Probe
from hierax.train.methods.mae import MaskedPretraining
from hierax.train.reading import recipe_of
from hierax.train.report import beside_chance
from hierax.train.timeline import FEATURES, KEPT

from ..members import coloured_classes, folder_of_classes, learner, save_learner
from . import runs

TOO_FLAT = Bound("entropy", most=0.9, steps=3, means="targets are flat", remedy="Lower the temperature.")
STEPS = {**runs.SETTINGS, "steps": 8, "checkpoint_every": 3}


def watched(values, bound=TOO_FLAT):
    """The steps at which a watch warns."""
    watch = Watch([bound])
    return [step for step, value in enumerate(values, start=1) if watch.step(step, {"entropy": value})]


def test_warns_once_and_again_when_it_returns():
    """A line at every step hides everything else; one that never returns hides a second collapse."""
    assert watched([1.0] * 8) == [3]
    assert watched([1.0, 1.0, 0.2] * 5) == []  # the mean counts: single values of few crops are noise
    assert watched([0.8, 1.0, 0.8, 1.0, 1.0]) == [4]
    assert watched([1.0] * 4 + [0.5] + [1.0] * 4) == [3, 8]
    assert watched([math.nan] * 8) == []
    assert watched([1.0, 1.0, math.nan, 1.0]) == [4]


def test_a_warning_says_what_and_what_to_change():
    """Whoever is told of a collapse without a remedy stops the run, and that is all."""
    watch = Watch([TOO_FLAT])
    (warning,) = [found for step in range(3) for found in watch.step(step, {"entropy": 0.97})]
    assert "entropy, on average over 3 steps, is 0.97, above 0.9: targets are flat. Lower the temperature." in warning
    low = Bound("share", least=0.1, steps=1, means="gone", remedy="Stop.")
    assert "below 0.1" in low.told(0.01)


def test_a_watch_goes_on_where_it_was():
    """A resumed run that counts anew warns late, or a second time of the same."""
    first = Watch([TOO_FLAT])
    assert not [found for step in range(2) for found in first.step(step, {"entropy": 1.0})]
    second = Watch([TOO_FLAT])
    second.restore(json.loads(json.dumps(first.state())))
    assert second.step(3, {"entropy": 1.0})
    third = Watch([TOO_FLAT])
    third.restore(json.loads(json.dumps(second.state())))
    assert not third.step(4, {"entropy": 1.0})
    assert third.told == second.told
    third.restore({})  # a checkpoint from before there was a watch
    assert third.told == []


def test_values_beside_chance():
    """A loss alone says nothing: 5.5 is nothing learned with 65536 prototypes, and everything with three."""
    levels = {"ibot": (5.545, "chance"), "share": (0.6, "collapse beyond")}
    assert beside_chance({"ibot": 4.912, "share": 0.0123}, levels) == "  ibot 4.912 (chance 5.545)  share 0.012"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Data, a labelled probe and a start."""
    root = tmp_path_factory.mktemp("health")
    coloured_classes(root / "data", per_class=4)
    coloured_classes(root / "probe", per_class=4, seed=9)
    save_learner(root / "start", decoder=True)
    return root


@pytest.fixture(scope="module")
def probed(place):
    """A masked autoencoder's run with a probe."""
    return pretrain(place / "data", place / "probed", model=place / "start", probe=str(place / "probe"), **STEPS)


def log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_probe_is_logged_and_shown(place, probed):
    """Without the start nobody knows whether a number has grown."""
    found = {line["step"]: line["probe_top1"] for line in log(probed.out) if "probe_top1" in line}
    assert sorted(found) == list(range(9))  # eight steps: twenty probes are one a step
    page = (probed.out / "report.html").read_text()
    assert f"kNN probe: {100 * found[8]:.1f}%" in page
    assert "Features over the run" in page
    assert any("12 images of 3 classes, 3 nearest" in note for note in runs.summary(probed.out)["notes"])


def test_probe_is_what_the_result_gives(place, probed):
    """Other weights, another order of images or another preprocessing would be another number."""
    predictor = load(probed.model)
    probe = Probe.open(str(place / "probe"), predictor.encoder.config, predictor.preprocess)
    again = probe.measure(predictor.encoder, Devices(recipe_of({"device": "cpu"})))
    assert again == log(probed.out)[-1]["probe_top1"]


@pytest.mark.slow
def test_looking_changes_nothing(place, probed):
    """A probe that draws random numbers, or leaves a network in eval mode, makes another run of it."""
    plain = pretrain(place / "data", place / "plain", model=place / "start", **STEPS)
    assert runs.identical(runs.result(plain.out), runs.result(probed.out))
    assert (plain.out / FEATURES).is_file()  # of the data, without a probe
    assert not [line for line in log(plain.out) if "probe_top1" in line]


def test_picture_over_the_run(probed):
    """Columns of few steps, the start and the end among them, however long a run is."""
    columns = load_file(probed.out / KEPT)
    assert sorted(columns) == [f"step-{step:08d}" for step in (0, 1, 2, 3, 5, 6, 7, 8)]
    assert all(maps.shape == (6, 64, 4, 4) for maps in columns.values())
    with Image.open(probed.out / FEATURES) as picture:
        assert picture.width < 1500
        assert picture.height < 1500


@pytest.mark.slow
def test_picture_survives_a_resume(place, probed, tmp_path):
    """A run that went on drew its last columns alone, or those of steps that never were."""
    out = shutil.copytree(probed.out, tmp_path / "out")
    shutil.rmtree(out / "checkpoints" / "step-00000008")
    resumed = pretrain(place / "data", out, model=place / "start", probe=str(place / "probe"), resume=True, **STEPS)
    assert resumed.resumed_from == 6
    before, after = load_file(probed.out / KEPT), load_file(out / KEPT)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert (out / FEATURES).read_bytes() == (probed.out / FEATURES).read_bytes()
    assert [line for line in log(out) if "probe_top1" in line] == [
        line for line in log(probed.out) if "probe_top1" in line
    ]


@pytest.mark.slow
def test_every_and_no_probe(place, tmp_path, capsys):
    """`--probe` without a word on how often, and one probe in the middle and at the end where that is asked for."""
    line = ["pretrain", str(place / "data"), str(tmp_path / "out"), "-m", str(place / "start"), "--steps", "3"]
    options = ["--batch-size", "4", "--probe", str(place / "probe"), "--set", "workers=0", "probe_every=2"]
    assert main([*line, *options]) == 0
    assert [line["step"] for line in log(tmp_path / "out") if "probe_top1" in line] == [0, 2, 3]
    said = capsys.readouterr().err
    assert "step 0: kNN probe" in said
    assert "(at the start " in said


def test_a_classifier_is_probed_too(place, tmp_path):
    """The probe asks the method for its encoder, so no method is named in it."""
    settings = {**runs.SETTINGS, "steps": 1, "recipe": "small_finetune"}
    done = finetune(
        place / "data", tmp_path / "o", model=save_learner(tmp_path / "m"), probe=str(place / "probe"), **settings
    )
    assert [line["step"] for line in log(done.out) if "probe_top1" in line] == [0, 1]
    assert (done.out / FEATURES).is_file()


def one_class(folder):
    return folder_of_classes(folder, ("cat",), 3)


def flat(folder):
    folder.mkdir()
    Image.new("RGB", (40, 40)).save(folder / "a.png")
    return folder


def single_images(folder):
    return folder_of_classes(folder, ("cat", "dog"), 1)


def broken(folder):
    folder_of_classes(folder, ("cat", "dog"), 3)
    (folder / "dog" / "1.png").write_bytes(b"<html>")
    return folder


def nothing(folder):
    return folder


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (one_class, r"at least two classes of two images; .* has cat \(3\)"),
        (flat, "one folder a class.*1 images in no sub-folder"),
        (single_images, r"cat \(1\), dog \(1\)"),
        (broken, r"must be readable.*dog/1.png"),
        (nothing, "one folder a class.*does not exist"),
    ],
)
def test_bad_probes_are_refused_before_the_first_step(place, tmp_path, make, words):
    """After a night of training it is too late to be told that the probe has one class."""
    probe, out = make(tmp_path / "bad"), tmp_path / "out"
    with pytest.raises(InputError, match=words):
        pretrain(place / "data", out, model=place / "start", probe=str(probe), **STEPS)
    assert not (out / "log.jsonl").exists()
    assert not (out / "run_recipe.json").exists()  # the same command works once the probe is mended


def test_whole_weights_are_needed(place, tmp_path):
    """Weights that are spread over processes cannot be probed as they lie; a crash at the first probe came after hours."""
    weights = learner(decoder=True)
    recipe = recipe_of({"method": "mae", "probe": str(place / "probe")})
    method = MaskedPretraining(weights, recipe, [])
    report = SimpleNamespace(total=4)
    with pytest.raises(RecipeError, match="sharding='fsdp2'"):
        Health(method, open_data(place / "data"), recipe, tmp_path, SimpleNamespace(sharded=True), report)  # type: ignore[arg-type]


@pytest.mark.slow
def test_large_probes_are_sampled(tmp_path):
    """Twenty times 50,000 images would take longer than the run."""
    config, spec = load().encoder.config, load().preprocess
    probe = Probe.open("shapes:1300@5x16", config, spec)
    assert len(probe.data) <= MOST
    assert probe.classes == 16
    assert "of 1300 images" in str(probe)


@pytest.mark.drawn
def test_a_collapse_is_said_loudly_in_the_run(place, tmp_path, capsys, monkeypatch):
    """What only a log holds is found the next morning."""
    bound = Bound("gradient_norm", most=0.0, steps=2, means="it moves", remedy="Do nothing.")
    monkeypatch.setattr(MaskedPretraining, "bounds", lambda self: [bound])
    monkeypatch.setattr(MaskedPretraining, "chance", {"gradient_norm": 1.5})
    done = pretrain(place / "data", tmp_path / "out", model=place / "start", **{**STEPS, "steps": 4})
    said = capsys.readouterr().err
    assert said.count("WARNING: collapse at step 2: gradient_norm, on average over 2 steps, is") == 1
    assert "gradient_norm" in said.split("step 4/4")[1].splitlines()[0]
    monkeypatch.setattr(MaskedPretraining, "bounds", lambda self: [])
    pretrain(place / "data", tmp_path / "b", model=place / "start", **{**STEPS, "steps": 1})
    assert "(chance 1.500)" in capsys.readouterr().err
    assert any("it moves" in note for note in runs.summary(done.out)["notes"])
    assert [line["step"] for line in log(done.out) if "warning" in line] == [2]
    assert "Dashed: collapse beyond, 0." in (done.out / "report.html").read_text()


def test_a_probe_that_ends_in_no_numbers(place):
    """A network that overflows has no neighbours; a crash of the probe would end a run that could go on."""
    predictor = load(place / "start")
    probe = Probe.open(str(place / "probe"), predictor.encoder.config, predictor.preprocess)
    with torch.no_grad():
        predictor.encoder.patch_embed.proj.weight.fill_(math.nan)
    assert math.isnan(probe.measure(predictor.encoder, Devices(recipe_of({"device": "cpu"}))))


@pytest.mark.slow
def test_processes_share_a_probe(place, probed):
    """Each of two processes that measured its own half would tell of another set."""
    out = place / "shared"

    def work():
        try:
            pretrain(place / "data", out, model=place / "start", probe=str(place / "probe"), **{**STEPS, "steps": 1})
        except HieraxError as error:
            raise SystemExit(str(error)) from error

    assert runs.in_processes(work, 2) == [0, 0]
    first, alone = (next(line for line in log(run) if "probe_top1" in line) for run in (out, probed.out))
    assert first == alone
