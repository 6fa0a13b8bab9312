"""What is told of a finished run on one page, `OUT/report.html`; a part that fails is left out, and said to be."""

from __future__ import annotations

import contextlib
import itertools
import math
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..console import printable
from ..data.datasets.samples import TrainingData
from ..data.decode import decode_image
from ..data.files import name_text
from ..data.sources import is_video
from ..data.video import read_clip
from ..errors import HieraxError
from ..model.metrics import Accuracy
from ..schema import to_toml
from ..visualize import figures, sheets
from ..visualize.page import as_is, render_report
from ..weights.files import read_json, write_text
from . import findings
from .best import merit
from .pictures import at_most_a_warning, history, logged
from .reading import to_record
from .result import told
from .timeline import FEATURES

if TYPE_CHECKING:
    from .loop import Loop
    from .run import RunSummary

REPORT = "report.html"
_THUMBNAIL, _SHEET = 200, 900  # pixels of the longer side
_MISTAKES, _SUSPECTS, _PAIRS = 16, 12, 12
_ROWS, _MATRIX = 1000, 500  # classes of the table, and classes up to which a matrix can be read
_NAME, _TEXT, _NOTES, _UNREADABLE = 100, 1000, 40, 20  # characters of names and notes, and how many are listed
_COLUMNS = [
    ("class", "Name of the class"),
    ("trained on", "Samples that were trained on"),
    ("held out", "Samples that were held out and are counted here"),
    ("precision", "Of the samples taken for the class, the share that is"),
    ("recall", "Of the samples of the class, the share that is recognised"),
    ("F1", "Harmonic mean of precision and recall"),
]


def write_page(loop: Loop, summary: RunSummary, result: Accuracy | None, notes: Sequence[str]) -> bool:
    """Write `report.html`, whole or not at all; whether it was written. Nothing that goes wrong stops a run."""
    written = False
    with at_most_a_warning(REPORT):
        measured = result if result is not None and result.total else None
        names = [_name(name) for name in loop.views.data.classes]
        facts = {
            **_words(loop, summary, measured, names),
            "thing": _thing(loop),
            "measured": measured is not None,
            "command": _command(loop, summary, measured),
            "curves": _curves(loop, summary, measured),
            "reconstructions": _sheet(loop.out, loop.method.picture),
            "features": _sheet(loop.out, FEATURES),
            "notes": [_text(note) for note in itertools.islice(notes, _NOTES)],
            "unreadable": {
                "count": len(summary.unreadable),
                "shown": [(_name(k), _text(v)) for k, v in itertools.islice(summary.unreadable.items(), _UNREADABLE)],
            },
            "origin": _origin(loop, summary),
            "recipe": printable(to_toml(to_record(loop.recipe)), keep="\n"),
            **_validation(loop, measured, names),
        }
        write_text(loop.out / REPORT, render_report(facts))
        written = True
    return written


def _words(loop: Loop, summary: RunSummary, result: Accuracy | None, names: list[str]) -> dict[str, Any]:
    """Title, the summary in two sentences, and its numbers."""
    recipe, card = loop.recipe, loop.method.weights.card
    start = f"the weights of {_name(card.name)}" if card.pretrained else "random weights"
    took, thing = _duration(summary.seconds), _thing(loop)
    how = (
        f"It is {_name(card.config.name)}, trained from {start} on {_count(summary.samples, thing)} for "
        f"{_count(summary.steps, 'step')} ({summary.epochs:.3g} passes) in {took}."
    )
    tiles = [("steps", f"{summary.steps:,}"), (f"{thing}s trained on", f"{summary.samples:,}"), ("time", took)]
    loss = f"{summary.loss:.4g}"
    if recipe.task == "pretrain":
        zero = loop.method.baseline
        beside = "" if zero is None else f", where predicting zero gives {zero:.4f}"
        if zero is not None and summary.loss >= zero:
            beside = f", no better than predicting zero ({zero:.4f}): it has learned nothing yet"
        first = f"The encoder rebuilds the hidden parts of {thing}s with a loss of {loss}{beside}."
        if loop.method.name != "mae":
            first = f"The encoder was trained by {loop.method.name}; its loss was {loss} at the end{beside}."
        tiles.insert(0, ("loss at the end", loss))
        if loop.method.baseline is not None:
            tiles.insert(1, ("loss of predicting zero", f"{loop.method.baseline:.4f}"))
    elif result is None:
        first = (
            f"No accuracy was measured, as no {thing}s were held out: how well the model tells its "
            f"{len(names)} classes apart is not known."
        )
        tiles.insert(0, ("training loss at the end", loss))
    else:
        truths, _ = findings.totals(result)
        common, most = truths.most_common(1)[0]
        low, high = findings.interval(result.correct1, result.total)
        first = (
            f"Of {_count(result.total, f'held-out {thing}')} of {len(names)} classes the model names "
            f"{result.correct1:,} right, {result.top1:.1%} (95% interval {low:.1%} to {high:.1%}); answering always "
            f"the most frequent class, {names[common]}, gets {most / result.total:.1%}."
        )
        tiles = [
            (f"accuracy on held-out {thing}s", f"{result.top1:.1%}"),
            ("most frequent class", f"{most / result.total:.1%}"),
            (f"held-out {thing}s", f"{result.total:,}"),
            ("classes", f"{len(names)}"),
            *tiles,
        ]
    kind = {"pretrain": "pretraining", "finetune": "fine-tuning"}[recipe.task]
    return {"title": f"{loop.out.resolve().name}: {card.config.name}"[:_NAME], "kind": f"report of {kind}",
            "summary": [first, how], "tiles": tiles}  # fmt: skip


