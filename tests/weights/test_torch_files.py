"""Our reader of torch files against torch's own, and the bytes that we write."""

from __future__ import annotations

import argparse
import collections
import hashlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hierax
from hierax.errors import CheckpointError
from hierax.weights import files
from hierax.weights.safetensors_files import read_safetensors, save_safetensors
from hierax.weights.torch_files import read_torch

PLAIN = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8)
PLAIN += (torch.uint8, torch.bool)
OTHERS = (torch.complex64, torch.complex128)
NEWER = (torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2)  # in archives only


def assert_identical(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """Names, order, types, shapes, strides and every bit."""
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        mine = ours[name]
        assert (mine.dtype, mine.shape, mine.stride()) == (tensor.dtype, tensor.shape, tensor.stride()), name
        assert bytes_of(mine) == bytes_of(tensor), name


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.detach().clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8).numpy().tobytes()


def drawn(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return (torch.randn(shape) * 10).to(dtype)


@st.composite
def views(draw: st.DrawFn) -> torch.Tensor:
    """A tensor of any type, whole, transposed, sliced, expanded, empty or a number."""
    shape = draw(st.lists(st.integers(0, 5), max_size=4))
    tensor = drawn(draw(st.sampled_from(PLAIN)), *shape)
    if tensor.ndim > 1 and draw(st.booleans()):
        tensor = tensor.transpose(0, -1)
    if tensor.ndim and tensor.shape[0] > 1 and draw(st.booleans()):
        tensor = tensor[1:]
    if draw(st.booleans()):
        tensor = tensor[None].expand(draw(st.integers(1, 3)), *tensor.shape)
    return tensor


@pytest.mark.parametrize("newer", [True, False], ids=["archive", "older"])
@settings(max_examples=60)
@given(data=st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), views(), min_size=1, max_size=6))
def test_random_tensors(newer: bool, data: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> None:
    """A wrong offset, stride, byte order or type would change bits."""
    path = tmp_path_factory.mktemp("x") / "x.pth"
    torch.save(data, path, _use_new_zipfile_serialization=newer)
    assert_identical(read_torch(path)[0], torch.load(path, weights_only=True))


@pytest.mark.parametrize("newer", [True, False], ids=["archive", "older"])
def test_every_type(newer: bool, tmp_path: Path) -> None:
    """Shared storages, parameters with attributes and every type that a file can hold."""
    base = torch.randn(10, 20)
    data: dict[str, torch.Tensor] = {"base": base, "shared": base[2:5, 3:7], "turned": base.t()}
    data |= {str(dtype): drawn(dtype, 3, 4) for dtype in (*PLAIN, *OTHERS, *(NEWER if newer else ()))}
    data["parameter"] = torch.nn.Parameter(torch.randn(3))
    data["marked parameter"], data["marked"] = torch.nn.Parameter(torch.randn(3)), torch.randn(3)
    data["marked parameter"].mark = data["marked"].mark = 1  # type: ignore[attr-defined]
    data["tracked"] = torch.randn(5).requires_grad_()
    torch.save(data, tmp_path / "x.pth", _use_new_zipfile_serialization=newer)
    ours = read_torch(tmp_path / "x.pth")[0]
    assert_identical(ours, torch.load(tmp_path / "x.pth", weights_only=True))
    assert ours["base"].data_ptr() == ours["turned"].data_ptr()
    assert not any(tensor.requires_grad for tensor in ours.values())


@pytest.mark.parametrize("newer", [True, False], ids=["archive", "older"])
def test_training_file(newer: bool, tmp_path: Path) -> None:
    """What training code keeps beside the weights becomes plain data; what has tensors is named, not read."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.randn(2, 3)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5, 5])
    beside = {
        "args": argparse.Namespace(lr=0.1, out=Path("/out"), best=np.float32(0.5)),
        "schedule": schedule.state_dict(),
        "numbers": [3, -3, 2**40, 2**100, 1.5, True, None, np.int64(7), np.bool_(True), np.float16(0.25)],
        "counter": collections.Counter("aab"),
        "bytes": b"a\xff",
        "size": torch.Size([1, 2]),
        "set": {"x"},
        "type": torch.float16,
    }
    data = {"model": {f"module.{k}": v for k, v in module.state_dict().items()}, "optimizer": optimizer.state_dict()}
    torch.save({**data, **beside}, tmp_path / "x.pth", _use_new_zipfile_serialization=newer)
    tensors, rest, notes = read_torch(tmp_path / "x.pth")
    assert_identical(tensors, data["model"])
    assert Path(*rest["args"].pop("out")) == Path("/out")  # in parts, or whole from Python 3.13 on
    assert rest["args"] == {"lr": 0.1, "best": 0.5}
    assert rest["schedule"]["milestones"] == {3: 1, 5: 2}
    assert rest["numbers"] == beside["numbers"]
    assert [type(number) for number in rest["numbers"][-3:]] == [int, bool, float]
    same = {"counter": {"a": 2, "b": 1}, "bytes": b"a\xff", "size": (1, 2), "set": ["x"], "type": torch.float16}
    assert {key: rest[key] for key in same} == same
    assert "optimizer" not in rest
    assert any("not read: 'optimizer'" in note for note in notes)


def test_other_byte_order(tmp_path: Path) -> None:
    """Files of big-endian machines say so; ignoring it would turn weights into noise."""
    data = {"a": torch.randn(3, 4), "b": torch.arange(5), "c": drawn(torch.complex64, 3)}
    torch.save({**data}, tmp_path / "x.pth")
    import zipfile

    with zipfile.ZipFile(tmp_path / "x.pth") as old, zipfile.ZipFile(tmp_path / "y.pth", "w") as new:
        for record in old.infolist():
            swapped = b"big" if record.filename.endswith("byteorder") else old.read(record)
            if "/data/" in record.filename:
                width = {"0": 4, "1": 8, "2": 4}[record.filename[-1]]
                swapped = np.frombuffer(swapped, f"u{width}").byteswap().tobytes()
            new.writestr(record.filename, swapped)
    assert_identical(read_torch(tmp_path / "y.pth")[0], data)


def test_large_archive_offsets(tmp_path: Path) -> None:
    """An archive that Python writes with 64-bit sizes in every header is the same archive."""
    import zipfile

    torch.save({"a": torch.randn(3), "b": torch.randn(2)}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as old, zipfile.ZipFile(tmp_path / "y.pth", "w") as new:
        for record in old.infolist():
            with new.open(record.filename, "w", force_zip64=True) as stream:
                stream.write(old.read(record))
    assert_identical(read_torch(tmp_path / "y.pth")[0], torch.load(tmp_path / "x.pth", weights_only=True))


# --- what is written ------------------------------------------------------------------------------------------------


def test_safetensors__both_ways(tmp_path: Path) -> None:
    """What we write, the package reads, and the other way round."""
    known = tuple(map(int, importlib.metadata.version("safetensors").split(".")[:2])) >= (0, 6)  # of the newer ones
    types = (*PLAIN, *(NEWER if known else ()), torch.complex64)
    data = {
        f"{i} {dtype}": drawn(dtype, *shape) for i, shape in enumerate([(3, 4), (), (0, 2), (5,)]) for dtype in types
    }
    save_safetensors(tmp_path / "ours", data, {"format": "pt", "\u00e9": "\u4e16"})
    safetensors.torch.save_file(data, tmp_path / "theirs", {"format": "pt", "\u00e9": "\u4e16"})
    for path in (tmp_path / "ours", tmp_path / "theirs"):
        tensors, metadata = read_safetensors(path)
        read = safetensors.torch.load_file(path)
        assert_identical(dict(sorted(tensors.items())), dict(sorted(data.items())))
        assert_identical(dict(sorted(read.items())), dict(sorted(data.items())))
        assert metadata == {"format": "pt", "\u00e9": "\u4e16"}


def test_safetensors__refused_to_write(tmp_path: Path) -> None:
    """A type that the format lacks, and the name that is its own, must not make a file that nobody reads."""
    for data in ({"a": torch.zeros(1, dtype=torch.complex128)}, {"__metadata__": torch.zeros(1)}):
        with pytest.raises(CheckpointError, match="safetensors"):
            files.write_safetensors(tmp_path / "x.safetensors", data)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_convert__same_bytes(tmp_path: Path) -> None:
    """Two processes, two places: the order of a hash table or a temporary name in the file would differ."""
    code = """
import sys, hierax, pathlib
for to, name in (("hierax", "m"), ("meta", "m.pth"), ("meta", "m.safetensors"), ("timm", "t"), ("transformers", "h"),
                 ("birder", "b.pt"), ("birder", "b.safetensors")):
    hierax.load().save(pathlib.Path(sys.argv[1]) / name, format=to)
"""
    said: list[Any] = []
    for name in ("one", "another"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True, capture_output=True)
        made = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        said.append({str(p.relative_to(tmp_path / name)): hashlib.sha256(p.read_bytes()).hexdigest() for p in made})
    assert said[0] == said[1]
    assert len(said[0]) > 10


def test_load__reads_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a file is ours is in its names: reading a gigabyte of weights for it would double every save."""
    hierax.load().save(tmp_path / "m.pth", format="meta")
    monkeypatch.setattr("hierax.weights.torch_files._tensors_of", lambda *_: pytest.fail("tensors were read"))
    assert files.is_ours(tmp_path / "m.pth")
