"""What a notebook shows of our objects: a line that says what it is, or a table; never pages."""

from __future__ import annotations

import typing
from pathlib import Path

import hierax
from hierax.train.run import RunSummary

from .members import picture, write_png


def test_create__is_an_encoder():
    """As a plain Module, editors know none of its methods."""
    assert typing.get_type_hints(hierax.create)["return"] is hierax.Encoder


def test_predictor__one_line(tmp_path):
    """<hierax.predictor.Predictor object at 0x...> says nothing."""
    predictor = hierax.load()
    assert repr(predictor) == "Predictor(hiera_nano_96, Encoder, 96x96, 16 classes, torch.float32, cpu)"


def test_card__one_line_and_a_table():
    """The dataclass prints every field of every config inside it."""
    card = hierax.describe("hiera_nano_96")
    assert repr(card) == "ModelCard('hiera_nano_96', hiera_nano_96, 96x96, 16 classes, apache-2.0)"
    assert "<th>license</th><td>apache-2.0</td>" in card._repr_html_()


def test_predictions__short_and_a_table(tmp_path):
    """Digits that mean nothing hide those that do; a label from elsewhere must not be HTML."""
    predictor = hierax.load()
    answers = predictor.classify(picture((96, 96)), top_k=2)
    assert isinstance(answers, list)
    assert answers[0] == list(answers[0])
    assert repr(answers[0][0]).count(",") == 2
    assert len(repr(answers[0][0])) < 60
    predictor.labels = ["<script>", *(predictor.labels or [])[1:]]
    table = predictor.classify(write_png(tmp_path / "a.png"), top_k=16)._repr_html_()
    assert table.count("<tr>") == 17
    assert "<script>" not in table
    assert "&lt;script&gt;" in table
    assert "<td>0</td>" in predictor.classify(tmp_path / "a.png")[0]._repr_html_()


def test_run_summary__one_line():
    """Thousands of losses are not an answer."""
    done = dict(epochs=1.0, samples=9, classes=["a"], losses=[0.1] * 5000, skipped_steps=0, resumed_from=0, seconds=1.0)
    metrics = {"top1": 97.5, "top5": 100.0}
    summary = RunSummary(
        out=Path("o"),
        model=Path("o/model"),
        steps=5000,
        loss=0.1,
        metrics=metrics,
        result={},
        unreadable={"x": "y"},
        **done,
    )
    model = str(Path("o/model"))
    assert repr(summary) == f"RunSummary({model!r}, 5000 steps, loss 0.1, {metrics})"
