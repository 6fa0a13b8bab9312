"""Downloads published checkpoints, checks them, and prints a Markdown table to paste into an issue.

    python scripts/confirm_published.py --list
    python scripts/confirm_published.py                      # every published checkpoint: some 30 GB
    python scripts/confirm_published.py hiera_tiny_224 "*sam2.1*"

For each: download, size, SHA-256 against the catalogue, a complete load, one finite pass, and where transformers'
integration tests publish values for an image, those values. Results are kept as JSON lines: what was confirmed
is not done again, what failed is. Each checkpoint has a process of its own, so that none stops the others. Exit code 0:
all confirmed; 1: some failed or differ; 2: no such name.

None of this could be run where it was written, for want of a network; it was tested with small files on a local server.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import fnmatch
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

IMAGE = (
    "https://raw.githubusercontent.com/huggingface/transformers/main/tests/fixtures/tests_samples/COCO/000000039769.png"
)
ATOL = 1e-4
_MOST_IMAGE_BYTES = 1 << 24
Values = Callable[[str, Any], float]


def main(argv: Sequence[str] | None = None) -> int:
    """Confirm what is asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="catalogue names or shell patterns; all without any")
    parser.add_argument("--list", action="store_true", help="only say what would be confirmed")
    parser.add_argument("--results", type=Path, default=Path("confirmed.jsonl"), help="where results are kept")
    parser.add_argument("--image", default=IMAGE, help="COCO 000000039769, a file or an address")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.one:
        print(json.dumps(confirm(options.one, options.image)))
        return 0
    names = wanted(options.names)
    if not names:
        print(f"no published checkpoint matches {' '.join(options.names)}; see --list", file=sys.stderr)
        return 2
    if options.list:
        print("\n".join(names))
        return 0
    done = kept(options.results)
    for number, name in enumerate(names, 1):
        if done.get(name, {}).get("result") == "confirmed":
            continue
        print(f"[{number}/{len(names)}] {name}", file=sys.stderr, flush=True)
        done[name] = apart(name, options.image)
        with options.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(done[name]) + "\n")
    records = [done[name] for name in names]
    print(table(records))
    return int(any(record["result"] != "confirmed" for record in records))


def wanted(patterns: Sequence[str]) -> list[str]:
    """Names of published checkpoints that match, the embedded one left out."""
    from hierax.weights.catalog import entries, resolve

    published = [entry.name for entry in entries().values() if entry.pretrained and entry.path is None]
    if not patterns:
        return published
    found = []
    for pattern in patterns:
        matching = [name for name in published if fnmatch.fnmatchcase(name, pattern)]
        with contextlib.suppress(KeyError):  # an alias, e.g. birder's old names
            matching = matching or [resolve(pattern).name]
        found += [name for name in matching if name in published]
    return list(dict.fromkeys(found))


def kept(path: Path) -> dict[str, dict[str, Any]]:
    """The last result of each name; a line that was cut off by a kill counts for nothing."""
    found: dict[str, dict[str, Any]] = {}
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            record = json.loads(line)
            found[record["name"]] = record
    return found


def apart(name: str, image: str) -> dict[str, Any]:
    """Confirm one checkpoint in a process of its own, whatever becomes of that."""
    command = [sys.executable, __file__, "--one", name, "--image", image]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, encoding="utf-8", check=False)
    with contextlib.suppress(ValueError, IndexError):
        return json.loads(done.stdout.splitlines()[-1])
    return {"name": name, "result": "failed", "reason": f"its process ended with {done.returncode}"}


def confirm(name: str, image: str) -> dict[str, Any]:
    """Everything that is found out about one checkpoint."""
    from hierax.errors import HieraxError

    record: dict[str, Any] = {"name": name, "result": "confirmed", "date": f"{datetime.date.today()}"}
    try:
        _measure(name, record)
        if name in GOLDEN:
            record["golden"] = GOLDEN[name](name, _image(image))
            if record["golden"] > ATOL:
                record |= {"result": "differs", "reason": f"off by {record['golden']:.2g} from transformers' values"}
    except (HieraxError, OSError) as error:
        record |= {"result": "failed", "reason": f"{type(error).__name__}: {error}"}
    return record


def _measure(name: str, record: dict[str, Any]) -> None:
    """Fetch, hash, load, and one pass; what is known stays in the record when a later step fails."""
    import torch

    import hierax
    from hierax.net.cache import sha256_of
    from hierax.weights.catalog import resolve
    from hierax.weights.hub import fetch

    entry, start = resolve(name), time.perf_counter()
    path = fetch(entry)
    record["download_s"] = round(time.perf_counter() - start, 1)
    predictor = hierax.load(name)
    file = path if path.is_file() else Path(str(predictor.card.path or path))
    file = file if file.is_file() else next(iter(sorted(path.glob("*.safetensors"))))
    record |= {"bytes": file.stat().st_size, "sha256": sha256_of(file), "catalogue": entry.sha256 or ""}
    record |= {"parameters": sum(p.numel() for p in predictor.model.parameters()), "report": str(predictor.report)}
    config = predictor.encoder.config
    x = torch.zeros(1, config.in_channels, *config.input_size)
    start = time.perf_counter()
    with torch.inference_mode():
        vector = predictor.encoder.embedding(x)
    record["pass_s"] = round(time.perf_counter() - start, 2)
    if not bool(vector.isfinite().all()):
        record |= {"result": "differs", "reason": "the embedding of a grey image is not finite"}


