"""Frozen features judged by kNN, linear probe and retrieval: against scikit-learn and NumPy done by hand."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

import hierax
from hierax.cli import main
from hierax.data.datasets.open import open_data
from hierax.data.datasets.seen import traces
from hierax.data.datasets.shapes import render_folder
from hierax.errors import InputError, MissingExtraError, UnknownNameError
from hierax.evaluate import knn, linear, retrieval
from hierax.evaluate.accuracy import accuracy
from hierax.evaluate.features import balanced
from hierax.evaluate.linear import STRENGTHS, chosen_strength, held_apart, probes

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def predictor():
    return hierax.load()


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """96 images of 16 classes in one folder, and the same with training and validation splits."""
    folder = tmp_path_factory.mktemp("frozen")
    whole = render_folder(folder / "whole", count=96, seed=11, size=48, image_format="png")
    for index, path in enumerate(sorted(whole.glob("*/*.png"))):
        place = folder / "split" / ("val" if index % 3 == 0 else "train") / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    return folder


def by_hand(predictor, folder):
    """Embeddings and class names of a folder, without any of evaluate's code."""
    paths = sorted(folder.glob("*/*.png"))
    return predictor.embed(paths).astype(np.float64), np.array([path.parent.name for path in paths])


def test_knn__leave_one_out(predictor, shapes):
    """An image that votes for itself, or the distance as weight, gives another number."""
    KNeighborsClassifier = pytest.importorskip("sklearn.neighbors").KNeighborsClassifier
    rows, names = by_hand(predictor, shapes / "whole")
    theirs = KNeighborsClassifier(5, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07))
    right = [
        theirs.fit(np.delete(rows, i, 0), np.delete(names, i)).predict(rows[i : i + 1])[0] == names[i]
        for i in range(len(rows))
    ]
    scores = knn(shapes / "whole", predictor, k=5)
    own, baseline = scores.results
    assert (own["top1"], own["correct"], own["images"]) == (np.mean(right), sum(right), 96)
    assert own["per_class"] == {name: np.mean(np.array(right)[names == name]) for name in sorted(set(names))}
    assert baseline["model"] == "colour+edges"
    assert baseline["top1"] < own["top1"] <= own["top5"]
    assert scores.data["splits"] == []


def test_knn__splits(predictor, shapes):
    """Validation images among the neighbours would find themselves."""
    KNeighborsClassifier = pytest.importorskip("sklearn.neighbors").KNeighborsClassifier
    rows, names = by_hand(predictor, shapes / "split" / "train")
    queries, truth = by_hand(predictor, shapes / "split" / "val")
    theirs = KNeighborsClassifier(20, metric="cosine", algorithm="brute").fit(rows, names)
    scores = knn(shapes / "split", predictor, temperature=None, baselines="none")
    near = theirs.kneighbors(queries, return_distance=False)
    votes = np.stack([(names[near] == name).sum(1) for name in sorted(set(names))], 1)
    right = np.array(sorted(set(names)))[votes.argmax(1)] == truth
    assert [row["top1"] for row in scores.results] == [right.mean()]
    assert (scores.data["images"], scores.data["judged"]) == (len(rows), len(queries))


def test_linear__splits(predictor, shapes):
    """A probe without standardised features, or with another C than it says, has other numbers."""
    pytest.importorskip("sklearn")
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, names = by_hand(predictor, shapes / "split" / "train")
    queries, truth = by_hand(predictor, shapes / "split" / "val")
    (found,) = linear(shapes / "split", predictor, seeds=3, baselines="none").results
    for single in found["seeds"]:
        theirs = make_pipeline(StandardScaler(), LogisticRegression(C=single["C"], max_iter=2000)).fit(rows, names)
        assert single["accuracy"] == theirs.score(queries, truth)
        assert single["converged"]
    shares = [single["accuracy"] for single in found["seeds"]]
    assert found["accuracy"] == pytest.approx(np.mean(shares))
    assert found["spread"] == pytest.approx(np.std(shares, ddof=1))
    assert found["images"] == len(queries)


def test_linear__strength_is_chosen_by_training_samples_alone():
    """A C chosen by what is judged flatters: on features of pure noise its mean would lie above chance."""
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    rows, labels = rng.standard_normal((60, 8)), rng.integers(0, 3, 60)
    judged = held_apart(labels, 0.2, 0)
    wanted = chosen_strength(rows[~judged], labels[~judged], 0)
    rows[judged] = 1e3 * rng.standard_normal((judged.sum(), 8))
    (probe,) = probes(rows, labels, seeds=1)
    assert probe.strength == wanted
    assert probe.trained == (~judged).sum()


