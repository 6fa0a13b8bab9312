"""What an evaluation of frozen features found: a table, JSON and a chart of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# For each task the measures of its table: (key, title).
COLUMNS = {
    "knn": (("top1", "top-1"), ("top5", "top-5")),
    "linear": (("accuracy", "accuracy"), ("spread", "spread")),
    "retrieval": (
        ("map", "mAP"), ("map_at_r", "mAP@R"), ("recall@1", "R@1"), ("recall@5", "R@5"), ("recall@10", "R@10"),
    ),
}  # fmt: skip
TITLES = {"knn": "Nearest neighbours", "linear": "Linear probe", "retrieval": "Retrieval"}


@dataclass
class FeatureScores:
    """How well frozen features tell classes apart, a row for each network and baseline.

    Attributes:
        task: "knn", "linear" or "retrieval".
        data: What was judged: name, splits, counts, classes, share of the largest class.
        settings: How.
        results: A dict a row: model, features, dimensions, images, the measures as shares of 1, `per_class`, ...
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
        """The rows as text for people, in percent."""
        rows = []
        for found in self.results:
            known = {"model": found["model"], "features": found["features"], "size": str(found["dimensions"])}
            measures = {title: _percent(found[key]) for key, title in COLUMNS[self.task] if key in found}
            rows.append({**known, **measures, "images": str(found["images"])})
        return rows

    def __str__(self) -> str:
        """The table."""
        rows = self.table()
        lines = [list(rows[0]), *(list(row.values()) for row in rows)] if rows else []
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)

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
        names, what = [row["model"] for row in self.results], f"{self.data['name']}, {self.data['classes']} classes"
        title = f"{TITLES[self.task]}: {what}, {self.total:,} images"
        compare(names, measures, Path(path), title=title, spreads=spreads)
        return Path(path)


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