def _command(loop: Loop, summary: RunSummary, result: Accuracy | None) -> dict[str, str]:
    """The line that uses the result, with an image that is there."""
    model = shlex.quote(str(summary.model.resolve()))
    sample = _sample_file(loop, loop.views.data if result is None else result.data)
    thing = _thing(loop)
    named = shlex.quote(str(sample)) if sample else {"clip": "CLIP.mp4"}.get(thing, "IMAGE.jpg")
    there = f"one {thing} of the data" if sample else f"any {thing}"
    if loop.recipe.task == "pretrain":
        line = f"hierax embed {named} -m {model} -o {shlex.quote(str(loop.out.resolve() / 'vectors.npz'))}"
        note = f"Vectors of {there}, by the trained encoder; or name the model in hierax finetune."
        return {"line": line, "note": note}
    return {
        "line": f"hierax classify {named} -m {model} --top-k 3",
        "note": f"Classify {there}; name your own instead.",
    }


def _thing(loop: Loop) -> str:
    """What a sample is called."""
    return "clip" if loop.method.weights.config.is_video else "image"


def _sample_file(loop: Loop, data: TrainingData) -> Path | None:
    """A file to try the model on: one of the data, or one that is written where the data are no files."""
    with contextlib.suppress(HieraxError, OSError):
        first = None
        for index in range(min(len(data), 50)):
            path = data.read(index)
            if not isinstance(path, Path):
                break
            if path.is_file() and (found := str(path.resolve())).isprintable() and found.isascii():
                return Path(found)
            first = first or path
        if first is not None:
            return first.resolve()
        target = loop.out / "example.png"
        sheets.write_picture(decode_image(data.read(0)), target)
        return target.resolve()
    return None


def _curves(loop: Loop, summary: RunSummary, result: Accuracy | None) -> dict[str, Any]:
    """Loss, accuracy and learning rate by step; what is missing, and why."""
    below, validation = history(loop.out / "log.jsonl", summary.result["step"], result)
    accuracy = [(step, 100 * share) for step, share in below["Validation top-1"]]
    made, missing = list[dict[str, Any]](), list[str]()
    with _told(missing):
        if any(np.isfinite(summary.losses)):
            svg = figures.loss_figure(summary.losses, baseline=loop.method.baseline, validation=validation)
            note = "Training: augmented, and with the recipe's smoothing and mixing. Validation: plain cross entropy."
            shown = {"heading": f"Training loss: {summary.loss:.4g}", "svg": as_is(svg)}
            made.append({**shown, "note": note if validation else ""})
        if accuracy:
            losses = dict(validation)
            step, best = max(accuracy, key=lambda point: merit(point[1], losses.get(point[0], math.nan)))
            heading = f"Accuracy on held-out {_thing(loop)}s: {100 * result.top1:.1f}%" if result else ""
            svg = figures.series_figure(accuracy, title="Accuracy by step", percent=True, best=step)
            note = "Measured once, at the end; validate_every=STEPS measures during the run."
            if len(accuracy) > 1:
                note = f"Best {best:.1f}% at step {step:,}; the model is that of step {summary.result['step']:,}."
            made.append({"heading": heading, "svg": as_is(svg), "note": note})
        if probes := [(step, 100 * share) for step, share in below["kNN probe"]]:
            step, _ = max(probes, key=lambda point: point[1])
            svg = figures.series_figure(probes, title="kNN probe by step", percent=True, best=step)
            note = "Labelled images whose class their nearest neighbours vote for, by the features alone."
            made.append({"heading": f"kNN probe: {probes[-1][1]:.1f}%", "svg": as_is(svg), "note": note})
        levels = loop.method.levels()
        for name, points in logged(loop.out / "log.jsonl", levels).items():
            level, kind = levels[name]
            svg = figures.series_figure(points, title=f"{name} by step", level=level)
            note = "" if level is None else f"Dashed: {kind}, {level:.4g}."
            made.append({"heading": f"{name.replace('_', ' ')}: {points[-1][1]:.4g}", "svg": as_is(svg), "note": note})
        if below["Learning rate"]:
            svg = figures.series_figure(below["Learning rate"], title="Learning rate by step")
            made.append({"heading": f"Learning rate: peak {loop.recipe.peak_lr:.3g}", "svg": as_is(svg), "note": ""})
    return {"figures": made, "missing": missing}