def test_linear__strength_follows_the_data():
    """A C that is always the same is chosen by nobody: much noise wants a strong penalty, none a weak one."""
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    signal = np.where(labels, 1.0, -1.0)[:, None]
    noisy = 0.25 * signal + rng.standard_normal((200, 100))
    assert chosen_strength(noisy, labels, 0) < 0.1
    xor = np.stack([signal[:, 0] * rng.choice([1, 1e-3], 200), rng.standard_normal(200)], 1)
    assert chosen_strength(xor, labels, 0) in STRENGTHS


def test_linear__warnings_and_rare_classes(recwarn):
    """scikit-learn's own folds warn about classes with fewer samples than folds, and refuse those with one."""
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    labels = np.array([0] * 30 + [1] * 30 + [2] * 2 + [3])
    rows = rng.standard_normal((63, 5)) + labels[:, None]
    rows[:, 0] = 1.0
    found = probes(rows, labels, seeds=2)
    assert [len(probe.truth) for probe in found] == [13, 13]
    assert not [each for each in recwarn if "sklearn" in str(each.filename)]
    (few,) = probes(np.eye(3), np.arange(3), (np.eye(3), np.arange(3)), seeds=1)
    assert few.accuracy == 1.0


def test_retrieval__by_hand(predictor, shapes):
    """Ranks by dot product, or with the query among its own results, differ."""
    rows, names = by_hand(predictor, shapes / "whole")
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    similar = rows @ rows.T
    precisions, at_r, hits = [], [], []
    for query in range(len(rows)):
        order = [place for place in np.argsort(-similar[query]) if place != query]
        relevant = names[order] == names[query]
        share = np.cumsum(relevant) / np.arange(1, len(order) + 1)
        precisions.append(share[relevant].mean())
        at_r.append((share * relevant)[: relevant.sum()].sum() / relevant.sum())
        hits.append([relevant[:k].any() for k in (1, 5, 10)])
    (found,) = retrieval(shapes / "whole", predictor, baselines="none").results
    assert found["map"] == pytest.approx(np.mean(precisions), abs=1e-6)
    assert found["map_thresholds"] == pytest.approx(np.mean(precisions), abs=1e-6)
    assert found["map_at_r"] == pytest.approx(np.mean(at_r), abs=1e-6)
    assert [found[f"recall@{k}"] for k in (1, 5, 10)] == pytest.approx(np.mean(hits, 0), abs=1e-6)
    assert (found["queries"], found["left_out"]) == (96, 0)


def test_retrieval__gallery_and_lonely_classes(predictor, shapes, tmp_path):
    """A query of whose class nothing is in the gallery has no average precision; counted as 0 it would lower the mean."""
    for index, path in enumerate(sorted((shapes / "whole").glob("*/*.png"))):
        side = "query" if index % 4 == 0 else "gallery"
        if side == "query" or path.parent.name != "star":
            (tmp_path / side / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / side / path.parent.name / path.name)
    lonely = len(list(tmp_path.glob("query/star/*")))
    (found,) = retrieval(tmp_path, predictor, baselines="none").results
    assert lonely
    assert found["left_out"] == lonely
    assert found["queries"] == len(list(tmp_path.glob("query/*/*"))) - lonely
    assert 0.5 < found["map"] <= 1
    assert "star" not in found["per_class"]


def test_stages(predictor, shapes):
    """All stages, each averaged over its map; in a cosine no stage may outweigh the others by its scale."""
    paths = sorted((shapes / "whole").glob("*/*.png"))
    maps = [found.mean((2, 3)) for found in predictor.features(paths).values()]
    scaled = np.concatenate([part / np.linalg.norm(part, axis=1, keepdims=True) for part in maps], 1)
    assert balanced(np.concatenate(maps, 1), [part.shape[1] for part in maps]) == pytest.approx(scaled)
    (both,) = knn(shapes / "whole", predictor, k=5, features="stages", baselines="none").results
    (some,) = knn(shapes / "whole", predictor, k=5, features="stage4, stage2", baselines="none").results
    assert (both["dimensions"], some["dimensions"]) == (sum(predictor.encoder.return_channels), 64 + 256)
    from hierax.model.neighbours import knn_accuracy

    labels = np.unique([path.parent.name for path in paths], return_inverse=True)[1]
    assert both["top1"] == knn_accuracy(scaled, labels, k=5)
    with pytest.raises(UnknownNameError, match="stage9"):
        knn(shapes / "whole", predictor, features="stage1,stage9")


