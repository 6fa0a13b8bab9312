"""Data sets to train on: every layout gives the same samples, and what is wrong is named."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from hierax.cli import main
from hierax.data.datasets.open import find_validation, open_data
from hierax.data.datasets.samples import TrainingData, hold_out, match_classes
from hierax.data.datasets.shards import is_shards
from hierax.data.decode import decode_image
from hierax.errors import InputError

from ...members import folder_of_classes, plain_image, samples, save_learner, write_tar
from ...train import runs


def test_folder_per_class_is_sorted_and_ignores_the_rest(tmp_path):
    """Directory order, hidden files or a stray text file would shift labels between machines."""
    root = folder_of_classes(tmp_path, ("zebra", "ant"))
    (root / ".cache").mkdir()
    (root / "notes.txt").write_text("no class")
    (root / "ant" / "._0.png").write_bytes(b"fork")
    (root / "ant" / "deep").mkdir()
    (root / "ant" / "deep" / "9.PNG").write_bytes(plain_image())
    data = open_data(root)
    assert data.classes == ["ant", "zebra"]
    assert [data.name(i) for i in range(len(data))][:5] == [
        "ant/0.png",
        "ant/1.png",
        "ant/2.png",
        "ant/3.png",
        "ant/deep/9.PNG",
    ]
    assert data.labels.tolist() == [0] * 5 + [1] * 4
    assert decode_image(data.read(0)).shape == (16, 20, 3)


def test_numbered_class_folders_sort_by_value(tmp_path):
    """Sorted as text, 10 and 11 come before 2, and every label behind them is another class's."""
    names = ["0", "1", "10", "11", "2", "007"]
    assert open_data(folder_of_classes(tmp_path / "a", names, 1)).classes == ["0", "1", "2", "007", "10", "11"]
    assert open_data(folder_of_classes(tmp_path / "b", [*names, "x"], 1)).classes == sorted([*names, "x"])
    tar = write_tar(tmp_path / "x.tar", samples(6, labels=["0", "1", "10", "11", "2", "300000000"]))
    data = open_data(tar)
    assert data.classes == ["0", "1", "2", "10", "11", "300000000"]
    assert data.labels.tolist() == [0, 1, 3, 4, 2, 5]


def test_numbers_in_shards_are_indices(tmp_path):
    """A class that some shards lack must not move those behind it, nor be strange to a validation split that has it."""
    data = open_data(write_tar(tmp_path / "x.tar", samples(5, labels=["0", "01", "4", "1", "2"])))
    assert data.classes == ["0", "1", "2", "3", "4"]
    assert data.labels.tolist() == [0, 1, 4, 1, 2]
    validation = open_data(write_tar(tmp_path / "y.tar", samples(1, labels=["3"])))
    assert validation.classes == ["3"]
    assert match_classes(validation, data.classes).labels.tolist() == [3]


def test_many_classes_are_listed_once(tmp_path, monkeypatch):
    """Asking every class anew which classes have samples takes a minute for ImageNet."""
    asked, real = [], TrainingData.used_classes
    monkeypatch.setattr(TrainingData, "used_classes", property(lambda data: asked.append(1) or real.fget(data)))
    root = folder_of_classes(tmp_path, [f"c{number}" for number in range(20)], 1)
    (root / "empty").mkdir()
    assert "empty" in open_data(root).notes[0]
    assert len(asked) == 1


def layout(root: Path, *places: str) -> Path:
    """An image in each of these folders."""
    for place in places:
        (root / place).mkdir(parents=True)
        (root / place / "0.png").write_bytes(plain_image())
    return root


