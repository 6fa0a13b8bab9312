"""Size and head changes: which tensors came from the file, which are fresh, and which rule resized the tables."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import hierax
from hierax.config import ARCHITECTURES, ModelConfig
from hierax.errors import CheckpointError, InputError
from hierax.weights.network import to_module
from hierax.weights.understand import read_weights
from hierax.weights.write import write_weights

from ..members import MEMBERS, SMALL, WINDOW, answer, loud, weights_of, written
from ..peers import birder, birder_abswin, ours
from ..tolerance import FP32, assert_same


def test_head__kept_removed_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The report names every tensor: a head that came along unasked, or is random unsaid, would be wrong."""
    path = written(MEMBERS["Hiera"], tmp_path / "x.pth", "meta")
    names = set(torch.load(path, weights_only=True)["model_state"])
    head = {"head.projection.weight", "head.projection.bias"}
    kept = hierax.load(path, num_classes=3)
    assert (set(kept.report.used), kept.report.fresh, kept.report.left_over) == (names, (), {})
    with caplog.at_level(logging.WARNING, logger="hierax"):
        removed, replaced = hierax.load(path, num_classes=0), hierax.load(path, num_classes=9)
    assert "head of 3 classes removed" in caplog.text
    assert "replaced by a fresh one of 9 classes" in caplog.text
    for predictor, fresh in ((removed, set()), (replaced, head)):
        assert set(predictor.report.used) == names - head
        assert set(predictor.report.fresh) == fresh
        assert set(predictor.report.left_over) == head
        assert predictor.labels is None
    assert "head.projection.weight" in str(replaced.report)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(removed.model(x), kept.model.embedding(x))
        assert torch.equal(replaced.model.embedding(x), kept.model.embedding(x))


def test_head__added_to_a_trunk(tmp_path: Path) -> None:
    """A network without classes gets a head that is reported as fresh."""
    predictor = hierax.load(written(MEMBERS["Hiera without classes"], tmp_path / "x", "hierax"), num_classes=4)
    assert predictor.report.fresh == ("head.projection.weight", "head.projection.bias")
    assert "fresh head of 4 classes added" in str(predictor.report)


