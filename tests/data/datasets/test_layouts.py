"""Folders and tables as people find them, each given to `hierax finetune`: trained on as meant, or refused with a remedy."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from hierax.cli import main
from hierax.data.datasets.open import open_data
from hierax.errors import InputError

from ...members import folder_of_classes, save_learner, write_png

OPTIONS = ["--steps", "1", "--batch-size", "2", "--set", "workers=0", "device=cpu"]


@pytest.fixture
def finetune(tmp_path, monkeypatch, capsys):
    """Runs the command on what is in `data`: its exit code, what it said, and what it wrote down of the data."""
    monkeypatch.chdir(tmp_path)
    save_learner(tmp_path / "start")

    def run(data="data", *settings):
        out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
        code = main(["finetune", str(data), str(out), "-m", "start", *OPTIONS, *settings])
        known = json.loads((out / "run.json").read_text()) if code == 0 else {}
        count = json.loads((out / "summary.json").read_text())["metrics"].get("total", 0) if known else 0
        return code, capsys.readouterr().err, known.get("classes"), known.get("samples"), count

    return run


def flat(folder: Path, *names: str) -> Path:
    """Images that lie in a folder itself."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        write_png(folder / name, seed)
    return folder


def table(path: Path, *rows: str) -> Path:
    """A table of text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize("name", ["val", "valid", "Validation", "test", "testing", "val_images"])
def test_a_validation_folder_beside_its_classes(finetune, name):
    """Taken for a class it would be learned, and what is measured then is nothing."""
    folder_of_classes(Path("data"), count=3)
    folder_of_classes(Path("data", name), count=2)
    code, said, classes, samples, validated = finetune()
    assert (code, classes, samples, validated) == (0, ["cat", "dog"], 6, 4)
    assert f"{name}/ is taken for the validation split" in said
    main(["eval", "accuracy", "data", "-m", "out0/model"])
    assert len(open_data("data", labelled=False)) == 6
    assert len(open_data("data", split="validation", labelled=False)) == 4
    assert len(open_data("data", split="all", labelled=False)) == 10


def test_validation_and_test_beside_their_classes(finetune):
    """The test split must be in neither, also where it has no classes."""
    folder_of_classes(Path("data"), count=3)
    folder_of_classes(Path("data", "val"), count=2)
    flat(Path("data", "test"), "1.png", "2.png")
    code, said, classes, samples, validated = finetune()
    assert (code, classes, samples, validated) == (0, ["cat", "dog"], 6, 4)
    assert "not used: test/" in said


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_validation_images_without_classes(finetune, name):
    """Nobody calls a class so; as one it was trained on."""
    folder_of_classes(Path("data"), count=3)
    flat(Path("data", name), "1.png", "2.png")
    code, said, *_ = finetune()
    assert code == 1
    assert re.search(rf"must hold one folder a class; 'data/{name}' holds images itself.*Sort its images", said)
    with pytest.raises(InputError, match="one folder a class"):
        open_data("data", labelled=False)
    assert finetune("data", "split=all")[2] == sorted(["cat", "dog", name])


def test_a_class_called_test(finetune):
    """A class is what holds images beside other classes; a name that looks like a split's must not take it away."""
    folder_of_classes(Path("data"), ("cat", "dog", "test"), 3)
    code, said, classes, samples, _ = finetune()
    assert (code, classes, samples) == (0, ["cat", "dog", "test"], 9)
    assert "test/ is taken for a class" in said
    for split in ("train", "val"):
        folder_of_classes(Path("both", split), ("cat", "test"), 2)
    code, said, classes, samples, validated = finetune("both")
    assert (code, classes, samples, validated) == (0, ["cat", "test"], 4, 4)
    assert "is taken for" not in said


@pytest.mark.parametrize("classes", [["test", "train"], ["test", "val"], ["test1", "test2"]])
def test_only_classes_called_like_splits(finetune, classes):
    """What cannot be told apart is refused, and the remedy works as it is written."""
    folder_of_classes(Path("data"), classes, 2)
    code, said, *_ = finetune()
    assert code == 1
    remedy = re.search(r"\(--set (\S+)\)", said)[1]
    code, _, found, samples, _ = finetune("data", remedy)
    assert (code, found, samples) == (0, classes, 4)


