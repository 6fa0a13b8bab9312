"""Every family in every format: written, compared in its own runtime, and run through `load`."""

from __future__ import annotations

import dataclasses
import json
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import hierax
from hierax.config import architecture
from hierax.model.encoder import resize_table
from hierax.model.tables import resize_by_products

from ..members import MEMBERS, picture, pixels, written
from .families import FAMILIES
from .matrix import SUFFIXES, all_outputs, check, exported
from .table import COLUMNS, measured, page_table

# Sizes that no trace is made at: one window of a stage or many, full or not, square or not.
NEVER_TRACED = ((32, 32), (128, 96), (224, 224), (64, 320), (448, 224), (352, 416))


def needed(to: str) -> None:
    for package in {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",), "torch": ()}[to]:
        pytest.importorskip(package)


@pytest.mark.nightly
@pytest.mark.parametrize(("family", "to", "dynamic"), [case for case, cell in page_table().items() if cell != "no"])
def test_matrix(tmp_path, family, to, dynamic):
    """What the page promises, again: `python -m tests.export.table` writes it."""
    needed(to)
    assert measured(tmp_path, family, to, dynamic) <= 1e-4


def test_page_has_every_family():
    """A family without a line looks as if it could not be exported."""
    assert set(page_table()) == {(family, *column) for family in FAMILIES for column in COLUMNS}


@pytest.mark.slow
@pytest.mark.parametrize(("family", "to"), [("HieraDet", "openvino"), ("video Hiera", "torch")])
def test_some_of_the_matrix(tmp_path, family, to):
    needed(to)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)  # what a library says of itself is no user's business
        source, report = exported(tmp_path, family, to, outputs=all_outputs(family))
    check(source, report, to)


@pytest.mark.slow
def test_every_size_of_an_onnx_hieradet(tmp_path):
    """A trace keeps what its example had: one window, full windows, a table resized once."""
    needed("onnx")
    source, report = exported(tmp_path, "HieraDet", "onnx", outputs=all_outputs("HieraDet"), dynamic=True)
    network, program = hierax.load(source).model, hierax.load(report.path).model
    assert not set(NEVER_TRACED) & set(report.sizes)
    for number, size in enumerate(NEVER_TRACED):
        x = pixels(1 + number % 3, 3, *size, seed=number)
        with torch.no_grad():
            expected, found = (each.answers(x, report.outputs) for each in (network, program))
        for name, maps in expected.items():
            assert (found[name] - maps).abs().max() <= 1e-4, (size, name)
    predictor = hierax.load(report.path, input_size=(96, 160))
    np.testing.assert_allclose(
        predictor.embed(picture()), hierax.load(source, input_size=(96, 160)).embed(picture()), atol=1e-4
    )


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> tuple[Path, Path]:
    """Weights, and the torch.export file of them for every size."""
    source, report = exported(tmp_path_factory.mktemp("torch"), "HieraDet", "torch", dynamic=True)
    return source, report.path


@pytest.mark.slow
def test_every_size_of_a_torch_hieradet(archive):
    source, path = archive
    network, program = hierax.load(source).model, hierax.load(path).model
    for size in ((224, 224), (64, 96), (96, 160)):
        x = pixels(2, 3, *size)
        with torch.no_grad():
            assert (network.embedding(x) - program.embedding(x)).abs().max() <= 1e-4, size


@pytest.mark.slow
def test_torch_reads_it_alone(archive):
    """The file is torch's own: whoever has torch needs no hierax."""
    program = torch.export.load(archive[1]).module()
    assert [tuple(each.shape) for each in program(torch.zeros(1, 3, 64, 64))] == [(1, 128), (1, 3)]


