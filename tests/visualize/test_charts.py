"""Charts: what stands where in them, what they leave behind, and what they refuse."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from PIL import Image

from hierax.errors import InputError, MissingExtraError
from hierax.visualize import charts

BLUE, RED = (38, 98, 196), (206, 60, 40)


def near(path, color, tolerance=60):
    """Where a colour is, as (x, y)."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    rows, columns = np.nonzero(np.abs(pixels - color).sum(-1) < tolerance)
    return columns, rows


@pytest.fixture
def axes(monkeypatch):
    """The axes of the chart that was drawn last."""
    from matplotlib.figure import Figure

    kept = []
    add = Figure.add_subplot
    monkeypatch.setattr(Figure, "add_subplot", lambda self, *a, **k: kept.append(add(self, *a, **k)) or kept[-1])
    return lambda: kept[-1]


def test_curves__falling_loss_falls(tmp_path):
    """An upside-down axis, or points in the wrong order, would draw a rising line."""
    charts.training_curves([3 - step / 50 for step in range(49)], tmp_path / "curves.png")
    columns, rows = near(tmp_path / "curves.png", BLUE)
    inside = columns < columns.max() * 0.8  # the legend stands at the right
    assert np.corrcoef(columns[inside], rows[inside])[0, 1] > 0.99
    assert [entry.name for entry in tmp_path.iterdir()] == ["curves.png"]