def test_a_test_folder_that_is_neither(finetune):
    """Its sub-folders are no classes of the data: a class of several shoots, or a split of other classes."""
    folder_of_classes(Path("data"), count=2)
    folder_of_classes(Path("data", "test"), ("monday", "friday"), 2)
    code, said, *_ = finetune()
    assert code == 1
    assert "may be either" in said
    assert finetune("data", "split=all")[2:4] == (["cat", "dog", "test"], 8)


def test_training_and_testing(finetune):
    """The names of a well-known download."""
    folder_of_classes(Path("data", "training"), ("0", "1"), 3)
    folder_of_classes(Path("data", "testing"), ("0", "1"), 2)
    assert finetune()[2:] == (["0", "1"], 6, 4)


@pytest.mark.parametrize("test", ["test", "test1", "test_images"])
def test_test_images_without_classes(finetune, test):
    """They are there to be answered: the run must hold out a share of the others instead of failing."""
    folder_of_classes(Path("data", "train"), count=4)
    flat(Path("data", test), "1.png", "2.png")
    code, said, classes, samples, validated = finetune("data", "validation_fraction=0.25")
    assert (code, classes, samples, validated) == (0, ["cat", "dog"], 6, 2)
    assert f"{test}/ holds images without classes and is left alone" in said


@pytest.mark.parametrize("header", ["id,label", "image_id,class", "Id,breed", "img,target"])
@pytest.mark.parametrize(
    ("place", "ending"), [("train", ".png"), ("train", ""), ("train_images", ""), ("a/b", ""), (".", "")]
)
def test_names_without_folder_or_extension(finetune, header, place, ending):
    """As competitions give them: the table beside the folder, and no path in it."""
    flat(Path("data", place), *(f"{number:03}.png" for number in range(6)))
    flat(Path("data", "test"), *(f"{number:03}.png" for number in range(3)))
    rows = [f"{number:03}{ending},{'cat' if number % 2 else 'dog'}" for number in range(6)]
    table(Path("data", "train.csv"), header, *rows)
    table(Path("data", "sample_submission.csv"), header, "000,cat")
    code, said, classes, samples, _ = finetune("data/train.csv")
    assert (code, classes, samples) == (0, ["cat", "dog"], 6)
    assert ("the files of train.csv are" in said) == (place != "." or not ending)
    assert ("the column breed of train.csv is taken for the classes" in said) == ("breed" in header)
    data = open_data("data/train.csv")
    assert data.name(4) == str(Path(place, "004.png"))


@pytest.mark.parametrize("images", ["train", "train_images", "images"])
def test_a_folder_whose_classes_are_in_a_table(finetune, images):
    """The folders of such data are no classes: what was learned then is to tell training from test images."""
    flat(Path("data", images), *(f"{number}.png" for number in range(6)))
    flat(Path("data", "test" if images == "train" else "test_images"), "9.png")
    table(Path("data", "labels.csv"), "id,label", *(f"{number},{number % 2}" for number in range(6)))
    code, said, *_ = finetune()
    assert code == 1
    command = shlex.split(re.search(r"`hierax (finetune \S+) OUT`", said)[1])
    assert command == ["finetune", "data/labels.csv"]
    assert finetune(command[1])[2:4] == (["0", "1"], 6)


def test_class_folders_with_a_table_beside_them(finetune):
    """A list of the same images and classes, or of something else, must not keep folders from being classes."""
    folder_of_classes(Path("data"), count=30)
    table(
        Path("data", "labels.csv"),
        "path,label",
        *(f"{kind}/{n}.png,{kind}" for kind in ("cat", "dog") for n in range(30)),
    )
    table(Path("data", "prices.csv"), "id,label", "a,1", "b,2")
    assert finetune()[2:4] == (["cat", "dog"], 54)
    table(Path("data", "labels.csv"), "path,label", "cat/1.png,tabby", "cat/2.png,persian")
    code, said, *_ = finetune()
    assert code == 1
    assert "gives several to the images in cat/, such as persian, tabby" in said
    assert finetune("data", "split=all")[2] == ["cat", "dog"]


