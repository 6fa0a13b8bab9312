"""Every cell of the 6 x 6 matrix, with one network of each family that its source can hold."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest
import torch

import hierax
from hierax.errors import CheckpointError, UnknownNameError
from hierax.weights.formats import FORMAT_NAMES
from hierax.weights.understand import read_weights
from hierax.weights.write import write_weights

from ..members import MEMBERS, answer, tiny_sam2, weights_of, written
from ..tolerance import FP32, assert_same
from .refused import REFUSED

pytestmark = pytest.mark.slow

__all__ = ["tiny_sam2"]
# SAM 2's trunk has no pooled vector. timm and birder each add theirs, in a different order, so that what one of them
# holds is no longer what the other one would compute.
ONE_WAY = {("SAM 2 trunk", "birder", "timm"), ("SAM 2 trunk", "timm", "birder")}
# Networks with a final norm in some formats only, where it is untrained and nothing reads it.
NORMLESS = ("SAM 2 trunk", "birder MAE")
# birder's decoder has 25 million parameters at any encoder size: enough to start from its own format.
LARGE = {"birder MAE": ["birder"]}
NAMES = [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in MEMBERS]
CHAINS = {"SAM 2 trunk": ["sam2", "birder", "sam2", "timm", "transformers"], "birder MAE": ["meta", "birder"]}


def sources(member: str) -> list[str]:
    return [name for name in FORMAT_NAMES if (member, name) not in REFUSED]


@pytest.mark.usefixtures("tiny_sam2")
@pytest.mark.parametrize("member", NAMES)
@pytest.mark.parametrize("source", FORMAT_NAMES)
def test_convert__row(member: str, source: str, tmp_path: Path) -> None:
    """A name missing from a rename table, a transposed table or a lost config would change a bit or a number here."""
    if source not in LARGE.get(member, sources(member)):
        pytest.skip("this format cannot hold this network; the refusal is tested below")
    config = MEMBERS[member]
    start = written(config, tmp_path / "start", source)
    before = read_weights(start)
    for target in sources(member):
        if (member, source, target) in ONE_WAY:
            with pytest.raises(CheckpointError, match="pool"):
                hierax.convert(start, tmp_path / target, to=target)
            continue
        result = hierax.convert(start, tmp_path / target, to=target)
        after = read_weights(result)
        kept = {key: t for key, t in before.tensors.items() if member not in NORMLESS or not key.startswith("norm.")}
        assert all(torch.equal(after.tensors[key], tensor) for key, tensor in kept.items())
        assert after.tensors.keys() - kept.keys() <= {"norm.weight", "norm.bias"}
        assert not after.report.fresh
        said, expected = answer(after), answer(before)
        keys = [key for key in expected if key != "logits" or member != "SAM 2 trunk"]
        assert_same({key: said[key] for key in keys}, {key: expected[key] for key in keys}, FP32)


@pytest.mark.usefixtures("tiny_sam2")
@pytest.mark.parametrize(
    ("member", "target"), [pytest.param(*cell, marks=pytest.mark.slow if cell[0] in LARGE else ()) for cell in REFUSED]
)
def test_convert__refused(member: str, target: str, tmp_path: Path) -> None:
    """What a format cannot express must be refused by name of the obstacle, not written without it."""
    start = written(MEMBERS[member], tmp_path / "start", "hierax")
    with pytest.raises(CheckpointError, match=r"cannot be written in") as caught:
        hierax.convert(start, tmp_path / "out", to=target)
    assert REFUSED[member, target] in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["start"]


@pytest.mark.usefixtures("tiny_sam2")
@pytest.mark.parametrize("member", NAMES)
def test_convert__chain(member: str, tmp_path: Path) -> None:
    """Through all formats that it can pass and back: nothing may be rounded, renamed or dropped on the way."""
    first = weights_of(MEMBERS[member])
    if member == "birder MAE":  # its unused encoder norm does not survive formats without one
        norm = {"norm.weight": torch.ones(64), "norm.bias": torch.full((64,), 0.02)}
        first = dataclasses.replace(first, tensors={**first.tensors, **norm})
    path = write_weights(first, tmp_path / "0", to="hierax")
    for step, target in enumerate([*CHAINS.get(member, sources(member)), "hierax"], start=1):
        path = hierax.convert(path, tmp_path / str(step), to=target)
    last = read_weights(path)
    for key, tensor in first.tensors.items():
        assert torch.equal(last.tensors[key], tensor), key
    assert last.config.windows == first.config.windows


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("target", ["meta", "timm", "transformers", "birder"])
def test_convert__keeps_precision(dtype: torch.dtype, target: str, tmp_path: Path) -> None:
    """Weights of another type must not be widened or rounded on the way."""
    base = weights_of(MEMBERS["Hiera"])
    base = dataclasses.replace(base, tensors={key: t.to(dtype) for key, t in base.tensors.items()})
    path = hierax.convert(write_weights(base, tmp_path / "a", to="hierax"), tmp_path / "b", to=target)
    after = read_weights(path)
    assert all(
        torch.equal(after.tensors[key], t) and after.tensors[key].dtype == dtype for key, t in base.tensors.items()
    )


def test_convert__labels_and_statistics(tmp_path: Path) -> None:
    """Class names and colour statistics are part of a model; a target that can hold them must get them."""
    start = written(MEMBERS["Hiera"], tmp_path / "a", "hierax")
    for target in ("transformers", "timm", "birder"):
        again = hierax.load(hierax.convert(start, tmp_path / target, to=target))
        assert again.labels == ["bird 0", "bird 1", "bird 2"]
        assert again.preprocess.mean == (0.1, 0.2, 0.3)
        assert again.preprocess.std == (0.4, 0.5, 0.6)


def test_convert__classes_of_one_name(tmp_path: Path) -> None:
    """birder indexes classes by name: two of one name would make one of them vanish."""
    base = dataclasses.replace(weights_of(MEMBERS["birder abswin"]), labels=["crane", "kite", "crane"])
    path = write_weights(base, tmp_path / "x.pt", to="birder")
    assert hierax.load(path).labels == ["crane [0]", "kite", "crane [2]"]


@pytest.mark.parametrize(
    ("target", "name", "returned"),
    [
        ("hierax", "out", "out"),
        ("transformers", "some.name.v1", "some.name.v1"),
        ("timm", "out", "out"),
        ("timm", "out.safetensors", "out.safetensors"),
        ("timm", "out.pth", "out.pth"),
        ("meta", "out.pth", "out.pth"),
        ("meta", "out.safetensors", "out.safetensors"),
        ("meta", "model.v2", "model.v2/custom.pth"),
        ("birder", "out.pt", "out.pt"),
        ("birder", "out.safetensors", "out.safetensors"),
        ("birder", "deep/down/out", "deep/down/out/custom.pt"),
    ],
)
def test_convert__destination(target: str, name: str, returned: str, tmp_path: Path) -> None:
    """The path that comes back exists, is what was asked for, and loads; nothing temporary is left."""
    start = written(MEMBERS["Hiera"], tmp_path / "start", "hierax")
    result = hierax.convert(start, tmp_path / name, to=target)
    assert result == tmp_path / returned
    assert torch.equal(hierax.load(result).model.norm.weight, hierax.load(start).model.norm.weight)
    assert not [path for path in tmp_path.rglob(".*")]


@pytest.mark.parametrize(
    ("target", "name"),
    [("hierax", "x.safetensors"), ("transformers", "x.bin"), ("birder", "x.pth"), ("meta", "x.ckpt")],
)
def test_convert__wrong_suffix(target: str, name: str, tmp_path: Path) -> None:
    """A folder called x.safetensors, or a file that the original loader will not open, helps nobody."""
    start = written(MEMBERS["Hiera"], tmp_path / "start", "hierax")
    with pytest.raises(CheckpointError, match="Name a folder"):
        hierax.convert(start, tmp_path / name, to=target)
    assert not (tmp_path / name).exists()


def test_convert__never_overwrites(tmp_path: Path) -> None:
    """An existing file, folder with content, or dangling link must stay as it is."""
    start = written(MEMBERS["Hiera"], tmp_path / "start", "hierax")
    full, file, link = tmp_path / "full", tmp_path / "old.pth", tmp_path / "link"
    full.mkdir()
    (full / "thesis.txt").write_text("mine")
    file.write_text("mine")
    link.symlink_to(tmp_path / "nowhere")
    for destination, target in ((full, "hierax"), (file, "meta"), (file, "sam2"), (link, "timm"), (start, "hierax")):
        with pytest.raises(CheckpointError):
            hierax.convert(start, destination, to=target)
    assert (full / "thesis.txt").read_text() == file.read_text() == "mine"
    (tmp_path / "empty").mkdir()
    hierax.convert(start, tmp_path / "empty", to="timm")


def test_convert__whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder whose last file could not be written must not be there at all."""
    from hierax.weights.formats import transformers

    start = written(MEMBERS["Hiera"], tmp_path / "start", "hierax")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transformers, "write_json", full_disk)
    with pytest.raises(CheckpointError, match="No space left"):
        hierax.convert(start, tmp_path / "out", to="transformers")
    assert [path.name for path in tmp_path.iterdir()] == ["start"]