@pytest.mark.parametrize("steps", [1, 30, 130, 5001])
def test_curves__hold_every_size_of_run(tmp_path, axes, steps):
    """A smoothed value must stand at the last step of its window; the baseline and both lines must be named."""
    charts.training_curves([float(step) for step in range(1, steps + 1)], tmp_path / "c.png", baseline=0.9987)
    window = max(5, steps // 50) if steps >= 100 else 1  # a mean of two steps is the loss again
    lines = {line.get_label(): line.get_xydata() for line in axes().lines}
    assert list(lines["loss"][:, 0]) == list(range(1, steps + 1))
    assert (f"mean of {window} steps" in lines) == (window > 1)
    if window > 1:
        means = lines[f"mean of {window} steps"]
        known = means[~np.isnan(means[:, 1])]
        assert known[:, 1] == pytest.approx(known[:, 0] - (window - 1) / 2)
        assert known[0, 0] == window
        assert known[-1, 0] == steps
    named = [text.get_text() for text in axes().get_legend().get_texts()]
    assert "nothing learned (0.9987)" in named
    assert "loss" in named


def test_smoothed__gaps_do_not_spread():
    """One skipped step would blank a whole window, or count as a loss of zero."""
    means = charts.smoothed(np.array([1.0, 3.0, math.nan, 5.0, math.nan, math.nan]), 2)
    np.testing.assert_array_equal(means, [math.nan, 2.0, 3.0, 5.0, 5.0, math.nan])


def test_curves__not_finite_leaves_a_gap(tmp_path, axes):
    """A skipped step must not cost the picture, nor be drawn as a value."""
    charts.training_curves([1.0, math.nan, math.inf, 0.5], tmp_path / "c.png")
    assert np.isnan(axes().lines[0].get_ydata()).tolist() == [False, True, True, False]
    charts.training_curves([math.nan] * 300 + [2.0], tmp_path / "d.png")
    charts.training_curves([-1e-9, 3e12], tmp_path / "e.png")
    assert len(list(tmp_path.iterdir())) == 3


def test_curves__log_only_where_it_helps(tmp_path, axes):
    """A falling accuracy-like loss needs no log axis; one that falls a thousandfold cannot be read without."""
    steps = np.arange(2000)
    for losses, scale in (
        (3 - steps / 1000, "linear"),
        (7 * np.exp(-steps / 200) + 0.001, "log"),
        (7 * np.exp(-steps / 200) - 0.001, "linear"),  # a log axis has no place for it
    ):
        charts.training_curves(losses, tmp_path / "c.png")
        assert axes().get_yscale() == scale


@pytest.mark.parametrize("losses", [[], [math.nan], [math.inf, math.nan]])
def test_curves__refuses_nothing_to_draw(tmp_path, losses):
    """An empty picture would look like a run that went nowhere."""
    with pytest.raises(InputError, match="at least one"):
        charts.training_curves(losses, tmp_path / "c.png")
    assert list(tmp_path.iterdir()) == []


def test_confusion__rows_are_true_classes(tmp_path):
    """A transposed picture would put the mistake on the other side of the diagonal."""
    charts.confusion(np.array([[10, 0, 0], [0, 10, 0], [10, 0, 0]]), ["a", "b", "c"], tmp_path / "m.png")
    columns, rows = near(tmp_path / "m.png", BLUE)
    wrong_columns, wrong_rows = near(tmp_path / "m.png", RED)
    assert np.corrcoef(columns, rows)[0, 1] > 0.5  # the diagonal falls
    assert wrong_rows.mean() > rows.mean()
    assert wrong_columns.mean() < columns.mean()


def test_shades__are_shares_of_the_row():
    """Shares of the column, or of everything, would let large classes hide the small ones' mistakes."""

    def shades(counts):
        rgba = charts.shades(np.array(counts))
        return 255 * (1 + rgba[..., 3:] * (rgba[..., :3] - 1))  # on white

    shades, empty = shades([[1, 0], [300, 900]]), shades([[0]])
    assert shades[0, 0] == pytest.approx(BLUE)
    assert shades[0, 1].tolist() == [255, 255, 255]
    assert shades[1, 0] == pytest.approx([255 + 0.5 * (value - 255) for value in RED])
    assert (empty == 255).all()


@pytest.mark.parametrize(("classes", "labels", "numbers"), [(1, 1, 1), (20, 20, 20), (21, 21, 0), (300, 60, 0)])
def test_confusion__stays_readable(tmp_path, axes, classes, labels, numbers):
    """Labels that overlap, counts smaller than type, or a picture that grows with the classes cannot be read."""
    charts.confusion(np.eye(classes, dtype=int), [f"class {k}" for k in range(classes)], tmp_path / "m.png")
    shown = axes().get_yticklabels()
    assert len(shown) == len(axes().get_xticklabels()) == labels
    assert [label.get_text() for label in shown][-1] == f"class {(labels - 1) * -(-classes // labels)}"
    assert len(axes().texts) == numbers
    with Image.open(tmp_path / "m.png") as picture:
        assert max(picture.size) < 2200


def test_confusion__names_are_text(tmp_path):
    """A dollar sign is no formula, a newline no second line, and a script without a glyph no warning."""
    names = ["$x_", "a\nb", "\u732b", "long " * 90, ""]
    charts.confusion(np.eye(5, dtype=int), names, tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as picture:
        assert max(picture.size) < 700


@pytest.mark.parametrize("matrix", [np.zeros((2, 3)), np.zeros((3, 3)), np.zeros((0, 0))])
def test_confusion__refuses(tmp_path, matrix):
    """Labels that do not fit would name the wrong rows."""
    with pytest.raises(InputError, match="per class"):
        charts.confusion(matrix, ["a", "b"], tmp_path / "m.png")
    assert list(tmp_path.iterdir()) == []


def test_charts__are_nobodys_settings(tmp_path):
    """A person's matplotlibrc must not change a picture, nor a picture a person's matplotlib."""
    charts.training_curves([3.0, 2.0], tmp_path / "a.png", baseline=2.5)
    theirs = {"text.usetex": True, "axes.facecolor": "black", "savefig.dpi": 10}
    with matplotlib.rc_context(theirs):
        before = dict(matplotlib.rcParams)
        charts.training_curves([3.0, 2.0], tmp_path / "b.png", baseline=2.5)
        assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_charts__need_no_screen(tmp_path):
    """pyplot would keep every figure alive and, with a GUI backend named, open a window or fail without one."""
    code = (
        "import sys, pathlib\n"
        "from hierax.visualize import charts\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"charts.training_curves([2.0, 1.0], pathlib.Path({str(tmp_path)!r}) / 'c.png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "MPLBACKEND": "TkAgg"})
    assert done.returncode == 0


def test_charts__without_matplotlib(tmp_path, monkeypatch):
    """The remedy is one line."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"hierax\[viz\]"):
        charts.training_curves([1.0], tmp_path / "c.png")


def test_confusion__worst_pairs_are_listed(tmp_path, axes):
    """From thirty classes on a red cell can hardly be found, and its labels not read."""
    matrix = np.eye(30, dtype=int) * 5
    matrix[3, 7], matrix[4, 8], matrix[5, 1] = 4, 9, 1
    names = [f"class {k}" for k in range(30)]
    charts.confusion(matrix, names, tmp_path / "m.png")
    said = axes().get_xlabel().split("\n")
    assert said[0] == "answered"
    assert said[2:] == ["class 4 seen as class 8: 9 of 14", "class 3 seen as class 7: 4 of 9",
                        "class 5 seen as class 1: 1 of 6"]  # fmt: skip
    charts.confusion(matrix[:29, :29], names[:29], tmp_path / "n.png")
    assert axes().get_xlabel() == "answered"
