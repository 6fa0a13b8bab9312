"""ONNX: written, checked against the network, and run through `load` as the network was."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import hierax
from hierax.export import check, program, run
from hierax.export import onnx as writer
from hierax.weights.programs import read_facts

from ..members import MEMBERS, encoded, picture, pixels, written
from .broken import BREAKAGES

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

CONFIG = dataclasses.replace(MEMBERS["Hiera"], depths=(1, 1, 1, 1))
OUTPUTS = ("embedding", "logits", "stage2", "stage4")


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[Path, Path, hierax.ExportReport]:
    """The weights, the file, and the report on it."""
    folder = tmp_path_factory.mktemp("onnx")
    source = written(CONFIG, folder / "model", "hierax")
    return source, folder / "model.onnx", hierax.export(source, folder / "model.onnx", to="onnx", outputs=OUTPUTS)


def test_answers_equal_the_networks(exported):
    """Another preprocess, order of outputs or batch rule would show in one of these."""
    source, path, report = exported
    before, after = hierax.load(source), hierax.load(path)
    images = [picture((90, 70), seed=seed) for seed in range(3)]
    np.testing.assert_allclose(after.embed(images), before.embed(images), atol=1e-5)
    for name, maps in before.features(images, stages=("stage2", "stage4")).items():
        np.testing.assert_allclose(after.features(images, stages=[name])[name], maps, atol=1e-4)
    for ours, theirs in zip(after.classify(images), before.classify(images), strict=True):
        assert [guess.label for guess in ours] == [guess.label for guess in theirs]
        np.testing.assert_allclose([g.score for g in ours], [g.score for g in theirs], atol=1e-5)
    assert after.labels == before.labels
    assert after.preprocess == before.preprocess
    assert report.difference < 1e-4
    assert report.cosine > 0.9999
    assert report.sizes == ((64, 64),)
    assert report.outputs == OUTPUTS


def test_report_lies_beside_the_file(exported):
    _, path, report = exported
    kept = json.loads(path.with_name("model.onnx.report.json").read_text())
    assert kept["difference"] == report.difference
    assert kept["path"] == "model.onnx"
    assert kept["sizes"] == [[64, 64]]


def test_file_is_valid_and_says_nothing_of_this_machine(exported):
    """The exporter writes lines of source and folders of this machine into every node."""
    _, path, _ = exported
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(each.domain, each.version) for each in model.opset_import if not each.domain] == [("", 20)]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [each.name for each in model.graph.output] == list(OUTPUTS)
    content = path.read_bytes()
    for trace in (str(Path(hierax.__file__).parent), str(path.parent), "site-packages", ".py"):
        assert trace.encode() not in content, trace


def test_metadata_say_all(exported):
    source, path, _ = exported
    facts = read_facts(path, "onnx")
    network = hierax.load(source)
    assert facts.config == network.encoder.config
    assert facts.preprocess == network.preprocess
    assert list(facts.labels or ()) == network.labels
    assert facts.source_sha256
    assert facts.version == hierax.__version__
    texts = {each.key: each.value for each in onnx.load(path).metadata_props}
    assert json.loads(texts["hierax.input_size"]) == [64, 64]
    assert json.loads(texts["hierax.labels"]) == network.labels


def test_description_needs_no_runtime(exported, monkeypatch):
    """What a file says is read from its bytes: onnxruntime may be missing where files are only listed."""
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    card = hierax.describe(exported[1])
    assert card.format == "onnx"
    assert "embedding, logits, stage2, stage4; 64x64 alone" in (card.note or "")
    with pytest.raises(hierax.MissingExtraError, match=r"hierax\[onnx\]|onnxruntime"):
        hierax.load(exported[1])


def test_name_of_the_file_does_not_matter(exported, tmp_path):
    other = tmp_path / "model.safetensors"
    other.write_bytes(exported[1].read_bytes())
    assert hierax.load(other).card.format == "onnx"


def test_what_the_file_has_not_is_refused(exported, tmp_path):
    """Silence would be an answer of another size, output or precision."""
    _, path, _ = exported
    predictor = hierax.load(path)
    image = picture((90, 70))
    for call, kind, match in (
        (lambda: predictor.features(image, stages=["stage1"]), hierax.InputError, "outputs embedding,logits,stage1"),
        (lambda: predictor.embed(pixels(1, 3, 96, 64)), hierax.InputError, "64x64 alone; got 96x64.*--size 96 64"),
        (lambda: predictor.embed(pixels(1, 3, 65, 64)), hierax.InputError, "multiple of 32x32"),
        (lambda: hierax.load(path, input_size=96), hierax.InputError, "64x64 alone"),
        (lambda: hierax.load(path, dtype="bfloat16"), hierax.InputError, "dtype='bfloat16'"),
        (lambda: hierax.load(path, num_classes=3), hierax.InputError, "num_classes=3"),
        (lambda: hierax.load(path, fast=True), hierax.InputError, "fast=True"),
        (lambda: predictor.save(tmp_path / "saved"), hierax.CheckpointError, "no weights"),
        (lambda: hierax.convert(path, tmp_path / "c", to="meta"), hierax.CheckpointError, "exported program"),
        (lambda: hierax.export(path, tmp_path / "again.onnx", to="onnx"), hierax.CheckpointError, "exported program"),
        (lambda: hierax.optimize(predictor.model), hierax.InputError, "holds none"),
        (lambda: predictor.embed(torch.full((1, 3, 64, 64), float("nan"))), hierax.InputError, "NaN"),
    ):
        with pytest.raises(kind, match=match):
            call()


def test_empty_batches_have_shapes(exported):
    predictor = hierax.load(exported[1])
    assert predictor.embed([]).shape == (0, 64)
    assert predictor.embed(torch.zeros(0, 3, 64, 64)).shape == (0, 64)


def test_bulk_runs_it(exported, tmp_path):
    """Columns ask a network for several answers in one pass, and a store for what made its vectors."""
    for seed in range(3):
        (tmp_path / f"{seed}.png").write_bytes(encoded(picture(seed=seed)))
    source, path, _ = exported
    stores = [tmp_path / "of_network", tmp_path / "of_program"]
    for model, out in zip((source, path), stores, strict=True):
        columns = ("embedding", "stage2", "top5")
        hierax.embed(tmp_path, out, model=str(model), columns=columns, workers=0, progress=False)
    before, after = map(hierax.open_store, stores)
    for column in ("embedding", "stage2"):
        np.testing.assert_allclose(after.vectors(column), before.vectors(column), atol=1e-4)
    assert after.metadata["sha256"] == before.metadata["sha256"]


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_broken_graphs_leave_nothing(exported, tmp_path, monkeypatch, breakage):
    """Each is what an exporter may do unnoticed; the check must see it, and leave nothing under the name."""
    source, path, _ = exported

    def write(_, target, *__):
        model = onnx.load(path)
        BREAKAGES[breakage](model)
        onnx.save(model, target)

    monkeypatch.setattr(writer, "write", write)
    monkeypatch.setattr(run, "trace", lambda *_, **__: None)
    with pytest.raises(hierax.ExportError, match="not exported by hierax" if "metadata" in breakage else "wit"):
        hierax.export(source, tmp_path / "broken.onnx", to="onnx", outputs=OUTPUTS)
    assert not list(tmp_path.iterdir())


def test_sound_copy_passes(exported, tmp_path, monkeypatch):
    """The control of the controls: the same way with nothing broken."""
    source, path, _ = exported
    monkeypatch.setattr(writer, "write", lambda _, target, *__: target.write_bytes(path.read_bytes()))
    monkeypatch.setattr(run, "trace", lambda *_, **__: None)
    hierax.export(source, tmp_path / "sound.onnx", to="onnx", outputs=OUTPUTS)


def test_huge_files_are_refused_before_the_trace(monkeypatch, tmp_path):
    """Protobuf ends at 2 GB, after minutes."""
    monkeypatch.setattr(writer, "MOST_BYTES", 200_000)
    monkeypatch.setattr(run, "trace", lambda *_, **__: pytest.fail("traced"))
    source = written(CONFIG, tmp_path / "model", "hierax")
    with pytest.raises(hierax.ExportError, match="less than 2 GB.*--dtype float16"):
        hierax.export(source, tmp_path / "model.onnx", to="onnx")


@pytest.mark.parametrize("name", ["Hiera", "SAM 2 trunk", "Hiera video"])
def test_four_sizes_are_compared(name):
    """Two of them alike would be one less."""
    config = MEMBERS[name]
    sizes = check.sizes_to_check(config, program.example_size(config), any_size=True)
    assert len(set(sizes)) == 4
    assert any(size[-1] != size[-2] for size in sizes[2:])
    for size in sizes:
        config.check_size(size)


def test_windows_of_an_example_are_several_and_not_full():
    """At a size of one window, or of full ones, a trace would stay at that."""
    det = MEMBERS["SAM 2 trunk"]
    height, width = program.example_size(det)
    assert height != width
    for side in (height, width):
        assert side // 16 % 14
        assert side // 32 % 7
        assert side > 14 * 16
