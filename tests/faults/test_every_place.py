"""Every place of everything that says something about weights, with every value that it should not have.

A wrong implementation raises an error of Python's, takes seconds or gigabytes, or embeds NaN. Each case loads a small
network and embeds one image if that succeeds. `-m nightly` tries all values, `slow` a few at each place.
"""

from __future__ import annotations

import copy
import functools
import json
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hierax
from hierax.errors import HieraxError
from hierax.weights import files

from ..members import MEMBERS, noise, written

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what a process takes at most is in kilobytes there")
Place = tuple[Any, ...]
DIGITS = 10**400  # within what Python turns into text


def _deep(levels: int) -> Any:
    return functools.reduce(lambda inner, _: [inner], range(levels), 0)


PLAIN: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 3, 5, 17, 224, 4096, 65536, 2**31, 2**63, 0.5, 1e-30, -1e30, 1e30, DIGITS),
    *("", "x", "1", "\u540d\u524d", "\x1b[2J", "x" * 5000, "hiera_huge_224", "../../x", "nan"),
    *([], {}, [[]], [1, 1], [[1, 1]], [0, 0], [-1, -1], [64, 64], [4096, 4096], [1e30] * 3, [1] * 1000, ["x"] * 3),
    *(_deep(50), {"x": 1}, {"height": 0}, {"": None}, {"0": "a", "1": "b", "2": "c"}, float("nan"), float("inf")),
    *([float("nan")] * 3, [None, None], "0" * 5000),
]
# What a pickle can hold and JSON cannot.
PICKLED: list[Any] = [b"x", (), (1, 2), 1 + 2j, {1: 2}, {None: None}, {1.5: "x"}, torch.float32, torch.zeros(3)]


