"""Hostile and broken checkpoints: no code runs, nothing is silently random, time and memory stay bounded."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import resource
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import hierax
from hierax import schema
from hierax.errors import CheckpointError, HieraxError
from hierax.weights import files
from hierax.weights.understand import read_weights

from ..members import MEMBERS, tiny_sam2, written

__all__ = ["tiny_sam2"]
SECONDS = 2.0
RISE_MB = 300


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Each test here stays within 2 seconds of processor time and 300 MB more memory than before."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    yield
    rise = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert rise < RISE_MB, f"memory rose by {rise:.0f} MB"
    assert time.process_time() - start < SECONDS + 3, "far over two seconds, setup included"


def refused(path: Path, match: str = ".", **options: Any) -> str:
    """The message with which a file is refused, within two seconds of this process's own time."""
    start = time.process_time()
    with pytest.raises(CheckpointError, match=match) as caught:
        hierax.load(path, **options)
    assert time.process_time() - start < SECONDS
    return str(caught.value)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whole files of one small network, to be damaged in copies."""
    folder = tmp_path_factory.mktemp("good")
    written(MEMBERS["Hiera"], folder / "hierax", "hierax")
    written(MEMBERS["Hiera"], folder / "x.pth", "meta")
    written(MEMBERS["Hiera"], folder / "x.safetensors", "meta")
    written(MEMBERS["Hiera"], folder / "hf", "transformers")
    written(MEMBERS["Hiera video"], folder / "video.pth", "meta")
    return folder


def state(good: Path) -> dict[str, torch.Tensor]:
    return torch.load(good / "x.pth", weights_only=True)["model_state"]


def arguments(good: Path) -> dict[str, Any]:
    return torch.load(good / "x.pth", weights_only=True)["config"]


# --- code in pickles ----------------------------------------------------------------------------------------------


class Gadget:
    """Pickles to a call."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def canary_calls(canary: Path) -> dict[str, Callable[[], bytes]]:
    """Ten shapes in which a pickle can run code that would touch the canary."""
    touch = f"open({str(canary)!r}, 'w').close()"
    shell = f"touch {canary}"

    def dumped(value: object) -> Callable[[], bytes]:
        return lambda: pickle.dumps(value, protocol=2)

    class State:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Gadget, (), {"x": Gadget(exec, touch)})

    nested: Any = {"model_state": {"blocks.0.norm1.weight": Gadget(exec, touch)}}
    return {
        "system": dumped(Gadget(os.system, shell)),
        "exec": dumped(Gadget(exec, touch)),
        "eval": dumped(Gadget(eval, f"[{touch}]")),
        "popen": dumped(Gadget(__import__("subprocess").Popen, ["touch", str(canary)])),
        "builtin getattr": dumped(Gadget(getattr, Gadget(__import__, "os"), "system")),
        "nested in a state": dumped(nested),
        "build state": dumped(State()),
        "torch loads": dumped(Gadget(torch.load, io.BytesIO(pickle.dumps(Gadget(exec, touch))))),
        "old GLOBAL opcode": lambda: f"cposix\nsystem\n(S'{shell}'\ntR.".encode(),
        "old INST opcode": lambda: f"(S'{shell}'\niposix\nsystem\n.".encode(),
        "stack global": lambda: (
            b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c" + bytes([len(shell)]) + shell.encode() + b"\x85R."
        ),
        "runpy": dumped(Gadget(__import__("runpy")._run_code, compile("0", "x", "eval").co_name, {})),
    }


GADGETS = tuple(canary_calls(Path("x")))


def as_zip(path: Path, data: bytes, like: Path) -> None:
    """A torch zip file whose pickle is replaced."""
    with zipfile.ZipFile(like) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for record in old.infolist():
            content = data if record.filename.endswith("data.pkl") else old.read(record)
            new.writestr(record.filename, content)


