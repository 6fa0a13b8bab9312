"""The README's table of speeds, from a dated file.

python -m benchmarks.table benchmarks/results/2026-11-21-061521.json
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

HEAD = "| work | hierax | best eager peer | ratio |\n|---|---|---|---|"


def table(result: dict) -> str:
    """Markdown rows: the torch engine and the best eager peer, and the ratio within the same rounds."""
    rows = [HEAD]
    for case in result["cases"]:
        rival = case["best_eager_peer"]
        ours, theirs = (case["runners"][who]["images_per_s"] for who in ("hierax torch", rival))
        ratio = case["ratios_to_best_eager_peer"]["hierax torch"]["median"]
        work = f"`{case['model']}` at {case['input'][-1]}, batch {case['input'][0]}"
        rows.append(f"| {work} | {ours:.2f} images/s | {theirs:.2f} images/s ({rival}) | **{ratio:.2f}** |")
    for step, title in (("mae_step", "MAE"), ("supervised_step", "supervised")):
        if step in result:
            rival = result[step]["best_peer"]
            ratio = result[step]["ratios"][rival]["median"]
            ours, theirs = (statistics.median(result[step]["seconds"][who]) for who in ("hierax", rival))
            work = f"{title} training step of `hiera_tiny_224`, batch 8"
            rows.append(f"| {work} | {ours:.2f} s | {theirs:.2f} s ({rival}) | **{ratio:.2f}** |")
    if "startup" in result:
        ratio = result["startup"]["ratio_to_transformers"]["median"]
        ours, theirs = (result["startup"]["median_s"][who] for who in ("hierax", "transformers"))
        work = "new process to first embedding, `hiera_base_224`"
        rows.append(f"| {work} | {ours:.1f} s | {theirs:.1f} s (transformers) | **{ratio:.2f}** |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table(json.loads(Path(sys.argv[1]).read_text("utf-8"))))