def test_convert__unknown_format(tmp_path: Path) -> None:
    """A typing error must be answered before anything is read or written."""
    with pytest.raises(UnknownNameError, match="transformers"):
        hierax.convert(tmp_path / "missing.pt", tmp_path / "out", to="transformer")


def test_convert__says_what_stays_behind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Tensors beside the network do not go along; not saying so would drop them silently."""
    folder = written(MEMBERS["Hiera"], tmp_path / "start", "transformers")
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    state = {key.removeprefix("hiera."): t for key, t in state.items()}
    save_file({**state, "hidden_states_norms.stage1.weight": torch.ones(8)}, folder / "model.safetensors")
    with caplog.at_level(logging.WARNING, logger="hierax"):
        hierax.convert(folder, tmp_path / "out", to="timm")
    assert "1 tensors do not go into timm" in caplog.text


def test_save__replaces_what_it_wrote(tmp_path: Path) -> None:
    """Saving twice to one folder keeps the newest, and leaves what else lies there alone."""
    predictor = hierax.load(written(MEMBERS["Hiera"], tmp_path / "start", "hierax"))
    predictor.save(tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with torch.no_grad():
        predictor.model.norm.weight.fill_(5)
    assert predictor.save(tmp_path / "out") == tmp_path / "out"
    assert hierax.load(tmp_path / "out").model.norm.weight[0] == 5
    assert (tmp_path / "out" / "notes.txt").exists()
