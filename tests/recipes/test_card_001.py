"""The two stages of card 001: the recipes say what birder's commands say, and the chain ends in the card's own code."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import hierax
from hierax.train.reading import read_recipe, recipe_of, to_dict

from ..cards.snippets import DINO_CLASSES, DINO_EMBEDDING, DINO_FEATURES, ported
from ..members import photograph
from ..peers import peer

HERE = Path(__file__).parents[2] / "recipes" / "hieradet_d_small_dino-v2-imagenet12k"
SMALLEST = {
    "network": {"embed_dim": 8, "depths": (1, 1, 2, 1), "global_blocks": (), "input_size": 64},
    "pretrain": {
        "steps": 2, "batch_size": 4, "input_size": 64, "local_size": 32, "local_crops": 2, "prototypes": 32,
        "ibot_prototypes": 32, "head_dim": 16, "bottleneck": 8, "workers": 0,
    },
    "finetune": {"steps": 3, "batch_size": 4, "input_size": 96, "workers": 0, "validate_every": 0},
}  # fmt: skip


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script of the recipe, as a module."""
    spec = importlib.util.spec_from_file_location("card_001", HERE / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["card_001"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def chain(script, tmp_path_factory):
    """The chain at its smallest: shards, DINOv2, fine-tuning at a larger size, birder's file."""
    out = tmp_path_factory.mktemp("chain")
    keys = {name: {**getattr(script, name.upper()), **values} for name, values in SMALLEST.items()}
    script.run_tiny(out, script.Tiny(**keys, images=32, shards=2, side=96))
    return out


@pytest.mark.slow
def test_shards_are_laid_out_as_published(chain):
    """Other names, keys or splits would try another reader than the one that ImageNet-12K needs."""
    shards = chain / "shards"
    info = json.loads((shards / "_info.json").read_text())["splits"]
    assert {split: found["filenames"][0] for split, found in info.items()} == {
        "train": "imagenet12k-train-0000.tar",
        "validation": "imagenet12k-validation-0000.tar",
    }
    with tarfile.open(shards / "imagenet12k-train-0001.tar") as tar:
        names = tar.getnames()
        assert names[:4] == ["00000001.jpg", "00000001.cls", "00000003.jpg", "00000003.cls"]
        assert tar.extractfile("00000003.cls").read() == b"3"
        assert Image.open(io.BytesIO(tar.extractfile("00000003.jpg").read())).size == (96, 96)


@pytest.mark.slow
def test_fine_tuning_starts_from_the_teacher_at_a_larger_size(chain):
    """A stage that began at random, or that ended at the first one's size, would look just as finished."""
    first, second = (json.loads((chain / stage / "run.json").read_text()) for stage in ("stage1", "stage2"))
    assert (first["model"], first["weights"]) == ("hieradet_d_toy", "start")
    assert second["weights"] == "stage1/model"
    sizes = [hierax.load(chain / stage / "model").encoder.input_size for stage in ("stage1", "stage2")]
    assert sizes == [(64, 64), (96, 96)]
    assert second["held_out"]["count"] == 0  # validated on the split of `_info.json`
    assert json.loads((chain / "stage2" / "summary.json").read_text())["metrics"]["total"] == 16


@pytest.mark.slow
def test_the_cards_code_answers(chain, tmp_path, monkeypatch, capsys):
    """The card promises its code, not ours: probabilities of these classes, this embedding, these maps."""
    (tmp_path / "path/to").mkdir(parents=True)
    photograph(200, 150).save(tmp_path / "path/to/image.jpeg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HIERAX_CATALOG", str(chain / "catalog.toml"))
    for snippet in (DINO_CLASSES, DINO_EMBEDDING, DINO_FEATURES):
        names: dict = {}
        exec(compile(ported(snippet), "card", "exec"), names)
        if "out" in names:
            assert names["out"].shape == (1, 16)
            assert np.isclose(names["out"].sum(), 1, atol=1e-4)
    assert "('stage4', torch.Size([1, 64, 3, 3]))" in capsys.readouterr().out
    assert names["model_info"].rgb_stats["mean"] == pytest.approx((0.5191, 0.5306, 0.4877))
    assert names["model_info"].class_to_idx["arrow"] == hierax.load(chain / "stage2/model").labels.index("arrow")


@pytest.mark.slow
@pytest.mark.parity
def test_birder_answers_alike(chain):
    """A file that only our own door opens is no conversion."""
    import torch

    file = chain / "hieradet_small_dino-v2-imagenet12k.pt"
    theirs, _ = peer("birder.common.fs_ops").load_model(
        torch.device("cpu"), "hieradet_d_tiny", path=str(file), inference=True
    )
    x = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        assert torch.allclose(theirs(x), hierax.load(chain / "stage2/model").model(x), atol=1e-5)


@pytest.mark.slow
def test_a_second_call_trains_nothing_again(script, chain, capsys):
    """Whoever calls it again after a month of training must not begin anew."""
    before = {path: path.stat().st_mtime_ns for path in chain.glob("stage*/model/*")}
    script.run_tiny(chain, script.Tiny(images=32, shards=2, side=96))
    said = capsys.readouterr().out
    assert "$ hierax pretrain" not in said
    assert "$ hierax finetune" not in said
    assert before == {path: path.stat().st_mtime_ns for path in chain.glob("stage*/model/*")}
    assert "probabilities (1, 16) and an embedding (1, 64)" in said
    assert "HIERAX_CATALOG" not in os.environ  # or every name of the private catalogue is known to what comes after


@pytest.mark.parametrize(
    "words", [[], ["--tiny", "--images", "a"], ["--images", "a"], ["--data", "a"], ["--tiny", "--data", "a"]]
)
def test_half_a_command_is_refused(script, tmp_path, words, capsys):
    """`--images` alone would train for weeks and end without the second stage."""
    with pytest.raises(SystemExit) as ended:
        script.main([str(tmp_path / "out"), *words])
    assert ended.value.code == 2
    assert "--tiny alone, or --images and --data" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_stage_1_is_birders():
    """A key that lost its value on the way would be a run of nobody's."""
    recipe = read_recipe(HERE / "stage1.toml", "pretrain", "dinov2")
    own = recipe.settings
    assert (recipe.batch_size, recipe.accumulate, recipe.batch_size // recipe.accumulate // 2) == (1024, 8, 64)
    assert (recipe.lr, recipe.min_lr, recipe.epochs, recipe.warmup_epochs, recipe.lr_batch) == (
        2e-4,
        1e-6,
        100,
        10,
        None,
    )
    assert (recipe.weight_decay, own.weight_decay_end, own.undecayed) == (0.04, 0.2, "none")
    assert (recipe.clip_norm, own.clip_scope, recipe.drop_path) == (3.0, "all", 0.1)
    assert (own.prototypes, own.ibot_prototypes, own.separate_heads, own.centring) == (65536, 65536, True, "sinkhorn")
    assert (own.global_scale, own.local_scale, own.local_crops, own.local_size) == ((0.35, 1), (0.1, 0.35), 8, 96)
    assert (own.teacher_momentum, own.teacher_temperature_start, own.teacher_temperature) == (0.992, 0.04, 0.07)


def test_stage_2_is_birders():
    """See stage 1."""
    recipe = read_recipe(HERE / "stage2.toml", "finetune")
    own = recipe.settings
    assert (recipe.input_size, recipe.batch_size, recipe.lr, recipe.min_lr, recipe.lr_batch) == (
        256,
        512,
        5e-4,
        5e-7,
        None,
    )
    assert (recipe.epochs, recipe.warmup_epochs, recipe.layer_decay, recipe.weight_decay) == (100, 5, 0.65, 0.05)
    assert recipe.groups == "birder"
    rescaled = 1 - (1 - 0.9999) * recipe.batch_size * recipe.ema_every / recipe.epochs
    assert recipe.ema_decay == pytest.approx(rescaled, abs=5e-5)
    assert (own.label_smoothing, own.mixup, own.cutmix, own.mix_choice) == (0.1, 0.8, 1.0, "uniform")
    assert (own.crop_scale, own.erasing) == ((0.1, 1.0), 0.25)
    assert own.class_file == "imagenet12k"
    assert recipe.validate_every == -(-12_129_687 // recipe.batch_size)


@pytest.mark.parametrize(("name", "task", "method"), [("stage1", "pretrain", "dinov2"), ("stage2", "finetune", None)])
def test_recipes_are_read_as_they_are_written(name, task, method):
    """What a run writes down must be the recipe that it ran."""
    recipe = read_recipe(HERE / f"{name}.toml", task, method)
    assert recipe_of(to_dict(recipe)) == recipe


@pytest.mark.nightly
def test_tiny(tmp_path):
    """The command of the page, to its end: a classifier far above chance, whose file answers as the card says."""
    done = subprocess.run(
        [sys.executable, str(HERE / "run.py"), str(tmp_path / "out"), "--tiny"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "probabilities (1, 16) and an embedding (1, 192)" in done.stdout
    metrics = json.loads((tmp_path / "out/stage2/summary.json").read_text())["metrics"]
    assert metrics["total"] == 400
    assert metrics["top1"] > 2 / 16  # chance is 1 / 16, with an error of 1.2 points


def test_failures_end_the_chain(script, tmp_path, monkeypatch):
    """A conversion of what was not trained would be a file of nobody's; images that cannot be read stop nothing."""
    codes = iter([3, 1])
    monkeypatch.setattr(script, "command", lambda line: next(codes))
    script.call("pretrain", "a")
    with pytest.raises(SystemExit) as ended:
        script.call("finetune", "b")
    assert ended.value.code == 1


def test_several_processes(script, tmp_path, monkeypatch):
    """Both stages of birder's run had two processes; only training is shared out."""
    started, alone = [], []
    done = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(script.subprocess, "run", lambda line, check: started.append(line) or done)
    monkeypatch.setattr(script, "command", lambda line: alone.append(line[0]) or 0)
    script.both_stages(tmp_path, images="i", data="d", start="s", first={}, second={}, processes=2)
    assert [line[3:8] for line in started] == [
        ["--nproc-per-node", "2", "-m", "hierax", task] for task in ("pretrain", "finetune")
    ]
    assert alone == ["convert", "eval"]