@pytest.mark.parametrize("bad", [-1, True, 2.0, "3"])
def test_head__bad_count(bad: object, tmp_path: Path) -> None:
    """A class count that is none must be refused before anything is built."""
    path = written(MEMBERS["Hiera"], tmp_path / "x", "hierax")
    with pytest.raises(InputError, match="num_classes"):
        hierax.load(path, num_classes=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("member", ["Hiera MAE", "Hiera video MAE"])
def test_encoder_out_of_autoencoder(member: str, tmp_path: Path) -> None:
    """All encoder blocks come from the file; decoder, fusion and encoder_norm do not; the norm is fresh and named."""
    path = written(MEMBERS[member], tmp_path / "x.pth", "meta")
    names = set(torch.load(path, weights_only=True)["model_state"])
    decoder = {name for name in names if name.startswith(("decoder", "mask_token", "encoder_norm", "multi_scale"))}
    predictor = hierax.load(path, num_classes=0)
    assert set(predictor.report.used) == names - decoder
    assert set(predictor.report.left_over) == decoder
    assert predictor.report.fresh == ("norm.weight", "norm.bias")
    assert predictor.model.config.q_pool == 3
    assert predictor.model.strides == (4, 8, 16, 32)
    assert hierax.load(path, num_classes=2).model.num_classes == 2
    whole = hierax.load(path).model
    assert torch.equal(whole.encoder.blocks[3].attn.qkv.weight, predictor.model.blocks[3].attn.qkv.weight)


@pytest.mark.parametrize("size", [96, (64, 128), (32, 32)])
@pytest.mark.parametrize(
    ("options", "origin", "antialias"), [({}, "meta", False), ({"position_antialias": True}, "birder", True)]
)
def test_size__plain_table(
    size: int | tuple[int, int], options: dict[str, bool], origin: str, antialias: bool, tmp_path: Path
) -> None:
    """Bicubic to the new grid; antialiasing also changes the kernel, so the other rule is far off when growing too."""
    weights = weights_of(ModelConfig(**{**SMALL, **options}))
    predictor = hierax.load(write_weights(weights, tmp_path / origin, to=origin), input_size=size)
    pixels = (size, size) if isinstance(size, int) else size
    table = weights.tensors["pos_embed"].permute(0, 3, 1, 2)
    grid = [side // 4 for side in pixels]
    expected = F.interpolate(table, size=grid, mode="bicubic", antialias=antialias).permute(0, 2, 3, 1)
    assert torch.allclose(predictor.model.pos_embed, expected, atol=1e-6)
    assert "resized: pos_embed" in str(predictor.report)
    assert predictor.preprocess.size == pixels
    assert predictor.model(torch.randn(1, 3, *pixels)).shape == (1, 3)


@pytest.mark.parametrize("origin", ["birder", "timm"])
def test_size__abswin_two_steps(origin: str, tmp_path: Path) -> None:
    """birder resizes its stored table to size // 16 and that one to the grid; timm resizes once, in every pass."""
    weights = weights_of(ModelConfig(**{**SMALL, **WINDOW}))
    path = write_weights(weights, tmp_path / origin, to=origin)
    copy = hierax.convert(path, tmp_path / "copy", to="hierax")
    for source in (path, copy):  # the rule is the origin's, also in our own format
        model = hierax.load(source, input_size=(96, 128)).model
        grid = (6, 8) if origin == "birder" else (4, 4)
        assert tuple(model.pos_embed.shape[1:3]) == grid


def test_size__video_keeps_frames(tmp_path: Path) -> None:
    """(height, width) of a clip; only the spatial table follows."""
    path = written(MEMBERS["Hiera video"], tmp_path / "x.pth", "meta")
    predictor = hierax.load(path, input_size=(64, 96))
    assert predictor.model.input_size == (4, 64, 96)
    assert tuple(predictor.model.pos_embed_spatial.shape[1:3]) == (16, 24)
    assert "resized: pos_embed_spatial" in str(predictor.report)
    assert predictor.model(torch.randn(1, 3, 4, 64, 96)).shape == (1, 3)


def test_size__autoencoder(tmp_path: Path) -> None:
    """The decoder's table follows the encoder's, else the first masked pass would fail."""
    path = written(MEMBERS["Hiera MAE"], tmp_path / "x.pth", "meta")
    model = hierax.load(path, input_size=96).model
    assert torch.isfinite(model(torch.randn(1, 3, 96, 96)).loss)


@pytest.mark.parametrize("size", [0, -32, 100, (64, 65), "64", (64,), True])
def test_size__illegal(size: object, tmp_path: Path) -> None:
    """A size that cannot be tiled is refused with the nearest one that can."""
    path = written(MEMBERS["Hiera"], tmp_path / "x", "hierax")
    with pytest.raises(InputError):
        hierax.load(path, input_size=size)  # type: ignore[arg-type]


@pytest.mark.parity
def test_abswin_as_hieradet__equals_birder(tmp_path: Path) -> None:
    """birder's `load_hiera_weights`: table resized without antialiasing, norm moved, classifier dropped."""
    source = birder_abswin((64, 64))
    target = birder(
        "hieradet_d_tiny",
        dataclasses.replace(MEMBERS["birder HieraDet, global stages"], embed_dim=16, num_classes=0),
        window_spec=[8, 4, 0, 0],
        global_pos_size=[7, 7],
    )
    target.module.load_hiera_weights(dict(source.module.state_dict()))
    state = {key: t for key, t in source.module.state_dict().items()}
    items = {
        "state": state,
        "signature": {"inputs": [{"data_shape": [0, 3, 64, 64]}], "outputs": [{"data_shape": [0, 5]}]},
        "class_to_idx": {},
        "rgb_stats": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    }
    torch.save(items, tmp_path / "x.pt")
    wanted = dataclasses.replace(
        ARCHITECTURES["hieradet_d_tiny"], embed_dim=16, depths=(1, 2, 3, 1), global_blocks=(4,)
    )
    weights = read_weights(tmp_path / "x.pt", named=wanted)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        theirs = target.answers(x)
        assert_same(ours(to_module(weights).eval(), x, list(theirs)), theirs, FP32)
    assert set(weights.report.left_over) == {"classifier.weight", "classifier.bias"}
    assert not weights.report.fresh
    assert "windows changed" in str(weights.report)


def test_abswin_as_hieradet__another_size(tmp_path: Path) -> None:
    """Blocks of another number or width cannot be read as that HieraDet."""
    path = written(MEMBERS["birder abswin"], tmp_path / "x", "hierax")
    with pytest.raises(CheckpointError, match="differ in number, width"):
        hierax.load(path, name="hieradet_d_small")


def test_changes__survive_saving(tmp_path: Path) -> None:
    """A network that was resized and given a new head is saved as it is, and is the same when it is loaded."""
    predictor = hierax.load(written(MEMBERS["Hiera"], tmp_path / "x.pth", "meta"), input_size=(96, 64), num_classes=7)
    loud(predictor.model, 5)
    for target in ("hierax", "meta", "transformers", "timm", "birder"):
        again = hierax.load(predictor.save(tmp_path / target, format=target))
        assert again.model.input_size == (96, 64)
        x = torch.randn(1, 3, 96, 64, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            assert_same({"logits": again.model(x)}, {"logits": predictor.model(x)}, FP32)


def test_answer__is_loud() -> None:
    """The answers above are those of whole networks: a member that says nothing would compare as equal."""
    said = answer(weights_of(MEMBERS["Hiera"]))
    assert set(said) == {"stage1", "stage2", "stage3", "stage4", "logits"}
    assert all(value.std() > 0.01 for value in said.values())