def changed(path: Path, target: Path, change) -> Path:
    """A copy of an archive whose records went through a function of name and bytes."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, change(entry.filename, old.read(entry)))
    return target


def _program(change):
    def apply(name: str, data: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return data
        model = json.loads(data)
        change(model)
        return json.dumps(model).encode()

    return apply


def _operator(model):
    model["graph_module"]["graph"]["nodes"][3]["target"] = "torch.hub.load"


def _expression(model):
    values = model["graph_module"]["graph"]["sym_int_values"]
    next(iter(values.values()))["as_expr"]["expr_str"] = "__import__('os').system('touch canary')"


def _guard(model):
    model["guards_code"] = ["__import__('os').system('touch canary')"]


HOSTILE = {
    "pickled inputs": lambda name, data: b"\x80\x02N." if name.endswith("sample_inputs/model.pt") else data,
    "pickled weights": lambda name, data: (
        data.replace(b'"use_pickle": false', b'"use_pickle": true', 1) if name.endswith("weights_config.json") else data
    ),
    "operator": _program(_operator),
    "expression": _program(_expression),
    "guard": _program(_guard),
    "no JSON": lambda name, data: b"{" if name.endswith("models/model.json") else data,
}


@pytest.mark.slow
@pytest.mark.parametrize("how", HOSTILE)
def test_hostile_archives_are_not_run(archive, tmp_path, monkeypatch, how):
    """torch unpickles, evaluates text and resolves names; it must not even be asked."""
    path = changed(archive[1], tmp_path / "hostile.pt2", HOSTILE[how])
    monkeypatch.setattr(torch.export, "load", lambda *_, **__: pytest.fail("read by torch"))
    with pytest.raises(hierax.CheckpointError):
        hierax.load(path)


@pytest.mark.slow
def test_archive_of_another_torch(archive, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.99.0")
    with pytest.raises(hierax.CheckpointError, match=r"this is 2\.99\.0.*Export it again"):
        hierax.load(archive[1])


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(
    ("table", "grid"), [((7, 7), (16, 24)), ((14, 14), (9, 5)), ((7, 5), (7, 5)), ((8, 8), (64, 8))]
)
def test_tables_by_products(table, grid, antialias):
    """Another coefficient, border or centre would show in the first cells."""
    values = pixels(1, *table, 4)
    expected = resize_table(values, grid, antialias)
    assert (resize_by_products(values, grid, antialias) - expected).abs().max() < 1e-5


def test_options_are_checked_before_work(tmp_path, monkeypatch):
    source = written(dataclasses.replace(MEMBERS["Hiera without classes"]), tmp_path / "model", "hierax")
    place = tmp_path / "model.pt2"
    for options, kind, match in (
        ({"to": "tensorrt"}, hierax.UnknownNameError, "Targets are onnx"),
        ({"to": "torch", "dtype": "float8"}, hierax.UnknownNameError, "dtype is"),
        ({"to": "torch", "outputs": ["stage5"]}, hierax.UnknownNameError, "Did you mean 'stage"),
        ({"to": "torch", "outputs": []}, hierax.InputError, "at least one"),
        ({"to": "torch", "outputs": "logits"}, hierax.InputError, "Leave it out"),
        ({"to": "torch", "size": 64, "dynamic": True}, hierax.InputError, "got both"),
        ({"to": "torch", "size": 65}, hierax.InputError, "multiple of 32x32"),
        ({"to": "torch", "dtype": "int8"}, hierax.InputError, "onnx and openvino"),
        ({"to": "torch", "calibration": "photos"}, hierax.InputError, "dtype='int8'"),
        ({"to": "onnx"}, hierax.ExportError, r"ends in \.onnx"),
    ):
        with pytest.raises(kind, match=match):
            hierax.export(source, place, **options)
    place.write_text("mine")
    with pytest.raises(hierax.ExportError, match="already exists"):
        hierax.export(source, place, to="torch")
    assert place.read_text() == "mine"


def test_foreign_files_are_refused_with_the_reason(tmp_path):
    """Without preprocess and labels an answer could only be guessed."""
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [ends[0]], [ends[1]])), tmp_path / "a.onnx")
    with pytest.raises(hierax.CheckpointError, match="not exported by hierax"):
        hierax.load(tmp_path / "a.onnx")
    damaged = tmp_path / "cut.onnx"
    damaged.write_bytes((tmp_path / "a.onnx").read_bytes()[:-5])
    with pytest.raises(hierax.CheckpointError, match=r"damaged|not exported"):
        hierax.load(damaged)
    with pytest.raises(hierax.CheckpointError, match="No such file"):
        hierax.load(tmp_path / "none.onnx")


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("to", "dtype"),
    [("onnx", "float16"), ("openvino", "float16"), ("torch", "float16"), ("onnx", "int8"), ("openvino", "int8")],
)
def test_smaller_files(tmp_path, to, dtype):
    """Half the bytes that computes in half precision, or int8 without the classes, would fail here."""
    needed(to)
    if (to, dtype) == ("openvino", "int8"):
        pytest.importorskip("nncf")
    source, report = exported(tmp_path, "Hiera", to, dtype=dtype)
    _, whole = exported(tmp_path / "whole", "Hiera", to)
    if to != "torch":  # which is small beside the text of its graph here
        assert report.bytes < 0.8 * whole.bytes
    assert report.cosine > (0.99 if dtype == "int8" else 0.9999)
    assert (report.agreement is None) == (dtype != "int8")
    before, after = hierax.load(source).embed(picture()), hierax.load(report.path).embed(picture())
    assert (before * after).sum() / np.linalg.norm(before) / np.linalg.norm(after) > 0.99


@pytest.mark.nightly
@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_sam2_trunk_at_1024(tmp_path, to):
    """The published geometry at its own size: position tables, windows and batches of the real proportions."""
    needed(to)
    source = written(architecture("sam2_hiera_tiny"), tmp_path / "weights", "hierax")
    stages = ("stage1", "stage2", "stage3", "stage4")
    report = hierax.export(source, tmp_path / f"model{SUFFIXES[to]}", to=to, outputs=stages)
    assert report.sizes == ((1024, 1024),)
    assert report.difference <= 1e-4
