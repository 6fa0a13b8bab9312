"""The page of a finished run: every part of it, whatever names, data and disks are like."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from hierax.cli import main
from hierax.model.metrics import Accuracy
from hierax.train import findings, finetune, page, pretrain
from hierax.train.loop import Loop
from hierax.train.methods.supervised import Supervised
from hierax.visualize import figures

from ..members import coloured_classes, noise, save_learner
from . import runs

pytestmark = pytest.mark.drawn
PLAIN = {**runs.SETTINGS, "drop_path": 0.0, "ema_decay": 0.0, "layer_decay": 1.0}
EMPTY = {"meta", "link", "img", "br", "path", "use", "image", "rect"}


class Page(HTMLParser):
    """Texts and elements of a page by the section that they stand in."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.elements, self.scripts, self._open, self.section = {}, [], [], [], ""
        self.feed(text)
        self.close()
        assert self._open == []  # an element that a name opened or closed would leave the rest askew

    def handle_starttag(self, tag, attributes):
        known = dict(attributes)
        self.elements.append((tag, known))
        if tag not in EMPTY:
            self._open.append(tag)
        if tag == "section":
            self.section = known["id"]

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in EMPTY:
            assert self._open.pop() == tag
        self.texts[self.section] = self.texts.get(self.section, "") + (
            " " if tag in ("td", "th", "div", "text") else ""
        )
        if tag == "section":
            self.section = ""

    def handle_data(self, data):
        if self._open and self._open[-1] == "script":
            self.scripts.append(data)
        self.texts[self.section] = self.texts.get(self.section, "") + data

    def of(self, section):
        """The text of a section, spaces made one."""
        return " ".join(self.texts[section].split())

    def tags(self, name):
        """Attributes of every element of a kind."""
        return [attributes for tag, attributes in self.elements if tag == name]


def read(out):
    """The page of a run, which asks for nothing from anywhere."""
    text = (out / "report.html").read_text("utf-8")
    assert len(text) < 5_000_000
    found = Page(text)
    for _, attributes in found.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), name
            if name in ("src", "href", "xlink:href", "action", "srcset", "poster"):
                assert value.startswith(("data:", "#")), value
    assert not re.search(r"@import|url\((?!#)", text)
    assert len(found.scripts) == 1
    assert "sha256-" in next(a["content"] for a in found.tags("meta") if "http-equiv" in a)
    return found


def run_command(found, capsys):
    """What the line of the page prints, run as it is pasted."""
    line = next(text for text in found.texts["use"].splitlines() if text.startswith("hierax "))
    capsys.readouterr()
    assert main(shlex.split(line)[1:]) == 0
    return capsys.readouterr().out


@pytest.fixture
def data(tmp_path):
    """Three colours, of which one image of each kind has the wrong label."""
    folder = coloured_classes(tmp_path / "data", per_class=8)
    for split, numbers in {"train": range(5), "val": range(5, 8)}.items():
        for kind in range(3):
            (folder / split / f"class_{kind}").mkdir(parents=True)
            for number in numbers:
                name = f"class_{kind}/00{number}.png"
                (folder / name).rename(folder / split / name)
    for kind in range(3):
        (folder / f"class_{kind}").rmdir()
    (folder / "val" / "class_0" / "005.png").rename(folder / "val" / "class_1" / "planted.png")
    return folder


def test_every_part_is_there(tmp_path, data, capsys):
    """A part that is silently absent, or a number that is another one's, makes the page worthless."""
    out = tmp_path / "out"
    settings = {**PLAIN, "lr": 4e-3, "validate_every": 10, "label_smoothing": 0.0}
    summary = finetune(data, out, model=save_learner(tmp_path / "start"), steps=30, **settings)
    assert f"report in {out / 'report.html'}" in capsys.readouterr().err
    assert summary.metrics["correct1"] == 8
    found = read(out)
    top = found.of("")
    assert "Of 9 held-out images of 3 classes the model names 8 right, 88.9% (95% interval 56.5% to 98.0%)" in top
    assert "answering always the most frequent class, class_1, gets 44.4%" in top
    assert "on 15 images for 30 steps" in top
    for heading in ("Training loss: ", "Accuracy on held-out images: 88.9%", "Learning rate: peak 0.004", "Best "):
        assert heading in found.of("curves"), heading
    drawn = [attributes["aria-label"] for attributes in found.tags("svg")]
    assert drawn == ["Loss by step", "Accuracy by step", "Learning rate by step", "Confusion matrix"]
    assert "class_1 class_0 1 of 4" in found.of("confusion")
    for section in ("suspects", "mistakes"):
        assert re.search(r"labelled class_1, seen as class_0 [01]\.\d\d class_1/planted\.png", found.of(section))
    assert "1 of 9 answered wrong" in found.of("mistakes")
    thumbnails = [attributes["src"] for attributes in found.tags("img")]
    assert len(thumbnails) == 2
    assert "class_0 5 2 0.667 1.000 0.800 class_1 5 4 1.000 0.750 0.857 class_2 5 3 1.000 1.000 1.000" in found.of(
        "classes"
    )
    for fact in ("cc-by-nc-4.0", "someone/tiny", json.loads((out / "run.json").read_text())["fingerprint"]):
        assert fact in found.of("origin"), fact
    assert (out / "recipe.toml").read_text().split() == found.texts["recipe"].split("runs it again")[1].split()
    said = run_command(found, capsys)
    assert "class_" in said