@pytest.mark.parametrize(
    ("places", "split", "classes", "unlabelled"),
    [
        (["train/cat", "train/dog", "val/cat"], "train", ["cat", "dog"], 2),
        (["train/cat", "train/dog", "val/cat"], "validation", ["cat"], 1),
        (["train/cat", "train/dog", "val/cat"], "all", ["train", "val"], 3),
        (["Training/cat", "Valid/cat"], "train", ["cat"], 1),
        (["train/cat", "train/dog"], "train", ["cat", "dog"], 2),
        (["train/cat", "val/cat", "unlabelled", "maps"], "train", ["cat"], 1),
        (["cat", "dog", "train"], "train", ["cat", "dog", "train"], 3),
        (["cat", "dog", "train"], "validation", ["cat", "dog", "train"], 3),
        (["cat", "dog", "test"], "train", ["cat", "dog", "test"], 3),
        (["cat", "dog", "test"], "test", None, 1),
        (["cat/a", "train/b"], "all", ["cat", "train"], 2),
        (["train", "val"], "train", None, 1),
        (["train", "val"], "all", ["train", "val"], 2),
        (["val/cat"], "val", ["cat"], 1),
        (["val/cat"], "validation", ["cat"], 1),
    ],
)
def test_splits_and_classes(tmp_path, places, split, classes, unlabelled):
    """A class called `train` must not become the data set, nor the folder of a split a class."""
    root = layout(tmp_path, *places)
    (root / "annotations").mkdir()
    (root / "annotations" / "train.json").write_text("{}")
    assert len(open_data(root, split=split, labelled=False)) == unlabelled
    if classes is None:
        with pytest.raises(InputError, match="no sub-folder"):
            open_data(root, split=split)
    else:
        assert open_data(root, split=split).used_classes == classes


@pytest.mark.parametrize(
    ("places", "split"),
    [
        (["val/cat", "val/dog"], "train"),
        (["val"], "train"),
        (["train/cat"], "validation"),
        (["train/cat", "dog"], "train"),
        (["train/steam", "car/sedan"], "train"),
        (["train", "val", "cat"], "train"),
        (["train/cat", "val", "extra"], "train"),
    ],
)
@pytest.mark.parametrize("labelled", [True, False])
def test_unclear_splits_are_refused(tmp_path, places, split, labelled):
    """A guess trains on validation images, or on one class alone, and nobody is told."""
    root = layout(tmp_path, *places)
    with pytest.raises(InputError, match=r"split.*class.*split='all'"):
        open_data(root, split=split, labelled=labelled)


def test_command_line(tmp_path, capsys):
    """A class called `train` made fine-tuning refuse, and pretraining use that class alone."""
    model = str(save_learner(tmp_path / "model"))
    options = ["-m", model, "--steps", "1", "--batch-size", "2", "--set", "workers=0"]
    root = str(layout(tmp_path / "flat", "cat", "dog", "train"))
    assert main(["finetune", root, str(tmp_path / "a"), *options]) == 0
    assert runs.summary(tmp_path / "a")["classes"] == ["cat", "dog", "train"]
    small = ["decoder_dim=16", "decoder_depth=1", "decoder_heads=2"]
    assert main(["pretrain", root, str(tmp_path / "b"), *options, *small]) == 0
    assert runs.summary(tmp_path / "b")["samples"] == 3
    root = str(layout(tmp_path / "unclear", "cat/tabby", "train/steam"))
    assert main(["finetune", root, str(tmp_path / "c"), *options]) == 1
    assert "split='all'" in capsys.readouterr().err
    assert main(["finetune", root, str(tmp_path / "d"), *options, "split=all"]) == 0
    assert runs.summary(tmp_path / "d")["classes"] == ["cat", "train"]


def test_validation_beside_what_is_trained_on(tmp_path):
    """Validating on the samples that are trained on measures nothing."""
    root = layout(tmp_path, "train/cat", "val/cat")
    assert find_validation(root) is not None
    for split in ("all", "val", "validation"):
        assert find_validation(root, beside=split) is None
    assert find_validation(layout(tmp_path / "flat", "cat", "dog", "val")) is None


def test_validation_samples_without_a_class_keep_none(tmp_path):
    """Minus one is the last place of a table."""
    data = open_data(layout(tmp_path, "cat", "dog"), labelled=False)
    data.classes = ["cat", "dog"]
    assert match_classes(data, ["dog", "cat"]).labels.tolist() == [-1, -1]


def test_split_folders(tmp_path):
    """Training on a validation folder, or taking `train` and `val` for classes, fails."""
    folder_of_classes(tmp_path / "train", count=3)
    folder_of_classes(tmp_path / "val", ("dog",), count=2)
    assert open_data(tmp_path).classes == ["cat", "dog"]
    validation = find_validation(tmp_path)
    assert validation is not None
    matched = match_classes(validation, ["cat", "dog"])
    assert matched.labels.tolist() == [1, 1]
    folder_of_classes(tmp_path / "val", ("dgo",), count=1)
    with pytest.raises(InputError, match="dog"):
        match_classes(find_validation(tmp_path), ["cat", "dog"])


