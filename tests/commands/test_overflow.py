"""Finite weights whose numbers overflow: a row with the reason, in every output, and never NaN."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import hierax
from hierax.config import PreprocessSpec
from hierax.weights.write import write_weights

from ..faults.corpus.case import hierax as command
from ..members import classifier


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that a white picture overflows and a black one does not, with two of each."""
    root = tmp_path_factory.mktemp("overflow")
    weights = classifier(["a", "b"])
    spec = PreprocessSpec(size=(64, 64), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    kernel = torch.full_like(weights.tensors["patch_embed.proj.weight"], 3e38)
    tensors = {**weights.tensors, "patch_embed.proj.weight": kernel}
    loud = dataclasses.replace(weights, tensors=tensors).with_card(preprocess=spec)
    write_weights(loud, root / "model", to="hierax")
    for number, colour in enumerate(["black", "white", "black", "white"]):
        (root / "pictures").mkdir(exist_ok=True)
        Image.new("RGB", (64, 64), colour).save(root / "pictures" / f"{number}.png")
    return root


@pytest.mark.parametrize("form", ["json", "jsonl", "csv", "table"])
def test_classify__never_prints_nan(form: str, folder: Path) -> None:
    """NaN is no JSON; a whole batch must not be lost for one of its pictures."""
    ran = command("classify", folder / "pictures", "-m", folder / "model", "--format", form)
    assert ran.code == 3
    assert "nan" not in " ".join(ran.out.lower().split()).replace("gives nan", "")
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(ran.out)))
        found = {Path(row["path"]).stem: row["error"] for row in rows}
    elif form in ("json", "jsonl"):
        rows = json.loads(ran.out) if form == "json" else [json.loads(line) for line in ran.out.splitlines()]
        found = {Path(row["path"]).stem: row["error"] or "" for row in rows}
    else:
        return
    assert [("finite" in found[str(number)]) for number in range(4)] == [False, True, False, True]


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_embed__a_row_with_the_reason(suffix: str, folder: Path, tmp_path: Path) -> None:
    """NaN in a row without an error would be taken for a vector."""
    out = tmp_path / f"vectors{suffix}"
    assert command("embed", folder / "pictures", "-m", folder / "model", "-o", out, "--normalize").code == 3
    if suffix == ".npz":
        with np.load(out) as data:
            errors, good = list(data["error"]), np.isfinite(data["embedding"]).all(axis=1)
    else:
        table = pytest.importorskip("pyarrow.parquet").read_table(out).to_pydict()
        errors = [error or "" for error in table["error"]]
        good = np.array([vector is not None for vector in table["embedding"]])
    assert [("finite" in error) for error in errors] == [False, True, False, True]
    assert good.tolist() == [True, False, True, False]


def test_features__no_map_of_nan(folder: Path, tmp_path: Path) -> None:
    """Maps and the picture drawn of them are of the good files only."""
    ran = command(
        "features", folder / "pictures", "-m", folder / "model", "-o", tmp_path / "x.npz", "--plot", tmp_path / "x.png"
    )
    assert ran.code == 3
    with np.load(tmp_path / "x.npz") as data:
        assert data["index"].tolist() == [0, 2]
        assert all(np.isfinite(data[f"stage{number}"]).all() for number in range(1, 5))


@pytest.mark.parametrize("method", ["embed", "classify", "features"])
def test_predictor__names_the_item(method: str, folder: Path) -> None:
    """Of many images the one to look at must be said, and what to do."""
    predictor = hierax.load(folder / "model")
    with pytest.raises(hierax.InputError, match=r"finite; .* item 1 of this call.*float32"):
        getattr(predictor, method)(sorted((folder / "pictures").iterdir()), batch_size=3)
    with pytest.raises(hierax.InputError, match="finite"):
        getattr(predictor, method)(torch.full((1, 3, 64, 64), float("nan")))


def test_predictor__half_precision_overflows() -> None:
    """float16 ends at 65504: weights that are fine in float32 must not give NaN there."""
    predictor = hierax.load(dtype="float16")
    with torch.no_grad():
        predictor.encoder.patch_embed.proj.weight.mul_(1e4)
        predictor.encoder.patch_embed.proj.bias.fill_(6e4)
    with pytest.raises(hierax.InputError, match="float16"):
        predictor.embed(np.full((96, 96, 3), 255, np.uint8))


def test_normalize__of_large_numbers() -> None:
    """The square of 1e30 overflows float32: a vector scaled in it became zero."""
    predictor = hierax.load()
    with torch.no_grad():
        predictor.encoder.norm.weight.mul_(1e30)
        predictor.encoder.norm.bias.mul_(1e30)
    vector = predictor.embed(np.full((96, 96, 3), 255, np.uint8), normalize=True)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("colours", "code", "counts"), [("black white", 3, (1, 1)), ("white white", 3, (0, 2))])
def test_accuracy__counts_no_answer_that_is_none(
    colours: str, code: int, counts: tuple[int, int], folder: Path, tmp_path: Path
) -> None:
    """The largest of NaN logits is the first: all would be counted as answers "a", right where that is the truth."""
    for label, colour in zip("ab", colours.split(), strict=True):
        (tmp_path / label).mkdir()
        Image.new("RGB", (64, 64), colour).save(tmp_path / label / "0.png")
    ran = command("eval", "accuracy", tmp_path, "-m", folder / "model", "--split", "all", "--format", "json")
    assert ran.code == code
    found = json.loads(ran.out, parse_constant=lambda constant: pytest.fail(constant))
    assert (found["total"], found["unreadable"]) == counts
    assert "NaN or infinite" in ran.err