def _places(value: Any, above: Place = ()) -> Iterator[Place]:
    """Every key of every table and every place of every list, by the way there."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield (*above, key)
        yield from _places(inner, (*above, key))


def _with(content: Any, place: Place, value: Any) -> Any:
    changed = copy.deepcopy(content)
    node = functools.reduce(lambda node, key: node[key], place[:-1], changed)
    node[place[-1]] = value
    return changed


def _lists(value: Any) -> Any:
    """Tuples as lists, which can be changed in place."""
    if isinstance(value, dict):
        return {key: _lists(inner) for key, inner in value.items()}
    return [_lists(inner) for inner in value] if isinstance(value, (list, tuple)) else value


# --- the files, and how a changed one is written --------------------------------------------------------------------


def _json(member: str, form: str, name: str) -> Callable[[Path], tuple[Path, Any, Callable[[Any], object]]]:
    """A JSON file in the folder of a format."""

    def make(folder: Path) -> tuple[Path, Any, Callable[[Any], object]]:
        path = written(MEMBERS[member], folder / "m", form)
        content = json.loads((path / name).read_text())
        content.update(_SILENT.get((form, name), {}))
        return path, content, lambda data: (path / name).write_text(json.dumps(data))

    return make


def _metadata(member: str, form: str, beside: bool) -> Callable[[Path], tuple[Path, Any, Callable[[Any], object]]]:
    """What the header of a safetensors file says, or a JSON file of the same beside one that is silent."""

    def make(folder: Path) -> tuple[Path, Any, Callable[[Any], object]]:
        path = written(MEMBERS[member], folder / "x.safetensors", form)
        raw = files.read(path)
        content = {key: json.loads(text) if text[:1] in "[{" else text for key, text in raw.metadata.items()}
        content.update(_SILENT.get((form, ""), {}))

        def write(data: dict[str, Any]) -> object:
            if beside:
                files.write_safetensors(path, raw.tensors)
                return path.with_suffix(".json").write_text(json.dumps(data))
            said = {key: value if isinstance(value, str) else json.dumps(value) for key, value in data.items()}
            return files.write_safetensors(path, raw.tensors, said)

        return path, content, write

    return make


def _entries(member: str, form: str) -> Callable[[Path], tuple[Path, Any, Callable[[Any], object]]]:
    """The entries of a torch file beside its state dict."""

    def make(folder: Path) -> tuple[Path, Any, Callable[[Any], object]]:
        path = written(MEMBERS[member], folder / "x.pt", form)
        loaded = torch.load(path, weights_only=True)
        key = "model_state" if "model_state" in loaded else "state" if "state" in loaded else "model"
        content = {**_lists({k: v for k, v in loaded.items() if k != key}), **_SILENT.get((form, ""), {})}
        return path, content, lambda data: torch.save({key: loaded[key], **data}, path)

    return make


def _training(folder: Path) -> tuple[Path, Any, Callable[[Any], object]]:
    """What training code keeps beside the weights."""
    path, content, write = _entries("Hiera", "meta")(folder)
    return path, {**content, "epoch": 3, "args": {"lr": 0.1}, "optimizer": {"state": {}, "param_groups": []}}, write


def _readme(folder: Path) -> tuple[Path, Any, Callable[[Any], object]]:
    path = written(MEMBERS["Hiera"], folder / "m", "hierax")
    said = {"license": "mit", "tags": "[hiera, hierax]", "base_model": "a/b", "library_name": "hierax"}

    def write(data: dict[str, Any]) -> object:
        lines = "".join(f"{key}: {value}\n" for key, value in data.items() if value != DIGITS)
        return (path / "README.md").write_text(f"---\n{lines}---\n")

    return path, said, write


# Keys that the writers leave out.
_SILENT: dict[tuple[str, str], dict[str, Any]] = {
    ("hierax", "config.json"): {"license": "mit", "pretrained_cfg": {"license": "mit"}},
    ("transformers", "config.json"): {"num_labels": 3, "label2id": {}, "hierax": {"license": "mit"}},
    ("transformers", "preprocessor_config.json"): {"do_convert_rgb": True, "hierax": {"size": [64, 64]}},
    ("timm", "config.json"): {"label_names": ["a", "b", "c"], "label_descriptions": {"a": "A"}},
    ("birder", ""): {
        **{"epoch": 3, "task": "image_classification", "registered_name": "x", "model_config": {"embed_dim": 8}},
    },
    ("meta", ""): {"decoder_num_heads": 16, "epoch": 3},
}
CONTENTS: dict[str, Callable[[Path], tuple[Path, Any, Callable[[Any], object]]]] = {
    "hierax_config": _json("Hiera", "hierax", "config.json"),
    "hierax_preprocess": _json("Hiera", "hierax", "preprocessor_config.json"),
    "hierax_readme": _readme,
    "abswin_config": _json("birder abswin, attention pool", "hierax", "config.json"),
    "video_config": _json("Hiera video", "hierax", "config.json"),
    "mae_config": _json("Hiera MAE", "hierax", "config.json"),
    "transformers_config": _json("Hiera", "transformers", "config.json"),
    "transformers_preprocess": _json("Hiera", "transformers", "preprocessor_config.json"),
    "transformers_sam2_config": _json("SAM 2 trunk", "transformers", "config.json"),
    "transformers_sam2_preprocess": _json("SAM 2 trunk", "transformers", "preprocessor_config.json"),
    "transformers_mae_config": _json("Hiera MAE", "transformers", "config.json"),
    "timm_det_config": _json("timm HieraDet", "timm", "config.json"),
    "timm_abswin_config": _json("timm abswin", "timm", "config.json"),
    "birder_header": _metadata("birder abswin, attention pool", "birder", False),
    "birder_json": _metadata("birder abswin, attention pool", "birder", True),
    "birder_det_json": _metadata("birder HieraDet", "birder", True),
    "birder_entries": _entries("birder abswin, attention pool", "birder"),
    "birder_det_entries": _entries("birder HieraDet", "birder"),
    "birder_mae_entries": _entries("birder MAE", "birder"),
    "meta_entries": _entries("Hiera", "meta"),
    "meta_mae_entries": _entries("Hiera MAE", "meta"),
    "training_entries": _training,
}


# --- the attack -----------------------------------------------------------------------------------------------------


def _used(path: Path, image: np.ndarray) -> None:
    predictor = hierax.load(path)
    str(predictor.card)
    if not np.isfinite(predictor.embed(image)).all():
        raise AssertionError("an embedding that is not finite")


def _wrong(path: Path, image: np.ndarray) -> str | None:
    """What is wrong with what becomes of a file; None if nothing is."""
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        _used(path, image)
    except HieraxError:
        pass
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    seconds = time.process_time() - start
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    # The largest image that a file may ask for takes 3 s.
    return f"{seconds:.1f} s, {megabytes} MB" if seconds > 8 or megabytes > 300 else None


def _sweep(name: str, folder: Path, every: int) -> list[str]:
    """All that is wrong at every place; of the values, each one in `every`, others at the next place."""
    path, content, write = CONTENTS[name](folder)
    image = np.stack([noise(32, 32)] * 4)[None] if "video" in name else noise(32, 32)
    values = PLAIN + (PICKLED if name.endswith("entries") else [])
    write(content)
    _used(path, image)  # or all would be refused for the making
    found, turn = [], 0
    for place in _places(content):
        for value in values:
            turn += 1
            if turn % every:
                continue
            try:
                write(_with(content, place, value))
            except (ValueError, TypeError):  # what the writer's own JSON cannot say
                continue
            if wrong := _wrong(path, image):
                found.append(f"{'.'.join(map(str, place))} = {str(value)[:60]}: {wrong}")
    shutil.rmtree(folder)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CONTENTS if name != "birder_mae_entries"])  # of 110 MB
def test_some_values(name, tmp_path):
    """Places that no other test reaches, in turn with the values."""
    assert _sweep(name, tmp_path / name, 53) == []


@pytest.mark.nightly
@pytest.mark.parametrize("name", CONTENTS)
def test_all_values(name, tmp_path):
    """Whatever one entry says, the others being right."""
    assert _sweep(name, tmp_path / name, 1) == []