@pytest.mark.parametrize("container", ["bare", "zip"])
@pytest.mark.parametrize("gadget", GADGETS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_pickle__runs_no_code(gadget: str, container: str, good: Path, tmp_path: Path) -> None:
    """Any full unpickling, even as a fallback, would touch the canary."""
    canary, path = tmp_path / "c", tmp_path / "x.pth"
    data = canary_calls(canary)[gadget]()
    if container == "zip":
        as_zip(path, data, good / "x.pth")
    else:
        path.write_bytes(data)
    refused(path)
    time.sleep(0)  # give a started process its chance
    assert not canary.exists()


def test_pickle__gadgets_work(tmp_path: Path) -> None:
    """The gadgets must be live, or the test above proves nothing."""
    for name in ("system", "exec", "nested in a state", "old GLOBAL opcode", "stack global"):
        canary = tmp_path / name.replace(" ", "_")
        pickle.loads(canary_calls(canary)[name]())
        assert canary.exists(), name


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R.",
        b"\x80\x02c__builtin__\nbytearray\nJ\x00\x00\x00\x7f\x85R.",
        b"\x80\x02" + b"]" * 400_000 + b".",
        b"\x80\x02(" + b"K\x01" * 500_000 + b"l.",
        b"\x80\x02X\xff\xff\xff\x7f" + b"a" * 100,
        b"\x80\x02K\x01\x85q\x00" + b"".join(b"h%c\x86q%c" % (i, i + 1) for i in range(60)) + b"}h\x3cK\x01s.",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f" + b"a" * 100,
    ],
    ids=["bytearray", "old bytearray", "deep", "long", "lying string", "doubling key", "lying long string"],
)
@pytest.mark.parametrize("container", ["bare", "zip"])
def test_pickle__bombs(data: bytes, container: str, good: Path, tmp_path: Path) -> None:
    """Torch's restricted reader allocates and loops on these; the look through the opcodes must come first."""
    path = tmp_path / "x.pth"
    if container == "zip":
        as_zip(path, data, good / "x.pth")
    else:
        path.write_bytes(data)
    refused(path)


def test_torch__tensor_larger_than_its_file(good: Path, tmp_path: Path) -> None:
    """Strides of zero make terabytes out of four bytes; a copy or a sum of that would never end."""
    huge = torch.zeros(1).expand(10**6, 10**6)
    torch.save({"model_state": {**state(good), "blocks.0.norm1.weight": huge}}, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "far more than it has")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["sparse", "meta", "quantized", "nested"])
def test_torch__strange_tensors(kind: str, good: Path, tmp_path: Path) -> None:
    """Tensors without plain values must be refused, not crash the check that looks at values."""
    made = {
        "sparse": lambda: torch.eye(8).to_sparse(),
        "meta": lambda: torch.empty(8, 8, device="meta"),
        "quantized": lambda: torch.quantize_per_tensor(torch.ones(8), 0.1, 0, torch.qint8),
        "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    }[kind]()
    torch.save({"model_state": {**state(good), "blocks.0.norm1.weight": made}}, tmp_path / "x.pth")
    refused(tmp_path / "x.pth")


# --- archives and headers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", ["data.pkl", "data/0", "nested.zip"])
def test_zip__bomb(record: str, tmp_path: Path) -> None:
    """A deflated record of a gigabyte of zeros is a megabyte on disk."""
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/version", "3")
        if record != "data.pkl":
            archive.writestr("archive/data.pkl", pickle.dumps({}))
        with archive.open(f"archive/{record}", "w") as stream:
            for _ in range(50):
                stream.write(bytes(4_000_000))
    refused(path, "compressed")


def test_zip__overlapping_records(good: Path, tmp_path: Path) -> None:
    """Records that all point at the same bytes add up to more than the file."""
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", bytes(100_000))
        first = archive.infolist()[0]
        for index in range(200):
            copy = zipfile.ZipInfo(f"archive/data/{index}")
            for field in ("compress_size", "file_size", "CRC", "header_offset", "external_attr"):
                setattr(copy, field, getattr(first, field))
            archive.filelist.append(copy)
            archive.NameToInfo[copy.filename] = copy
        archive._didModify = True
    refused(path, "more bytes than it has")


@pytest.mark.parametrize("count", [10_001, 200_000])
def test_safetensors__many_entries(count: int, tmp_path: Path) -> None:
    """Hundreds of thousands of empty tensors are cheap to write and dear to build."""
    header = {f"k{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(count)}
    text = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    refused(tmp_path / "x.safetensors", "more than 10000 tensors")


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**63, 2**64 - 1])
def test_safetensors__lying_header_length(length: int, tmp_path: Path) -> None:
    """The header's length must be checked before anything of that length is read."""
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", length) + b'{"a": 1}' + bytes(100))
    refused(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 10**15]},
        {"dtype": "X99", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32"},
        [],
    ],
)
def test_safetensors__impossible_entries(entry: Any, tmp_path: Path) -> None:
    """Shapes and offsets outside the file must not be believed."""
    text = json.dumps({"patch_embed.proj.weight": entry}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    refused(tmp_path / "x.safetensors")


# --- not a checkpoint at all --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>Not found</html>", "error page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "neither"),
        (b"\x00" * 64, "neither"),
        (b"PK\x03\x04" + bytes(60), "not a whole torch file"),
        (b"\x80\x02.", "torch file|tensors"),
        (b"\x80", "torch file|tensors"),
        (b"\xff\xd8\xff\xe0" + bytes(60), "neither"),
        (b"{}", "neither"),
    ],
)
def test_load__not_a_checkpoint(content: bytes, match: str, tmp_path: Path) -> None:
    """An error page saved under a weights name must be called what it is."""
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    assert str(path) in refused(path, match)