@pytest.mark.parametrize("result", ["best", "last"])
def test_the_numbers_are_those_of_the_model(tmp_path, monkeypatch, result):
    """Where the best weights are the model, the accuracy of the last ones is nobody's."""
    data, shares = coloured_classes(tmp_path / "data", per_class=6), iter([2, 5, 3, 1, 5 if result == "best" else 1])

    def validate(self, data, devices):
        right = next(shares)
        found = Accuracy(correct1=right, correct5=6, total=6, data=data)
        found.confusion.update({(0, 0): right, (1, 0): 6 - right})
        return found

    monkeypatch.setattr(Supervised, "validate", validate)
    settings = {**PLAIN, "validate_every": 2, "validation_fraction": 0.34, "result": result}
    finetune(data, tmp_path / "out", model=save_learner(tmp_path / "start"), steps=8, **settings)
    found, (right, step) = read(tmp_path / "out"), (5, 4) if result == "best" else (1, 8)
    assert f"Of 6 held-out images of 3 classes the model names {right} right" in found.of("")
    assert f"Accuracy on held-out images: {100 * right / 6:.1f}%" in found.of("curves")
    assert f"Best 83.3% at step 4; the model is that of step {step}." in found.of("curves")
    assert f"the {result} weights, of step {step}, are the model" in found.of("origin")


def test_names_are_text(tmp_path, capsys):
    """A class named as a script would run in the browser of everybody who is shown the page."""
    hostile = ["<script>alert(1)<\\script>", "'\"><img src=x onerror=alert(2)>", "{{ 7 * 7 }}", "</style> &amp; \u202e x",
               "style=\"fill: #2662c4; font: 'x'", "a\nb\x07\x1b[31m", "-->]]>"]  # fmt: skip
    for place, name in enumerate(hostile):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for number in range(4):
            Image.fromarray(noise(40, 40, seed=10 * place + number)).save(folder / f"<b onclick=x>{number} $(id).png")
    settings = {**PLAIN, "lr": 0.0, "validation_fraction": 0.5}
    out = tmp_path / "out; touch $HOME"
    finetune(tmp_path / "data", out, model=save_learner(tmp_path / "start"), steps=1, **settings)
    found = read(out)
    text = (out / "report.html").read_text("utf-8")
    assert "<script>alert" not in text
    assert "\u202e" not in text
    assert "\x1b" not in text
    assert not [a for a in found.tags("img") if a["src"] == "x"]
    assert not found.tags("b onclick=x")
    for name in ("<script>alert(1)<\\script>", "{{ 7 * 7 }}", "'\"><img src=x onerror=alert(2)>", "-->]]>"):
        assert name in found.of("classes"), name
    assert "a b\\x07\\x1b[31m" in found.of("classes")
    assert "<b onclick=x>" in found.of("mistakes")
    assert run_command(found, capsys)