def _image(place: str) -> Any:
    """The picture that the published values are of."""
    from PIL import Image

    from hierax.errors import InputError
    from hierax.net.download import download
    from hierax.net.transfer import Kind

    if "://" in place:
        place = str(download(place, Kind("an image", InputError, "urls", _MOST_IMAGE_BYTES, lambda _: "")))
    return Image.open(place).convert("RGB")


def _off(found: Any, expected: list[Any]) -> float:
    import torch

    return float((found.float() - torch.tensor(expected)).abs().max())


def classifier(name: str, image: Any) -> float:
    """Pixels and logits of the fine-tuned classifier; the nearer of both image processors counts."""
    import torch

    from hierax.compat.transformers import AutoImageProcessor, HieraForImageClassification

    model, differences = HieraForImageClassification.from_pretrained(name), []
    for backend in ("pil", "torchvision"):
        inputs = AutoImageProcessor.from_pretrained(name, backend=backend)(image, return_tensors="pt")
        with torch.inference_mode():
            logits = model(**inputs).logits[0, :5]
        pixels = _off(inputs["pixel_values"][0, 0, 0, :3], [0.2967, 0.4679, 0.4508])
        differences.append(max(pixels, _off(logits, [0.8028, 0.2409, -0.2254, -0.3712, -0.2848])))
    return min(differences)


def encoder(name: str, image: Any) -> float:
    """The last hidden state at 448 pixels, position tables interpolated."""
    import torch

    from hierax.compat.transformers import AutoImageProcessor, HieraModel

    expected = [[1.7853, 0.0690, 0.3177], [2.6853, -0.2334, 0.0889], [1.5445, -0.1515, -0.0300]]
    model, differences = HieraModel.from_pretrained(name), []
    for backend in ("pil", "torchvision"):
        size = {"size": {"shortest_edge": 448}, "crop_size": {"height": 448, "width": 448}}
        inputs = AutoImageProcessor.from_pretrained(name, backend=backend)(image, return_tensors="pt", **size)
        with torch.inference_mode():
            state = model(**inputs, interpolate_pos_encoding=True).last_hidden_state
        differences.append(_off(state[0, :3, :3], expected))
    return min(differences)


def autoencoder(name: str, image: Any) -> float:
    """What a masked pass fills in, for the noise of transformers' test: seed 2, drawn after the model is built."""
    import torch

    from hierax.compat.transformers import AutoImageProcessor, HieraForPreTraining

    model, differences = HieraForPreTraining.from_pretrained(name), []
    noise = torch.rand(1, 49, generator=torch.Generator().manual_seed(2))
    for backend in ("pil", "torchvision"):
        inputs = AutoImageProcessor.from_pretrained(name, backend=backend)(image, return_tensors="pt")
        with torch.inference_mode():
            logits = model(**inputs, noise=noise).logits
        differences.append(_off(logits[0, 0, :5], [1.6407, 1.6506, 1.6541, 1.6617, 1.6703]))
    return min(differences)


# Values that transformers' integration tests publish, for COCO 000000039769.
GOLDEN: dict[str, Values] = {
    "facebook/hiera-tiny-224-in1k-hf": classifier,
    "facebook/hiera-tiny-224-hf": encoder,
    "facebook/hiera-tiny-224-mae-hf": autoencoder,
}


def table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown for an issue: a line each, then the hashes that the catalogue lacks."""
    import torch

    import hierax

    lines = [
        f"hierax {hierax.__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{platform.platform()}",
        "",
        "| checkpoint | result | MB | sha256 | parameters | published values | one pass |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_row(record) for record in records]
    fresh = [r for r in records if r.get("sha256") and not r.get("catalogue")]
    if fresh:
        lines += ["", "Hashes that the catalogue lacks:", "", "```text"]
        lines += [f"{record['sha256']}  {record['name']}" for record in fresh] + ["```"]
    return "\n".join(lines)


def _row(record: dict[str, Any]) -> str:
    digest, known = record.get("sha256", ""), record.get("catalogue", "")
    compared = "as published" if known and digest == known else "an earlier file" if known else "unknown before"
    cells = (
        f"`{record['name']}`",
        " ".join(filter(None, (record["result"], record.get("reason", "")))).replace("|", "/").replace("\n", " "),
        f"{record['bytes'] / 1e6:.1f}" if "bytes" in record else "",
        f"`{digest[:12]}` {compared}" if digest else "",
        f"{record['parameters']:,}" if "parameters" in record else "",
        f"within {record['golden']:.1g}" if "golden" in record else "",
        f"{record['pass_s']} s" if "pass_s" in record else "",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
