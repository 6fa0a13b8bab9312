"""What a person reads who points the trainer at the wrong thing: the rule, what was got, and what to do; never a trace."""

from __future__ import annotations

import pytest

from hierax.cli import main

from ..members import coloured_classes, save_learner


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with good data beside every kind of bad data and recipe."""
    monkeypatch.chdir(tmp_path)
    coloured_classes(tmp_path / "pets", per_class=2, classes=2)
    coloured_classes(tmp_path / "one", per_class=2, classes=1)
    (tmp_path / "empty").mkdir()
    coloured_classes(tmp_path / "flat", per_class=2, classes=1)
    for path in (tmp_path / "flat" / "class_0").iterdir():
        path.rename(tmp_path / "flat" / path.name)
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "typo.toml").write_text("batch_sise = 4")
    (tmp_path / "foreign.toml").write_text("learning_rate = 1e-3")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "used" / "model").mkdir(parents=True)
    save_learner(tmp_path / "start")
    return tmp_path


CASES = [
    ("nothing out", ["'nothing' does not exist"]),
    ("pest out", ["'pest' does not exist", "Did you mean 'pets'?"]),
    ("one out", ["at least two classes", "has 1: ['class_0']", "Add a folder"]),
    ("empty out", ["one folder a class", "no image", "Use CLASS/IMAGE.jpg"]),
    ("flat out", ["2 images in no sub-folder", "Use CLASS/IMAGE.jpg"]),
    ("pets out --recipe typo.toml", ["typo.toml", "batch_sise", "Did you mean 'batch_size'?"]),
    ("pets out --recipe foreign.toml", ["learning_rate", "Did you mean 'lr'?"]),
    ("pets out --recipe binary.toml", ["UTF-8 text", "binary.toml"]),
    ("pets out --recipe folder.toml", ["preset or a TOML file", "is no file"]),
    ("pets out --recipe small_finetun", ["Did you mean 'small_finetune'?"]),
    ("pets out --recipe small_pretrain", ["for pretrain", "got finetune"]),
    ("pets out --steps 0", ["steps must be at least 1", "got 0"]),
    ("pets out --epochs -1", ["epochs must be", "got -1"]),
    ("pets out --batch-size 0", ["batch_size must be at least 1", "got 0"]),
    ("pets out --set lr=-1", ["lr must be at least 0", "got -1"]),
    (
        "pets out --set lr=-1 --set seed=1 batch_size=2 --set steps=2",
        ["lr must be at least 0", "got -1"],
    ),  # not the last alone
    ("pets out --set lr=fast", ["lr", "'fast'"]),
    ("pets out --set lrr=1", ["unknown key 'lrr'", "Did you mean 'lr'?"]),
    ("pets out --set lr", ["KEY=VALUE", "'lr'"]),
    ("pets out --set optimizer=adam", ["adamw, sgd", "'adam'", "Did you mean 'adamw'?"]),
    ("pets out --steps 1 --epochs 2", ["not both"]),
    ("pets out --device gpu", ["device must be", "'gpu'"]),
    ("pets out -m hiera_tinny_224", ["Did you mean 'hiera_tiny_224'?"]),
    ("pets file --steps 1", ["folder that can be written", "'file'", "Name another"]),
    ("pets used --steps 1", ["overwrites nothing", "'used' holds model", "Name another"]),
    ("pets used --steps 1 --resume", ["overwrites nothing"]),
]


@pytest.mark.parametrize(("line", "words"), CASES, ids=[line for line, _ in CASES])
def test_wrong_use_of_finetune(place, capsys, line, words):
    """Exit 1, one message on stderr, nothing on stdout, no folder left behind that a next try would trip over."""
    assert main(["finetune", *line.split()]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "internal error" not in err
    assert "Traceback" not in err
    for word in words:
        assert word in err, err
    assert not (place / "out" / "model").exists()
    assert main(["finetune", "pets", "out", "-m", "start", "--steps", "1", "--set", "workers=0"]) == 0


@pytest.mark.parametrize(
    ("line", "code"),
    [("finetune", 2), ("finetune pets out --stpes 1", 2), ("pretrain pets out", 2), ("eval accuracy pets --protocol brider", 2),
     ("eval accuracy nothing", 1), ("eval", 2)],
)  # fmt: skip
def test_exit_codes(place, capsys, line, code):
    """2 is for a command line that cannot be understood, 1 for one that cannot be done."""
    assert main(line.split()) == code
    assert "internal error" not in capsys.readouterr().err


def test_resume_and_partial(place, capsys):
    """`--resume` in a new folder starts, in a finished one finds it finished; unreadable files make evaluation partial."""
    line = ["finetune", "pets", "out", "-m", "start", "--steps", "1", "--resume", "--set", "workers=0"]
    assert main(line) == 0
    assert "no checkpoint in out" in capsys.readouterr().err
    assert main([*line, "log_every=5"]) == 0
    assert "going on after step 1 of 1" in capsys.readouterr().err
    assert main([*line[:-3], "--set", "workers=0"]) == 1
    assert "--resume" in capsys.readouterr().err
    assert main([*line, "lr=0.5"]) == 1
    assert "lr (0.0015 before, 0.5 now)" in capsys.readouterr().err
    (place / "pets" / "class_0" / "000.png").write_bytes(b"")
    assert main(["eval", "accuracy", "pets", "-m", "out/model"]) == 3
    out, err = capsys.readouterr()
    assert "of 3)" in out
    assert "class_0/000.png" in err


@pytest.mark.parametrize("command", ["finetune", "pretrain"])
def test_unreadable_samples_make_a_run_partial(place, capsys, command):
    """`eval` said so by its exit code and training did not: a script took half-read data for whole. The result stands."""
    save_learner(place / "mae", decoder=True)
    (place / "pets" / "class_0" / "000.png").write_bytes(b"")
    model = "mae" if command == "pretrain" else "start"
    line = [command, "pets", "out", "-m", model, "--steps", "2", "--batch-size", "4", "--set", "workers=0"]
    assert main(line) == 3
    out, err = capsys.readouterr()
    assert out.strip() == "out/model"
    assert "class_0/000.png" in err
    assert (place / "out" / "model" / "config.json").is_file()


def test_quiet_training_says_nothing(place, capsys):
    """`-q` is for scripts: every line of the run's report went past it."""
    assert main(["finetune", "pets", "out", "-m", "start", "--steps", "2", "-q", "--set", "workers=0"]) == 0
    out, err = capsys.readouterr()
    assert (out.strip(), err) == ("out/model", "")