def generated(classes, *, each=5, seed=0):
    """A finished validation of many classes, as the run of a large network would leave it."""
    rng = np.random.default_rng(seed)

    class Data:
        notes, problems = (), ()
        labels = np.repeat(np.arange(classes), each)

        def __len__(self):
            return len(self.labels)

        def name(self, index):
            return f"class {self.labels[index]}/{index}.jpg"

        def read(self, index):
            return np.full((1200, 1600, 3), index % 255, dtype=np.uint8) ^ rng.integers(
                0, 40, (1200, 1600, 3), dtype=np.uint8
            )

    data, result = Data(), Accuracy()
    result.data = data
    for index, truth in enumerate(data.labels.tolist()):
        answer = truth if rng.random() < 0.8 else (truth + 1) % classes
        result.total += 1
        result.correct1 += answer == truth
        result.confusion[truth, answer] += 1
        result.own[truth] += 0.7
        if answer != truth:
            result.worst.append((rng.random(), data.name(index), truth, answer, index, 0.01))
    result.worst = sorted(result.worst, reverse=True)[:32]
    return result


@pytest.mark.parametrize("classes", [2, 10, 100, 700])
def test_as_many_classes_as_there_are(tmp_path, monkeypatch, classes):
    """Large photographs make a page of hundreds of megabytes; a hundred labels on top of each other cannot be read."""
    names, rendered, render = [f"kind number {number:03}" for number in range(classes)], {}, page.render_report
    monkeypatch.setattr(page, "render_report", lambda facts: rendered.update(facts) or render(facts))
    monkeypatch.setattr(Loop, "run", lambda self: self.report.losses.extend(np.linspace(3, 1, 30_000)))
    monkeypatch.setattr(Supervised, "validate", lambda self, data, devices: generated(classes))
    table = tmp_path / "data" / "table.csv"
    table.parent.mkdir()
    Image.fromarray(noise(40, 40)).save(table.parent / "a.png")
    table.write_text("path,label\n" + "".join(f"a.png,{name}\n" * 2 for name in names))
    out = tmp_path / "out"
    finetune(table, out, model=save_learner(tmp_path / "start"), steps=1, validation=str(table), **PLAIN)
    found = read(out)
    assert (out / "report.html").stat().st_size < 1_500_000
    assert len(rendered["classes"]) == classes
    shown = [attributes["aria-label"] for attributes in found.tags("svg")]
    assert ("Confusion matrix" in shown) == (classes <= 500)
    if classes > 500:
        assert "700 classes are more than the 500" in found.of("confusion")
    pairs = re.findall(r"(\d+) of 5", found.of("confusion"))
    assert len(pairs) == (12 if classes >= 30 else len(pairs))
    assert [int(count) for count in pairs] == sorted(map(int, pairs), reverse=True)
    worst = found.of("classes").index(names[findings.class_scores(generated(classes), classes)[0].label])
    assert worst == min(found.of("classes").index(name) for name in names)


def test_without_validation(tmp_path):
    """A page that shows the accuracy of nothing, or that fails where there is none."""
    data = coloured_classes(tmp_path / "data", per_class=2)
    finetune(data, tmp_path / "out", model=save_learner(tmp_path / "start"), steps=2, validation_fraction=0.0, **PLAIN)
    found = read(tmp_path / "out")
    assert "No accuracy was measured" in found.of("")
    assert not {"confusion", "mistakes", "suspects", "classes"} & found.texts.keys()
    assert [attributes["aria-label"] for attributes in found.tags("svg")] == ["Loss by step", "Learning rate by step"]


def test_of_pretraining(tmp_path, capsys, monkeypatch):
    """Reconstructions and the baseline are what tells whether anything was learned."""
    data = coloured_classes(tmp_path / "data", per_class=3)
    pretrain(data, tmp_path / "out", model=save_learner(tmp_path / "mae", decoder=True), steps=3, **PLAIN)
    found = read(tmp_path / "out")
    assert "no better than predicting zero (0.9987): it has learned nothing yet" in found.of("")
    assert "nothing learned (0.9987)" in found.of("curves")
    assert {"features", "reconstructions"} <= found.texts.keys()
    assert len(found.tags("img")) == 2
    assert "classes" not in found.texts
    run_command(found, capsys)
    assert (tmp_path / "out" / "vectors.npz").is_file()
    monkeypatch.setattr(Loop, "run", lambda self: self.report.losses.extend([0.9, 0.5, 0.25]))
    pretrain(data, tmp_path / "good", model=tmp_path / "mae", steps=3, **PLAIN)
    assert "with a loss of 0.25, where predicting zero gives 0.9987." in read(tmp_path / "good").of("")


def test_of_data_without_files(tmp_path, capsys):
    """A command that names an image which nobody has is no command."""
    out = tmp_path / "out"
    finetune("shapes:32", out, model=save_learner(tmp_path / "start"), steps=1, **PLAIN)
    assert (out / "example.png").is_file()
    assert run_command(read(out), capsys)