def test_load__paths(tmp_path: Path, good: Path) -> None:
    """Missing, unreadable, empty folder, FIFO, device, loop: each an answer, none a wait."""
    refused(tmp_path / "missing.pt", "No such file")
    refused(tmp_path, "no weights file")
    os.mkfifo(tmp_path / "fifo.pt")
    refused(tmp_path / "fifo.pt", "regular file")
    (tmp_path / "zero.pt").symlink_to("/dev/zero")
    refused(tmp_path / "zero.pt", "regular file")
    (tmp_path / "loop.pt").symlink_to(tmp_path / "loop.pt")
    refused(tmp_path / "loop.pt")
    locked = tmp_path / "locked.pth"
    locked.write_bytes((good / "x.pth").read_bytes())
    locked.chmod(0)
    if os.geteuid() != 0:
        refused(locked, "Permission denied")
    link = tmp_path / "link.pth"
    link.symlink_to(good / "x.pth")
    assert hierax.load(link).model.num_classes == 3  # as the hub's cache stores files


def test_load__several_weights(good: Path, tmp_path: Path) -> None:
    """Guessing between two files would be silently wrong half of the time."""
    for name in ("a.pth", "b.pth"):
        (tmp_path / name).write_bytes((good / "x.pth").read_bytes())
    assert "a.pth, b.pth" in refused(tmp_path, "several")


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_load__truncated(name: str, good: Path, tmp_path: Path) -> None:
    """A download cut anywhere is refused, never half loaded."""
    whole = (good / name).read_bytes()
    cuts = [1, 7, 8, 9, 50, *(len(whole) * part // 20 for part in range(1, 20)), len(whole) - 1]
    for cut in cuts:
        path = tmp_path / f"{cut}-{name}"
        path.write_bytes(whole[:cut])
        refused(path)


def test_load__legacy_torch_truncated(good: Path, tmp_path: Path) -> None:
    """Files from before torch 1.6 are a row of pickles; they load whole and are refused cut."""
    path = tmp_path / "old.pth"
    data = {"model_state": state(good), "config": arguments(good)}
    torch.save(data, path, _use_new_zipfile_serialization=False)
    assert torch.equal(hierax.load(path).model.norm.weight, data["model_state"]["norm.weight"])
    whole = path.read_bytes()
    for part in range(1, 12):
        path.write_bytes(whole[: len(whole) * part // 12])
        refused(path)


# --- a checkpoint, but a wrong one --------------------------------------------------------------------------------


def saved(good: Path, tmp_path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    path = tmp_path / "x.pth"
    torch.save({"model_state": tensors, "config": arguments(good)}, path)
    return path


def test_tensors__missing_and_extra(good: Path, tmp_path: Path) -> None:
    """One parameter left random, or one tensor ignored, must stop the load and be named."""
    tensors = state(good)
    without = {key: t for key, t in tensors.items() if key != "blocks.3.mlp.fc1.weight"}
    assert "blocks.3.mlp.fc1.weight" in refused(saved(good, tmp_path, without), "1 missing")
    more = {**tensors, "surprise.weight": torch.ones(3)}
    assert "surprise.weight" in refused(saved(good, tmp_path, more), "1 left over")
    report = hierax.load(saved(good, tmp_path, without), strict=False).report
    assert report.fresh == ("blocks.3.mlp.fc1.weight",)
    assert "blocks.3.mlp.fc1.weight" in str(report)
    assert len(report.used) == len(tensors) - 1


def test_tensors__lists_ten(good: Path, tmp_path: Path) -> None:
    """Of a file of another program the first ten names say what it is; all of them would say nothing."""
    path = tmp_path / "x.pth"
    torch.save({f"layer.{i}.weight": torch.ones(1) for i in range(300)}, path)
    message = refused(path, "none of the known formats")
    assert "layer.9.weight" in message
    assert "layer.10.weight" not in message
    assert "290 more" in message


@pytest.mark.parametrize(
    "damage",
    [
        lambda t: t.t().contiguous(),
        lambda t: t[:-1],
        lambda t: t[None],
        lambda t: t.flatten(),
        lambda t: t[:0],
        lambda t: torch.tensor(1.0),
        lambda t: t.int(),
        lambda t: t.to(torch.complex64),
        lambda t: t.bool(),
    ],
    ids=["transposed", "short", "rank", "flat", "empty", "scalar", "int", "complex", "bool"],
)
@pytest.mark.parametrize(
    "key", ["blocks.2.attn.qkv.weight", "patch_embed.proj.weight", "pos_embed", "head.projection.weight"]
)
def test_tensors__damaged(key: str, damage: Callable[[torch.Tensor], torch.Tensor], good: Path, tmp_path: Path) -> None:
    """A tensor of another shape or kind must be refused, not broadcast, cast or skipped."""
    tensors = state(good)
    victim = tensors[key] if key.startswith("blocks") else tensors[key].flatten(1)
    changed = damage(victim) if key.startswith("blocks") else damage(victim).clone()
    if changed.shape == tensors[key].shape and changed.dtype == tensors[key].dtype:
        return
    refused(saved(good, tmp_path, {**tensors, key: changed}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors__not_finite(value: float, dtype: torch.dtype, good: Path, tmp_path: Path) -> None:
    """One NaN makes every answer NaN; it is refused by name even with strict=False."""
    tensors = {key: t.to(dtype) for key, t in state(good).items()}
    tensors["blocks.4.mlp.fc2.weight"][3, 5] = value
    path = saved(good, tmp_path, tensors)
    refused(path, "blocks.4.mlp.fc2.weight")
    refused(path, "NaN or infinite", strict=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors__other_precision(dtype: torch.dtype, good: Path, tmp_path: Path) -> None:
    """Half precision is widened exactly; double stays double."""
    tensors = {key: t.to(dtype) for key, t in state(good).items()}
    model = hierax.load(saved(good, tmp_path, tensors)).model
    assert model.norm.weight.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(model.norm.weight.to(dtype), tensors["norm.weight"])


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net.module."]
)
def test_tensors__wrapped(prefix: str, good: Path, tmp_path: Path) -> None:
    """DDP and torch.compile put their prefix before every name."""
    tensors = {prefix + key: t for key, t in state(good).items()}
    model = hierax.load(saved(good, tmp_path, tensors)).model
    assert torch.equal(model.norm.weight, state(good)["norm.weight"])


@pytest.mark.parametrize("averaged", ["model_ema", "state_dict_ema", "ema"])
def test_tensors__averaged_copy(averaged: str, good: Path, tmp_path: Path) -> None:
    """Of two copies the averaged one is meant, as timm's loader has it; the report says that there was a choice."""
    plain = state(good)
    better = {key: t + 1 for key, t in plain.items()}
    path = tmp_path / "x.pth"
    torch.save({"model": plain, averaged: better, "config": arguments(good), "epoch": 3}, path)
    predictor = hierax.load(path)
    assert torch.equal(predictor.model.norm.weight, better["norm.weight"])
    assert averaged in str(predictor.report)
    torch.save({averaged: {"decay": torch.tensor(0.99)}, "model": plain, "config": arguments(good)}, path)
    assert torch.equal(hierax.load(path).model.norm.weight, plain["norm.weight"])


def test_tensors__averaged_prefix(good: Path, tmp_path: Path) -> None:
    """Both copies in one flat dictionary, as training frameworks save them, and torch's AveragedModel."""
    plain = state(good)
    both = {f"model.{key}": t for key, t in plain.items()} | {f"ema_model.{key}": t + 1 for key, t in plain.items()}
    predictor = hierax.load(saved(good, tmp_path, both))
    assert torch.equal(predictor.model.norm.weight, plain["norm.weight"] + 1)
    assert "ema_model." in str(predictor.report)
    counted = {f"module.{key}": t for key, t in plain.items()} | {"n_averaged": torch.tensor(7)}
    assert torch.equal(hierax.load(saved(good, tmp_path, counted)).model.norm.weight, plain["norm.weight"])
    two = {f"a.{key}": t for key, t in plain.items()} | {f"b.{key}": t for key, t in plain.items()}
    refused(saved(good, tmp_path, two), "2 networks")


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "module", "model", "state"])
def test_tensors__containers(key: str, good: Path, tmp_path: Path) -> None:
    """Training programs put the state under their own name, some under two."""
    for data in (
        {key: state(good)},
        {"checkpoint": 1, key: {"model": state(good)}} if key != "model" else {key: state(good)},
    ):
        torch.save({**data, "config": arguments(good), "optimizer": {"lr": 1.0}}, tmp_path / "x.pth")
        assert torch.equal(hierax.load(tmp_path / "x.pth").model.norm.weight, state(good)["norm.weight"])


def test_tensors__another_member(good: Path) -> None:
    """Video weights named as an image model, or a small one as a large one, must not load."""
    refused(good / "video.pth", "is not a", name="hiera_tiny_224")
    refused(good / "x.pth", "is not a", name="hiera_large_224")
    refused(good / "hierax", "contradicts", name="hiera_large_224")


# --- folders ------------------------------------------------------------------------------------------------------


def shard(good: Path, folder: Path, names: tuple[str, str]) -> Path:
    """The transformers folder of `good`, its weights in two files."""
    folder.mkdir()
    tensors = load_file(good / "hf" / "model.safetensors")
    keys = sorted(tensors)
    halves = (keys[: len(keys) // 2], keys[len(keys) // 2 :])
    listing = {}
    for name, half in zip(names, halves, strict=True):
        save_file({key: tensors[key] for key in half}, folder / name)
        listing |= {key: name for key in half}
    (folder / "config.json").write_bytes((good / "hf" / "config.json").read_bytes())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listing}))
    return folder


def test_shards__read_whole(good: Path, tmp_path: Path) -> None:
    """All shards make one network; a missing shard or tensor is an error."""
    folder = shard(good, tmp_path / "hf", ("a.safetensors", "b.safetensors"))
    assert torch.equal(hierax.load(folder).model.norm.weight, hierax.load(good / "hf").model.norm.weight)
    index = folder / "model.safetensors.index.json"
    listing = json.loads(index.read_text())
    index.write_text(json.dumps({"weight_map": {**listing["weight_map"], "ghost": "a.safetensors"}}))
    refused(folder, "ghost")
    (folder / "b.safetensors").unlink()
    refused(folder, "No such file")


@pytest.mark.parametrize("place", ["../secret.safetensors", "/etc/passwd", "sub/../../x", ""])
def test_shards__outside_the_folder(place: str, good: Path, tmp_path: Path) -> None:
    """An index must not make us open files elsewhere."""
    folder = shard(good, tmp_path / "hf", ("a.safetensors", "b.safetensors"))
    (tmp_path / "secret.safetensors").write_bytes((folder / "b.safetensors").read_bytes())
    index = folder / "model.safetensors.index.json"
    listing = json.loads(index.read_text())["weight_map"]
    outside = {key: place if name == "b.safetensors" else name for key, name in listing.items()}
    index.write_text(json.dumps({"weight_map": outside}))
    refused(folder, "points outside|regular file|No such file")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"weight_map": 3}', '{"weight_map": {"a": 1}}', "[" * 100_000, '"x"', "\xff"],
)
def test_shards__broken_index(text: str, good: Path, tmp_path: Path) -> None:
    """An index that is no index, however deep."""
    folder = shard(good, tmp_path / "hf", ("a.safetensors", "b.safetensors"))
    (folder / "model.safetensors.index.json").write_bytes(text.encode("latin-1"))
    refused(folder)


@pytest.mark.parametrize("folder", ["hf", "hierax"])
@pytest.mark.parametrize(
    "change",
    [
        lambda data: "{",
        lambda data: "[]",
        lambda data: "[" * 100_000,
        lambda data: _with(data, "depths", [10**7, 1, 1, 1]),
        lambda data: _with(data, "depths", "many"),
        lambda data: _with(data, "depths", None),
        lambda data: _with(data, "embed_dim", 10**9),
        lambda data: _with(data, "embed_dim", -8),
        lambda data: _with(data, "embed_dim", "x"),
        lambda data: _with(data, "mlp_ratio", 1e30),
        lambda data: _with(data, "patch_stride", [0, 0]),
        lambda data: _with(data, "query_stride" if "embed_dim" in data else "q_stride", []),
        lambda data: _with(data, "image_size" if "embed_dim" in data else "input_size", [10**9, 10**9]),
        lambda data: _with(data, "drop_path_rate" if "embed_dim" in data else "drop_path", {}),
        lambda data: _with(data, "patch_kernel" if "architecture" in data else "patch_size", [10**6, 10**6]),
    ],
    ids=range(15),
)
def test_folder__config_lies(folder: str, change: Callable[[Any], str], good: Path, tmp_path: Path) -> None:
    """A config that does not describe its weights costs an error, not an allocation or a KeyError."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in (good / folder).iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    data = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(change(data))
    refused(copy)


def _with(data: dict[str, Any], key: str, value: object) -> str:
    inner = data.get("architecture")
    return json.dumps(
        {**data, "architecture": {**inner, key: value}} if isinstance(inner, dict) else {**data, key: value}
    )


def test_folder__half_written(good: Path, tmp_path: Path) -> None:
    """Without its config a hierax folder is an interrupted copy, not a model of another format."""
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "model.safetensors").write_bytes((good / "hierax" / "model.safetensors").read_bytes())
    refused(copy)


# --- fuzz ---------------------------------------------------------------------------------------------------------


def test_load__fuzzed(good: Path, tmp_path: Path) -> None:
    """Whatever bytes come, the answer is a network or a typed error."""
    wholes = [(good / name).read_bytes() for name in ("x.pth", "x.safetensors")]
    path = tmp_path / "x.pt"
    start = time.process_time()

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
    @given(
        whole=st.sampled_from([*wholes, b""]),
        cuts=st.lists(st.tuples(st.integers(0, 2**20), st.binary(max_size=12)), max_size=6),
        near=st.booleans(),
    )
    def fuzz(whole: bytes, cuts: list[tuple[int, bytes]], near: bool) -> None:
        data = bytearray(whole)
        for place, piece in cuts:
            place = place % min(len(data) + 1, 3000 if near else len(data) + 1)
            data[place : place + len(piece)] = piece
        if time.process_time() - start > SECONDS:
            return
        path.write_bytes(data)
        with contextlib.suppress(HieraxError):
            read_weights(path)

    fuzz()


def test_read_json__bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sidecar of gigabytes must not be read."""
    monkeypatch.setattr(schema, "MOST_BYTES", 10)
    (tmp_path / "config.json").write_text('{"a": "aaaaaaaaaaaa"}')
    with pytest.raises(CheckpointError, match="must be smaller than"):
        files.read_json(tmp_path / "config.json")
