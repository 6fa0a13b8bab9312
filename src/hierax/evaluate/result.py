"""What an evaluation found: a table, JSON and, of frozen features, a chart of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# For each task the measures of its table: (key, title).
COLUMNS = {
    "knn": (("top1", "top-1"), ("top5", "top-5")),
    "linear": (("accuracy", "accuracy"), ("spread", "spread")),
    "explanations": (
        ("deletion", "deletion"), ("insertion", "insertion"), ("pointing", "pointing"), ("inside", "inside"),
    ),
    "retrieval": (
        ("map", "mAP"), ("map_at_r", "mAP@R"), ("recall@1", "R@1"), ("recall@5", "R@5"), ("recall@10", "R@10"),
    ),
    "segmentation": (("miou", "mIoU"), ("accuracy", "pixels"), ("mean_accuracy", "classes")),
    "propagation": (
        ("jf", "J&F"), ("j", "J"), ("j_recall", "J recall"), ("j_decay", "J decay"), ("f", "F"),
        ("f_recall", "F recall"), ("f_decay", "F decay"),
    ),
}  # fmt: skip
TITLES = {
    "knn": "Nearest neighbours", "linear": "Linear probe", "retrieval": "Retrieval",
    "explanations": "Explanations", "segmentation": "Linear probe of pixels", "propagation": "Labels that follow",
}  # fmt: skip


@dataclass
class Scores:
    """What an evaluation found, row by row.

    Attributes:
        task: What was asked: "knn", "seams", ...
        data: What was judged.
        settings: How.
        results: A dict a row.
        unreadable: Images that some row lacks, as (name, reason).
        total: How many images there were.
    """

    task: str
    data: dict[str, Any]
    settings: dict[str, Any]
    results: list[dict[str, Any]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    total: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-able data; what is no number is None."""
        from .. import __version__

        unreadable = [{"path": name, "error": reason} for name, reason in self.unreadable]
        whole = {"task": self.task, "data": self.data, "settings": self.settings, "results": self.results}
        return _plain({**whole, "unreadable": unreadable, "version": __version__})

    def table(self) -> list[dict[str, str]]:
        """The rows as text for people."""
        raise NotImplementedError

    def __str__(self) -> str:
        """The table."""
        rows = self.table()
        lines = [list(rows[0]), *(list(row.values()) for row in rows)] if rows else []
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


@dataclass
class FeatureScores(Scores):
    """How well frozen features tell classes apart, a row for each network and baseline.

    `data` has name, splits, counts, classes and the share of the largest class; rows have model, features, dimensions,
    images, the measures as shares of 1, `per_class`, ...
    """

    def table(self) -> list[dict[str, str]]:
        """The rows as text for people, in percent."""
        rows = []
        for found in self.results:
            known = {"model": found["model"], "features": found["features"], "numbers": str(found["dimensions"])}
            measures = {title: _percent(found[key]) for key, title in COLUMNS[self.task] if key in found}
            rows.append({**known, **measures, "images": str(found["images"])})
        return rows

    def plot(self, path: str | Path) -> Path:
        """Draw the measures of all rows beside each other (extra "viz").

        Raises:
            MissingExtraError: matplotlib is not installed.
            InputError: The file cannot be written.
        """
        from ..visualize.comparison import compare

        spreads = [row.get("spread", 0.0) for row in self.results] if self.task == "linear" else None
        measures = {
            title: [row.get(key, math.nan) for row in self.results]
            for key, title in COLUMNS[self.task]
            if key != "spread" and any(key in row for row in self.results)
        }
        names, what = [row["model"] for row in self.results], str(self.data["name"])
        what += f", {self.data['classes']} classes" if self.data.get("classes") else ""
        title = f"{TITLES[self.task]}: {what}, {self.total:,} images"
        compare(names, measures, Path(path), title=title, spreads=spreads)
        return Path(path)


@dataclass
class ExplanationScores(Scores):
    """How well maps say where a class comes from, a row for each network and method, baselines among them.

    Rows have `deletion`, `insertion`, `pointing` and `inside` as shares of 1,
    each with the `_spread` over seeds, and `seeds`.
    """

    def table(self) -> list[dict[str, str]]:
        """The rows as text for people, in percent."""
        measures = [key for key, _ in COLUMNS[self.task] if any(key in row for row in self.results)]
        titles = dict(COLUMNS[self.task])
        return [
            {
                "model": row["model"],
                "method": row["method"],
                **{titles[key]: f"{_percent(row.get(key))} {_spread(row.get(f'{key}_spread'))}" for key in measures},
                "images": str(row["images"]),
            }
            for row in self.results
        ]


@dataclass
class SeamScores(Scores):
    """How much borders of windows show in maps, a row for each network, stage and window.

    Rows have `stage`, `window` (pixels down and across), `ratio` with its `spread` over images, `pixels`, and for a
    stage whose windows are filled up with padding `strip` (pixels at the bottom and at the right) and `strip_ratio`.
    """

    def table(self) -> list[dict[str, str]]:
        """The rows as text for people."""
        strips = any(row["strip"] for row in self.results)
        rows = []
        for row in self.results:
            known = row["ratio"] is not None
            line = {
                "model": row["model"],
                "stage": row["stage"],
                "cells": "x".join(map(str, row["grid"])),
                "window": _pixels(row["window"]) if known else "none to see",
                "ratio": f"{row['ratio']:.2f}{_plus_minus(row['spread'])}" if known else "-",
                "pixels": f"{row['pixels']:.2f}" if known else "-",
            }
            if strips:
                strip = row["strip"] or {}
                parts = [f"{side} {pixels} px" for side, pixels in strip.items() if pixels]
                line["padded"] = ", ".join(parts) or "-"
                line["at its border"] = f"{row['strip_ratio']:.2f}" if strip else "-"
            rows.append(line)
        return rows


def _pixels(window: list[int]) -> str:
    return f"{window[0]} px" if window[0] == window[1] else f"{window[0]} x {window[1]} px"


def _plus_minus(value: float | None) -> str:
    return "" if value is None else f" +-{value:5.2f}"


def _spread(value: float | None) -> str:
    return "" if value is None else f"+-{100 * value:4.1f}"


def _percent(value: Any) -> str:
    return f"{100 * value:.1f}%" if isinstance(value, float) and math.isfinite(value) else "-"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