def test_without_matplotlib(tmp_path, monkeypatch):
    """Everything but the charts needs no plotting package."""
    data, model = coloured_classes(tmp_path / "data", per_class=4), save_learner(tmp_path / "start")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    finetune(data, tmp_path / "out", model=model, steps=1, validation_fraction=0.5, **{**PLAIN, "lr": 0.0})
    found = read(tmp_path / "out")
    assert not found.tags("svg")
    for section in ("curves", "confusion"):
        assert 'pip install "hierax[viz]"' in found.of(section)
    assert "class_0 2 2" in found.of("classes")
    assert found.tags("img")


@pytest.mark.parametrize("part", ["loss_figure", "confusion_figure", "thumbnail"])
def test_a_part_that_fails_is_left_out(tmp_path, monkeypatch, part):
    """One odd picture must not cost the page, nor the page the run."""

    def fail(*given, **named):
        raise MemoryError("no room for it")

    data, model = coloured_classes(tmp_path / "data", per_class=4), save_learner(tmp_path / "start")
    monkeypatch.setattr(figures, part, fail)
    settings = {**PLAIN, "lr": 0.0, "validation_fraction": 0.5}
    summary = finetune(data, tmp_path / "out", model=model, steps=1, **settings)
    found = read(tmp_path / "out")
    assert "held-out images of 3 classes" in found.of("")
    assert ("no room for it" if part != "thumbnail" else "no picture") in " ".join(found.texts.values())
    assert summary.model.is_dir()


def test_a_page_that_cannot_be_written(tmp_path, monkeypatch, caplog, capsys):
    """A full disk in the last second must neither lose the model nor leave half a page or a promise of one."""
    data, model = coloured_classes(tmp_path / "data", per_class=2), save_learner(tmp_path / "start")

    def full(path, text):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(page, "write_text", full)
    summary = finetune(data, tmp_path / "out", model=model, steps=1, **PLAIN)
    assert summary.model.is_dir()
    assert (tmp_path / "out" / "summary.json").is_file()
    assert not (tmp_path / "out" / "report.html").exists()
    assert "report in" not in capsys.readouterr().err
    assert [message for message in caplog.messages if message.startswith("report.html was not")]


def test_scores_are_those_of_scikit_learn():
    """Precision and recall the wrong way round look plausible."""
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    truth, answer = rng.integers(0, 6, 300), rng.integers(0, 7, 300)
    truth[truth == 4] = 5  # a class without images that is answered all the same
    result = Accuracy(total=300)
    for pair in zip(truth.tolist(), answer.tolist(), strict=True):
        result.confusion[pair] += 1
    precision, recall, f1, count = metrics.precision_recall_fscore_support(
        truth, answer, labels=range(7), zero_division=0
    )
    for score in findings.class_scores(result, 7):
        assert score.count == count[score.label]
        assert (score.precision or 0) == pytest.approx(precision[score.label])
        assert (score.recall or 0) == pytest.approx(recall[score.label])
        assert (score.f1 or 0) == pytest.approx(f1[score.label])
    ordered = [score.f1 for score in findings.class_scores(result, 7)]
    assert ordered[:5] == sorted(ordered[:5])
    assert ordered[5:] == [None, None]


def test_interval_of_a_share():
    """The plain interval of 8 of 8 would say that nothing is uncertain."""
    assert findings.interval(8, 8) == pytest.approx((0.6756, 1.0), abs=1e-4)
    assert findings.interval(0, 8) == pytest.approx((0.0, 0.3244), abs=1e-4)
    assert findings.interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table 1


def test_suspects():
    """Every sure mistake a wrong label, or none as long as the network is unsure of everything, helps nobody."""
    result = Accuracy(total=22)
    result.confusion.update({(0, 0): 10, (1, 1): 8, (0, 1): 3, (1, 0): 1})
    result.own.update({0: 13 * 0.9, 1: 9 * 0.6})
    result.worst = [
        (0.95, "a", 0, 1, 0, 0.01),
        (0.93, "b", 0, 1, 1, 0.2),  # the label is considered too
        (0.80, "c", 1, 0, 2, 0.01),  # less sure than of class 0 usually
        (0.70, "d", 0, 1, 3, 0.01),
    ]
    assert findings.suspects(result) == [0, 3]