def _sheet(out: Path, name: str | None) -> str:
    """A picture of the run, smaller; empty where there is none."""
    if name is None or not (out / name).is_file():
        return ""
    with at_most_a_warning(name), Image.open(out / name) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
        return figures.thumbnail(pixels, max(_SHEET, _SHEET * len(pixels) // pixels.shape[1]))
    return ""


def _origin(loop: Loop, summary: RunSummary) -> list[tuple[str, str]]:
    """Where data, weights and numbers come from."""
    with contextlib.suppress(HieraxError, OSError):
        run = read_json(loop.out / "run.json")
        versions = ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items())
        card = loop.method.weights.card
        from_others = f"{run.get('weights')} (sha256 {run.get('weights_sha256') or 'none'})"
        if card.base_model and card.base_model not in (card.name, run.get("weights")):
            from_others += f", which come from {card.base_model}"
        rows = [
            ("Data", f"{run.get('data')} (fingerprint {run.get('fingerprint')})"),
            ("Weights it started from", from_others),
            (
                "Licence of these",
                run.get("license") or ("unknown" if card.pretrained else "none"),
            ),
            ("Result", "; ".join([str(summary.model), *told(summary.result, loop.out)])),
            ("Computed in", f"{run.get('precision')} on {run.get('processes')} x {run.get('device')}, {versions}"),
        ]
        return [(name, _text(str(value))) for name, value in rows]
    return []


def _validation(loop: Loop, result: Accuracy | None, names: list[str]) -> dict[str, Any]:
    """What was found on the held-out images."""
    if result is None:
        return {"matrix": {"width": 0, "least": 0}}
    worst: list[dict[str, Any]] = [
        dict(zip(("confidence", "name", "truth", "answer", "index"), found, strict=False)) for found in result.worst
    ]
    suspected = findings.suspects(result)[:_SUSPECTS]
    shown = sorted({*range(min(_MISTAKES, len(worst))), *suspected})
    known = {place: _mistake(worst[place], result.data, names) for place in shown}
    wrong, scores = result.total - result.correct1, findings.class_scores(result, len(names))
    trained = Counter(loop.views.data.labels.tolist())
    rows = [
        {"name": names[score.label], "trained": trained[score.label], "count": score.count,
         "precision": score.precision, "recall": score.recall, "f1": score.f1}
        for score in scores[:_ROWS]
    ]  # fmt: skip
    surest = f"the {_MISTAKES} surest of them" if wrong > _MISTAKES else "the surest first"
    what = f"The {_ROWS:,} worst of {len(names):,} classes" if len(names) > _ROWS else "The worst first"
    return {
        "matrix": _matrix(result, names),
        "pairs": [
            {"truth": names[truth], "answer": names[answer], "count": count, "total": total}
            for truth, answer, count, total in (findings.worst_pairs(result, _PAIRS) if len(names) > 2 else ())
        ],
        "suspects": [known[place] for place in suspected],
        "mistakes": [known[place] for place in shown[: min(_MISTAKES, len(worst))] if place < _MISTAKES],
        "mistakes_note": f"{wrong:,} of {result.total:,} answered wrong; {surest}."
        if wrong
        else "None: all are right.",
        "columns": _COLUMNS,
        "classes": rows,
        "classes_note": f"{what}; a column's name sorts by it. Shares of few images are uncertain.",
    }


def _matrix(result: Accuracy, names: list[str]) -> dict[str, Any]:
    """The confusion matrix, with the pixels that it is shown at."""
    missing: list[str] = []
    if len(names) > _MATRIX:
        missing.append(f"{len(names):,} classes are more than the {_MATRIX} whose matrix can be read.")
    else:
        with _told(missing):
            svg = figures.confusion_figure(findings.matrix(result, len(names)), names)
            width, least = min(940, 280 + 32 * len(names)), min(680, 120 + 26 * len(names))
            return {"svg": as_is(svg), "width": width, "least": least}
    return {"svg": "", "missing": " ".join(missing), "width": 0, "least": 0}


def _mistake(found: dict[str, Any], data: Any, names: list[str]) -> dict[str, str]:
    """A wrong answer with its picture, where that can still be read."""
    image = ""
    with contextlib.suppress(Exception):  # a file that is gone or was changed; a clip without its extra
        source = data.read(found["index"])
        pixels = (
            read_clip(source, frames=1, stride=1, size=_THUMBNAIL)[0, 0] if is_video(source) else decode_image(source)
        )
        image = figures.thumbnail(pixels, _THUMBNAIL)
    return {
        "image": image,
        "name": _name(found["name"]),
        "truth": names[found["truth"]],
        "answer": names[found["answer"]],
        "confidence": f"{found['confidence']:.2f}",
    }


@contextlib.contextmanager
def _told(missing: list[str]) -> Iterator[None]:
    """Turn whatever goes wrong into a line of what is missing."""
    try:
        yield
    except HieraxError as error:
        missing.append(f"Not drawn: {error}")
    except Exception as error:
        missing.append(f"Not drawn: {type(error).__name__}: {error}"[:_TEXT])


def _name(name: str) -> str:
    """A name as text of bounded length."""
    text = printable(" ".join(name_text(name).split()))
    return text if len(text) <= _NAME else f"{text[: _NAME // 2 - 2]}...{text[-_NAME // 2 + 2 :]}"


def _text(text: str) -> str:
    return printable(name_text(text))[:_TEXT]


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