@pytest.mark.parametrize("place", ["data", "data/train", "data/it's here"])
def test_classes_in_file_names(finetune, place):
    """`cat.0.jpg`: the line that is proposed must work as it is pasted."""
    names = [f"{kind}{mark}" for kind, mark in (("cat", ".{}"), ("great_dane", "_{}"), ("rose", " ({})"))]
    flat(Path(place), *(f"{name.format(number)}.png" for name in names for number in range(3)))
    if place == "data/train":
        flat(Path("data", "test1"), "1.png", "2.png")
    code, said, *_ = finetune(place if "'" in place else "data")
    assert code == 1
    line = re.search(r"in a POSIX shell by `(.*?)`, and name", said)[1]
    subprocess.run(["sh", "-c", line], check=True)
    command = shlex.split(re.search(r"`hierax (finetune .*?) OUT`", said)[1])
    assert finetune(command[1])[2:4] == (["cat", "great_dane", "rose"], 9)


def test_flat_images_with_nothing_to_go_by(finetune):
    """Advice made up where there is nothing would send a person astray."""
    flat(Path("data"), *(f"IMG_{number}.png" for number in range(4)))
    table(Path("data", "prices.csv"), "id,price,shop", "1,2,3")
    code, said, *_ = finetune()
    assert code == 1
    assert "Use CLASS/IMAGE.jpg" in said
    assert "POSIX" not in said
    assert "prices" not in said


@pytest.mark.parametrize("name", ["{}.jpg", "{}.JPEG", "images\\{}.png"])
def test_names_of_another_form(finetune, name):
    """Images that were made smaller and saved anew, or listed on Windows."""
    flat(Path("data", "images"), *(f"{number}.png" for number in range(4)))
    table(Path("data", "labels.csv"), "path,label", *(f"{name.format(number)},{number % 2}" for number in range(4)))
    code, said, classes, samples, _ = finetune("data/labels.csv")
    assert (code, classes, samples) == (0, ["0", "1"], 4)
    assert "the files of labels.csv are in images/" in said or "beside it" in said
    assert ("with the extensions" in said) == ("png" not in name)


def test_names_found_in_several_folders(finetune):
    """Which of two images of one name is meant, nobody can tell."""
    for place in ("left", "right"):
        flat(Path("data", place), "1.png", "2.png")
    table(Path("data", "labels.csv"), "id,label", "1,a", "2,b")
    code, said, *_ = finetune("data/labels.csv")
    assert code == 1
    assert "in each of left, right. Write the folder before the names, as in left/1" in said


def test_rows_whose_image_is_missing(finetune, tmp_path):
    """One missing file must be named by what the table calls it, and cost no other."""
    flat(Path("data", "train"), *(f"{number}.png" for number in range(4)))
    table(Path("data", "train.csv"), "id,label", *(f"{number},{number % 2}" for number in range(4)), "77,1", ",0")
    data = open_data("data/train.csv")
    assert [data.name(index) for index in range(5)] == [
        "train/0.png",
        "train/1.png",
        "train/2.png",
        "train/3.png",
        "77",
    ]
    assert data.problems == [("line 7 of train.csv", "no path")]


def test_tables_that_need_no_search(tmp_path, monkeypatch):
    """Listing every folder near a good table of a million rows takes minutes."""
    from hierax.data.datasets import places

    monkeypatch.setattr(places, "_folders_below", lambda root: pytest.fail("searched"))
    flat(tmp_path / "images", "1.png")
    for path in ("images/1.png", str(tmp_path / "images" / "1.png")):
        data = open_data(table(tmp_path / "t.csv", "path,label", f"{path},a", "images/2.png,b"))
        assert [data.name(index) for index in range(2)] == [path, "images/2.png"]
        assert data.notes == []


def test_a_column_of_unknown_name_among_more(tmp_path):
    """Of three columns none can be guessed: one-hot tables, prices, dates."""
    flat(tmp_path / "images", "1.png")
    with pytest.raises(InputError, match=r"column named label; .* has id, rust, scab\..*name the column"):
        open_data(table(tmp_path / "t.csv", "id,rust,scab", "1,0,1"))