def test_several_models__one_table(predictor, shapes, tmp_path):
    """Rows of one name could not be told apart; random weights of the same network are below trained ones."""
    saved = predictor.save(tmp_path / "mine")
    scores = knn(shapes / "whole", {"a": predictor, "b": saved}, k=5, baselines="all")
    names = [row["model"] for row in scores.results]
    assert names == ["a", "a, random weights", "b", "b, random weights", "colour+edges"]
    trained, random, again, *_ = (row["top1"] for row in scores.results)
    assert trained == again > random
    assert [row["model"] for row in knn(shapes / "whole", [predictor, predictor], k=5).results][1].endswith("(2)")
    assert str(scores).splitlines()[0].split() == ["model", "features", "numbers", "top-1", "top-5", "images"]


def test_unreadable__rows_with_errors(predictor, shapes, tmp_path, capsys):
    """One broken file must not stop the rest, count as wrong, or pass in silence."""
    shutil.copytree(shapes / "whole", tmp_path / "photos")
    broken = [tmp_path / "photos" / "star" / "cut.png", tmp_path / "photos" / "circle" / "empty.png"]
    broken[0].write_bytes((next((tmp_path / "photos" / "star").glob("*.png"))).read_bytes()[:60])
    broken[1].write_bytes(b"")
    assert main(["eval", "knn", str(tmp_path / "photos"), "--k", "5", "--format", "json"]) == 3
    out, err = capsys.readouterr()
    found = json.loads(out)
    whole = knn(shapes / "whole", predictor, k=5)
    assert [row["top1"] for row in found["results"]] == [row["top1"] for row in whole.results]
    assert {each["path"] for each in found["unreadable"]} == {"star/cut.png", "circle/empty.png"}
    assert [row["unreadable"] for row in found["results"]] == [2, 2]
    assert "2 of 98" in err


def test_unreadable__each_file_has_its_own_reason(shapes, tmp_path, capsys):
    """Equal bytes are computed once, but the reason of the first names the first."""
    shutil.copytree(shapes / "whole", tmp_path / "photos")
    for name in ("star/bad.png", "circle/bad.png", "circle/worse.png"):
        (tmp_path / "photos" / name).write_bytes(b"no image")
    scores = knn(tmp_path / "photos", None, k=5, baselines="none")
    assert len(scores.unreadable) == 3
    assert all(f"photos/{name}" in reason for name, reason in scores.unreadable)


def test_copies__are_told(predictor, shapes, tmp_path, capsys):
    """Validation images that were copied from the training images give 100 % of anything."""
    knn(shapes / "split", predictor, k=5)
    assert "byte for byte" not in capsys.readouterr().err
    shutil.copytree(shapes / "split", tmp_path / "photos")
    copied = sorted((tmp_path / "photos" / "train" / "star").glob("*.png"))[:2]
    for path in copied:
        shutil.copy(path, tmp_path / "photos" / "val" / "star" / f"copy_{path.name}")
    knn(tmp_path / "photos", predictor, k=5)
    assert "2 of 34 images that are judged are byte for byte among those" in capsys.readouterr().err
    shutil.copytree(shapes / "whole", tmp_path / "whole")
    one = next((tmp_path / "whole" / "star").glob("*.png"))
    shutil.copy(one, one.with_name("again.png"))
    knn(tmp_path / "whole", predictor, k=5)
    assert "2 of 97 images" in capsys.readouterr().err


def test_strips__little_of_them_is_seen(predictor, tmp_path, capsys):
    """Low scores of images squashed to a twelfth say little of the features; who does not know gives up."""
    for name, level in (("dark", 20), ("light", 200)):
        (tmp_path / "strips" / name).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (16, 200), (level + index,) * 3).save(tmp_path / "strips" / name / f"{index}.png")
    knn(tmp_path / "strips", predictor, k=2, baselines="none")
    said = capsys.readouterr().err
    assert "squashed to it, about 12 times" in said
    assert "--input-size 352x32" in said
    knn(tmp_path / "strips", hierax.load(input_size=(352, 32)), k=2, baselines="none")
    assert "far from the shape" not in capsys.readouterr().err
    accuracy(tmp_path / "strips", hierax.load(num_classes=2), protocol="timm")
    assert "a crop of it shows about 8% of each" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["knn", "linear", "retrieval"])