def test_held_out_share_is_of_every_class_and_always_the_same(tmp_path):
    """A split that depends on the run leaks validation samples into training after resuming."""
    data = open_data(folder_of_classes(tmp_path, ("a", "b", "c"), count=10))
    train, held = hold_out(data, 0.2, seed=3)
    again = hold_out(data, 0.2, seed=3)[1]
    assert np.bincount(held.labels).tolist() == [2, 2, 2]
    assert held.indices.tolist() == again.indices.tolist()
    assert not set(train.indices) & set(held.indices)
    assert len(train) + len(held) == 30
    assert hold_out(data, 0.0, seed=0)[1] is None


def test_lists_and_folders_without_labels(tmp_path):
    """Pretraining takes images at any depth, and a list relative to itself."""
    folder_of_classes(tmp_path / "a" / "b")
    assert len(open_data(tmp_path / "a", labelled=False)) == 8
    (tmp_path / "list.txt").write_text("a/b/cat/1.png\n\na/b/dog/2.png\n")
    data = open_data(tmp_path / "list.txt", labelled=False)
    assert [data.name(i) for i in range(2)] == ["a/b/cat/1.png", "a/b/dog/2.png"]
    assert len(open_data([tmp_path / "a" / "b" / "cat" / "0.png"], labelled=False)) == 1
    assert (data.labels == -1).all()


@pytest.mark.parametrize("layout", ["nothing", "empty", "flat", "text"])
def test_layouts_that_cannot_be_trained_on(tmp_path, layout):
    """Each must say what was looked for, not fail at the first step."""
    source = tmp_path / "data"
    if layout != "nothing":
        source.mkdir()
    if layout == "flat":
        (source / "a.png").write_bytes(plain_image())
    if layout == "text":
        source = tmp_path / "x.csv"
        source.write_text("file,kind\na.png,b\n")
    with pytest.raises(InputError):
        open_data(source)


def test_rendered_shapes():
    """The same index, seed and size must give the same picture, another seed another."""
    data = open_data("shapes:40@7x64")
    assert len(data) == 40
    assert np.array_equal(data.read(3), open_data("shapes:40@7x64").read(3))
    assert not np.array_equal(data.read(3), open_data("shapes:40@8x64").read(3))
    assert data.read(0).shape == (64, 64, 3)
    with pytest.raises(InputError, match="shapes:COUNT"):
        open_data("shapes:many")


def test_shards_by_folder_pattern_and_info(tmp_path):
    """A wrong offset reads another member; a wrong split trains on validation."""
    write_tar(tmp_path / "set-train-0000.tar", samples(4))
    write_tar(tmp_path / "set-train-0001.tar", samples(5, 4))
    write_tar(tmp_path / "set-validation-0000.tar", samples(2, 9))
    pattern = str(tmp_path / "set-train-{0000..0001}.tar")
    assert len(open_data(pattern)) == len(open_data(tmp_path)) == 9
    splits = {
        name: {"filenames": [f"set-{name}-{n:04}.tar" for n in range(count)], "shard_lengths": lengths}
        for name, count, lengths in (("train", 2, [4, 6]), ("validation", 1, [2]))
    }
    (tmp_path / "_info.json").write_text(json.dumps({"splits": splits}))
    data = open_data(tmp_path)
    assert data.labels.tolist() == [i % 3 for i in range(9)]
    assert data.name(5) == "set-train-0001.tar/00005"
    assert abs(int(decode_image(data.read(7))[0, 0, 0]) - 7) <= 3
    assert data.problems == [("set-train-0001.tar", "holds 5 good samples, _info.json says 6")]
    assert len(find_validation(tmp_path)) == 2
    with pytest.raises(InputError, match="train, validation"):
        open_data(tmp_path, split="trian")


def test_class_names_json_and_missing_labels(tmp_path):
    """A sample without a label must be left out and named, not get class 0."""
    members = [
        ("d/a.png", plain_image()), ("d/a.json", b'{"label": "owl"}'), ("d/b.png", plain_image()), ("d/b.cls", b"ant\n"),
        ("d/c.png", plain_image()), ("d/d.cls", b"ant"), ("d/e.png", plain_image()), ("d/e.json", b"{broken"),
    ]  # fmt: skip
    data = open_data(write_tar(tmp_path / "x.tar", members))
    assert data.classes == ["ant", "owl"]
    assert [data.name(i) for i in range(2)] == ["x.tar/d/a", "x.tar/d/b"]
    assert data.labels.tolist() == [1, 0]
    assert {name for name, _ in data.problems} == {"x.tar/d/c", "x.tar/d/d", "x.tar/d/e"}
    assert len(open_data(tmp_path / "x.tar", labelled=False)) == 4


@pytest.mark.parametrize("where", ["inside a member", "between members", "in a header", "before the end marker"])
def test_cut_shards_are_reported(tmp_path, where):
    """A reader that takes the end of the file for the end of the archive loses samples without a word."""
    path = write_tar(tmp_path / "x.tar", samples(6))
    with tarfile.open(path) as tar:
        members = tar.getmembers()
        last = members[-1]
    sixth = members[8]
    at = {
        "inside a member": sixth.offset_data + 100,
        "between members": sixth.offset,
        "in a header": sixth.offset + 200,
        "before the end marker": last.offset_data + 512,
    }[where]
    path.write_bytes(path.read_bytes()[:at])
    data = open_data(path)
    assert len(data) == (6 if where == "before the end marker" else 4)
    assert any("truncated" in reason for _, reason in data.problems)
    assert not open_data(write_tar(tmp_path / "whole.tar", samples(2))).problems


def test_hostile_and_odd_members(tmp_path):
    """Links, devices and climbing names must neither be followed nor written; doubles must be named."""
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (("a.jpg", tarfile.SYMTYPE), ("b.jpg", tarfile.CHRTYPE), ("dir", tarfile.DIRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        for name, data in [
            ("../up.jpg", plain_image()),
            ("../up.cls", b"1"),
            ("../up.cls", b"0"),
            ("z.jpg", plain_image()),
            ("z.cls", b"0"),
        ]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    data = open_data(path)
    assert len(data) == 2
    assert data.labels.tolist() == [1, 0]
    assert {"x.tar/a.jpg", "x.tar/b.jpg", "x.tar/../up"} == {name for name, _ in data.problems}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["x.tar"]


def test_commands_and_compressed_shards_are_refused(tmp_path):
    """webdataset would run the first as a shell command."""
    with pytest.raises(InputError, match="never run"):
        open_data(f"pipe:touch {tmp_path / 'owned'}")
    assert not (tmp_path / "owned").exists()
    (tmp_path / "x.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(InputError, match="Unpack"):
        open_data(tmp_path / "x.tar.gz")
    with pytest.raises(InputError, match="does not"):
        open_data(tmp_path / "missing-{00..02}.tar")
    assert is_shards("https://example.org/data/")


def test_same_samples_as_webdataset(tmp_path):
    """An independent reader must see the same keys, bytes and labels."""
    webdataset = pytest.importorskip("webdataset")
    path = write_tar(tmp_path / "x.tar", samples(7))
    theirs = {s["__key__"]: (s["jpg"], s["cls"]) for s in webdataset.WebDataset(str(path), shardshuffle=False)}
    data = open_data(path)
    ours = {data.keys[i]: (data.read(i), str(data.labels[i]).encode()) for i in range(len(data))}
    assert ours == theirs


def test_fingerprint_follows_names_and_labels(tmp_path):
    """A digest of the path alone would let a resumed run go on with other data."""
    root = folder_of_classes(tmp_path / "a")
    before = open_data(root).fingerprint()
    assert before == open_data(folder_of_classes(tmp_path / "b")).fingerprint()
    (root / "cat" / "0.png").rename(root / "dog" / "9.png")
    assert open_data(root).fingerprint() != before


def test_class_names__no_utf8(tmp_path):
    """Class names leave in JSON; two that read alike there would be one class or two, by chance."""
    for name in (b"caf\xe9", b"tea"):
        folder = os.path.join(os.fsencode(tmp_path), name)
        os.mkdir(folder)
        Path(os.fsdecode(folder), "a.png").write_bytes(plain_image())
    data = open_data(tmp_path)
    assert data.classes == ["caf\\xe9", "tea"]
    assert decode_image(data.read(0)).shape == (16, 20, 3)
    (tmp_path / "caf\\xe9").mkdir()
    with pytest.raises(InputError, match="alike"):
        open_data(tmp_path)