def test_command__json_and_chart(shapes, tmp_path, capsys, task):
    """What a person sees, what a script reads, and the picture."""
    pytest.importorskip("sklearn")
    chart = tmp_path / "chart.png"
    options = ["--seeds", "2"] if task == "linear" else []
    words = ["eval", task, str(shapes / "split"), "-m", "hiera_nano_96", *options, "--format", "json"]
    assert main([*words, "--plot", str(chart)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["task"] == task
    assert [row["model"] for row in found["results"]] == ["hiera_nano_96", "colour+edges"]
    assert found["data"]["classes"] == 16
    assert found["data"]["splits"] == ["train", "validation"]
    assert len(found["results"][0]["provenance"]["sha256"]) == 64
    assert chart.read_bytes().startswith(b"\x89PNG")
    assert main([*words, "--plot", str(chart)]) == 1
    assert "already exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    "order",
    ["DATA -m A -m B", "DATA -m A B", "-m A -m B DATA", "-m A B DATA", "-m A DATA -m B", "-m A --k 5 DATA -m B"],
)
def test_command__orders(order):
    """An option of several values takes what follows it, the data too; nobody should need to know."""
    from hierax.commands import evaluation

    seen = []

    def judge(judged, data, models, *_, **__):
        seen.extend(evaluation.told_apart(data, models))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "_judge", judge)
        main(["eval", "knn", *order.split()])
    assert seen == ["DATA", ["A", "B"]]


def test_bad_input__messages(shapes, tmp_path, capsys):
    """Each is told before a model computes anything, with what to do."""
    one = tmp_path / "one" / "only"
    lonely = tmp_path / "lonely"
    for number, path in enumerate(sorted((shapes / "whole").glob("*/*.png"))[::6]):
        for place in (one / path.name, lonely / f"class_{number}" / path.name):
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
    (tmp_path / "broken" / "a").mkdir(parents=True)
    (tmp_path / "broken" / "b").mkdir()
    (tmp_path / "broken" / "a" / "x.png").write_bytes(b"no image")
    (tmp_path / "broken" / "a" / "y.png").write_bytes(b"no image either")
    (tmp_path / "broken" / "b" / "z.png").write_bytes(b"nor this")
    for words, match in [
        (["eval", "knn"], "Name the data"),
        (["eval", "knn", "-m", "hiera_nano_96"], "Name the data"),
        (["eval", "knn", "nowhere"], "does not exist"),
        (["eval", "knn", str(one)], "one folder a class"),
        (["eval", "retrieval", str(one.parent)], "two or more; got 'only'"),
        (["eval", "linear", str(lonely)], "one image"),
        (["eval", "knn", str(tmp_path / "broken")], "3 have none"),
        (["eval", "knn", str(shapes / "whole"), "-m", "hiera_nona_96"], "hiera_nano_96"),
        (["eval", "knn", str(shapes / "whole"), "-m", "./missing"], "missing"),
        (["eval", "knn", str(shapes / "whole"), "--k", "0"], "at least 1"),
        (["eval", "knn", str(shapes / "whole"), "--temperature", "0"], "above 0"),
        (["eval", "linear", str(shapes / "whole"), "--seeds", "0"], "at least 1"),
        (["eval", "knn", str(shapes / "whole"), "--split", "tets"], "no|none"),
        (["eval", "knn", str(shapes / "whole"), "--plot", "chart.jpg"], ".png"),
    ]:
        assert main(words) == 1, words
        err = capsys.readouterr().err
        assert "internal error" not in err
        assert pytest.importorskip("re").search(match, err), (words, err)


def test_validation_class_that_training_lacks(predictor, shapes, tmp_path):
    """It could never be right: the folder has another name by mistake."""
    shutil.copytree(shapes / "split", tmp_path / "split")
    (tmp_path / "split" / "val" / "star").rename(tmp_path / "split" / "val" / "stars")
    with pytest.raises(InputError, match="'stars'.*Did you mean 'star'"):
        knn(tmp_path / "split", predictor)


def test_trained_on_what_is_judged(predictor, shapes, tmp_path, capsys):
    """A fine-tuned network knows the images of its training by heart; features of new ones are worse."""
    data = open_data(shapes / "whole")
    saved = predictor.save(tmp_path / "run" / "model")
    run = {"classes": data.classes, "traces": traces(data)}
    (tmp_path / "run" / "run.json").write_text(json.dumps(run))
    knn(shapes / "whole", saved, k=5, baselines="none")
    assert "was trained on images that are judged here" in capsys.readouterr().err
    (tmp_path / "run" / "run.json").write_text(json.dumps({**run, "classes": []}))  # as of pretraining
    knn(shapes / "whole", saved, k=5, baselines="none")
    assert "was trained" not in capsys.readouterr().err


def test_models__none_or_wrong(shapes, predictor):
    """A list without models, or of something else, says so."""
    with pytest.raises(InputError, match="at least one model"):
        knn(shapes / "whole", [])
    with pytest.raises(InputError, match="int"):
        knn(shapes / "whole", 5)
    with pytest.raises(InputError, match="baselines"):
        knn(shapes / "whole", predictor, baselines="some")


def test_linear__without_scikit_learn(shapes, monkeypatch):
    """Told before an hour of embedding."""
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingExtraError, match="scikit-learn"):
        linear(shapes / "whole")
