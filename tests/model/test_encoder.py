"""The encoder's behaviour that needs no reference: sizes, maps, heads, windows, pooling, masking."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hierax.config import ARCHITECTURES
from hierax.errors import InputError, UnknownNameError
from hierax.model.encoder import (
    DropPath,
    Encoder,
    join_windows,
    max_pool,
    mean_pool,
    pad_grid,
    resize_table,
    split_windows,
)

from ..members import FAMILIES, tiny


def pixels(encoder: Encoder, *size: int, batch: int = 2) -> Tensor:
    """Seeded input of a size, or of the network's own."""
    shape = size or encoder.input_size[-2:]
    frames = encoder.input_size[:-2]
    return torch.randn(batch, 3, *frames, *shape, generator=torch.Generator().manual_seed(5))


# --- shapes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(64, 64), (32, 32), (96, 64), (64, 160), (256, 288)])
def test_encoder__any_legal_size(family: str, size: tuple[int, int]) -> None:
    """A size baked into a table, a window or a reshape fails at one of these, square or not."""
    encoder = tiny(family)
    x = pixels(encoder, *size, batch=1)
    with torch.no_grad():
        maps = encoder.detection_features(x)
        assert encoder(x).shape == (1, 5)
        assert encoder.embedding(x).shape == (1, 128)
        assert encoder.forward_features(x).shape == maps["stage4"].shape
    frames = (2,) if family == "hiera_video" else ()
    for index, (name, value) in enumerate(maps.items()):
        stride = encoder.strides[index]
        assert name == f"stage{index + 1}"
        assert value.shape == (1, 16 * 2**index, *frames, size[0] // stride, size[1] // stride)
        assert value.is_contiguous()
        assert torch.isfinite(value).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(48, 64), (64, 33), (224, 230), (16, 16)])
def test_encoder__illegal_size(family: str, size: tuple[int, int]) -> None:
    """Cropping or padding in silence would move every map; the message must name legal sizes."""
    encoder = tiny(family)
    with pytest.raises(InputError, match="multiple of") as caught:
        encoder(pixels(encoder, *size, batch=1))
    assert "Nearest legal" in str(caught.value)


def test_encoder__wrong_rank_or_channels() -> None:
    """A missing batch axis or a fourth channel must be told in terms of the input, not of a convolution."""
    for wrong in (torch.zeros(3, 64, 64), torch.zeros(1, 4, 64, 64), torch.zeros(1, 3, 4, 64, 64)):
        with pytest.raises(InputError, match=r"\(b, 3, h, w\)"):
            tiny()(wrong)
    with pytest.raises(InputError, match=r"\(b, 3, t, h, w\)"):
        tiny("hiera_video")(torch.zeros(1, 3, 64, 64))


def test_encoder__attributes() -> None:
    """What other packages ask of a backbone."""
    encoder = tiny()
    assert (encoder.num_classes, encoder.embedding_size, encoder.input_size) == (5, 128, (64, 64))
    assert encoder.return_channels == [16, 32, 64, 128]
    assert encoder.strides == (4, 8, 16, 32)


# --- stage maps ---------------------------------------------------------------------------------------------------


def test_detection_features__stops_early() -> None:
    """Blocks after the last wanted stage must not run: they are most of the cost."""
    encoder = tiny()
    ran = []
    for index, block in enumerate(encoder.blocks):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    with torch.no_grad():
        maps = encoder.detection_features(pixels(encoder), stages=("stage2",))
    assert list(maps) == ["stage2"]
    assert ran == [0, 1, 2]


def test_detection_features__order_and_subset() -> None:
    """Asking for fewer, or in another order, must not change a value."""
    encoder = tiny("hieradet")
    x = pixels(encoder)
    with torch.no_grad():
        everything = encoder.detection_features(x)
        some = encoder.detection_features(x, stages=["stage3", "stage1"])
        assert list(some) == ["stage3", "stage1"]
        assert all(torch.equal(some[name], everything[name]) for name in some)
        assert list(encoder.detection_features(x, stages="stage1")) == ["stage1"]
        assert encoder.detection_features(x, stages=[]) == {}


def test_detection_features__unknown_stage() -> None:
    """A misspelt stage must name the right ones."""
    encoder = tiny()
    with pytest.raises(UnknownNameError, match=r"stage1, stage2, stage3, stage4; got 'stage5'"):
        encoder.detection_features(pixels(encoder), stages=["stage5"])


def test_detection_features__last_map_is_not_normed() -> None:
    """The final norm belongs to the embedding; maps of a detector are raw."""
    encoder = tiny()
    x = pixels(encoder)
    with torch.no_grad():
        last = encoder.detection_features(x)["stage4"]
        expected = encoder.norm(last.flatten(2).mean(2))
        assert torch.allclose(encoder.embedding(x), expected, atol=1e-6)
        assert torch.equal(encoder.forward_features(x), last)


# --- heads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_head__no_classes_gives_embedding(family: str) -> None:
    """Without a head, `forward` is the embedding: not zeros, not un-normed tokens."""
    encoder = tiny(family, num_classes=0)
    x = pixels(encoder)
    with torch.no_grad():
        assert encoder.head is None
        assert torch.equal(encoder(x), encoder.embedding(x))
        assert not any(name.startswith("head") for name in encoder.state_dict())


def test_head__forward_is_classify_of_embedding() -> None:
    """Logits are raw, with no softmax in eval mode."""
    encoder = tiny()
    x = pixels(encoder)
    with torch.no_grad():
        logits = encoder(x)
        assert torch.equal(logits, encoder.classify(encoder.embedding(x)))
        assert (logits.sum(1) - 1).abs().min() > 1e-3


def test_head__order_of_pool_and_norm() -> None:
    """The orders are not interchangeable, and "pool" has no norm to load."""
    last = torch.randn(2, 2, 2, 128)
    first, second, bare = (tiny(head=head) for head in ("pool_norm", "norm_pool", "pool"))
    with torch.no_grad():
        assert torch.allclose(first.pool(last), first.norm(last.mean((1, 2))), atol=1e-6)
        assert torch.allclose(second.pool(last), second.norm(last).mean((1, 2)), atol=1e-6)
        assert torch.allclose(bare.pool(last), last.mean((1, 2)), atol=1e-6)
    assert not hasattr(bare, "norm")


def test_set_num_classes__follows_the_network() -> None:
    """A fresh head must share type and mode with the network, and the config must not go stale."""
    encoder = tiny(head_dropout=0.5).double()
    encoder.set_num_classes(7)
    assert encoder.config.num_classes == encoder.num_classes == 7
    x = pixels(encoder).double()
    with torch.no_grad():
        assert encoder(x).shape == (2, 7)
        assert torch.equal(encoder(x), encoder(x))  # eval mode: no dropout
    encoder.set_num_classes(0)
    assert encoder.head is None
    assert encoder.config.num_classes == 0


def test_encoder__meta_device() -> None:
    """Construction must not allocate or read values: huge networks are built around their weights."""
    with torch.device("meta"):
        encoder = Encoder(ARCHITECTURES["hiera_huge_16x224"])
    assert all(p.is_meta for p in encoder.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_encoder__checkpointing_changes_nothing(family: str) -> None:
    """Recomputed blocks must give the same gradients as kept ones."""
    encoder = tiny(family).train()
    x = pixels(encoder)
    encoder(x).square().sum().backward()
    kept = {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}
    encoder.zero_grad()
    encoder.checkpoint_blocks = True
    encoder(x).square().sum().backward()
    assert len(kept) == len(list(encoder.parameters()))
    for name, parameter in encoder.named_parameters():
        assert torch.equal(parameter.grad, kept[name]), name


# --- windows and pooling ------------------------------------------------------------------------------------------

GRIDS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=2, max_size=3)


@settings(max_examples=60, deadline=None)
@given(pairs=GRIDS, batch=st.integers(1, 3))
def test_windows__split_and_join(pairs: list[tuple[int, int]], batch: int) -> None:
    """Joining inverts splitting, and window 0 is the corner of image 0: an axis swapped twice would pass only one."""
    window = tuple(size for _, size in pairs)
    grid = tuple(count * size for count, size in pairs)
    x = torch.randn(batch, *grid, 2)
    windows = split_windows(x, window)
    assert torch.equal(join_windows(windows, grid), x)
    corner = x[(0, *[slice(size) for size in window])]
    assert torch.equal(windows[0], corner)
    last = x[(-1, *[slice(-size, None) for size in window])]
    assert torch.equal(windows[-1], last)
    if pairs[-1][0] > 1:
        along = x[(0, *[slice(size) for size in window[:-1]], slice(window[-1], 2 * window[-1]))]
        assert torch.equal(windows[1], along)


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 5), width=st.integers(1, 5), stride=st.tuples(st.integers(1, 3), st.integers(1, 3)))
def test_pooling__equals_torch(height: int, width: int, stride: tuple[int, int]) -> None:
    """Cells must be neighbours, not strided slices of the whole axis."""
    x = torch.randn(2, height * stride[0], width * stride[1], 3)
    first = x.permute(0, 3, 1, 2)
    assert torch.equal(max_pool(x, stride).permute(0, 3, 1, 2), F.max_pool2d(first, stride))
    assert torch.allclose(mean_pool(x, stride).permute(0, 3, 1, 2), F.avg_pool2d(first, stride), atol=1e-6)


def test_pooling__clips_keep_their_frames() -> None:
    """A stride of 1 along time must leave time alone."""
    x = torch.randn(2, 3, 4, 6, 5)
    expected = F.max_pool3d(x.movedim(-1, 1), (1, 2, 2)).movedim(1, -1)
    assert torch.equal(max_pool(x, (1, 2, 2)), expected)


@settings(max_examples=40, deadline=None)
@given(grid=st.tuples(*[st.integers(1, 20)] * 2), window=st.tuples(*[st.integers(1, 8)] * 2))
def test_pad_grid__far_end_only(grid: tuple[int, int], window: tuple[int, int]) -> None:
    """Tokens stay where they are, zeros come after them, and never a whole window too much."""
    x = torch.randn(1, *grid, 2)
    padded = pad_grid(x, window)
    assert torch.equal(padded[:, : grid[0], : grid[1]], x)
    assert padded.abs().sum() == pytest.approx(x.abs().sum().item())
    for side, size, w in zip(padded.shape[1:-1], grid, window, strict=True):
        assert side % w == 0
        assert side - size < w


def test_attention__padding_is_attended_to() -> None:
    """Masking padded tokens out looks cleaner and is wrong: the weights were trained with their k = v = bias."""
    block = tiny("hieradet").blocks[4]
    assert block.window == (14, 14)
    x = torch.randn(1, 16, 16, 64)
    with torch.no_grad():
        whole = torch.zeros(1, 28, 28, 64)
        whole[:, :16, :16] = x
        expected = torch.cat(
            [torch.cat([block.attn(whole[:, r : r + 14, c : c + 14]) for c in (0, 14)], dim=2) for r in (0, 14)],
            dim=1,
        )[:, :16, :16]
        assert torch.allclose(block.windowed_attention(x), expected, atol=1e-6)
        silent = torch.nn.Linear(64, 192)
        silent.load_state_dict(block.attn.qkv.state_dict())
        silent.bias.zero_()
        block.attn.qkv = silent
        assert not torch.allclose(block.windowed_attention(x), expected, atol=1e-2)


@pytest.mark.parametrize("antialias", [False, True])
def test_resize_table__identity_and_axes(antialias: bool) -> None:
    """The same grid must come back bit-equal, and height must not be taken for width."""
    table = torch.randn(1, 5, 7, 3)
    assert resize_table(table, (5, 7), antialias) is table
    column = torch.arange(5.0).reshape(1, 5, 1, 1).expand(1, 5, 7, 1)
    resized = resize_table(column, (10, 14), antialias)
    assert resized.shape == (1, 10, 14, 1)
    assert (resized.std(2) < 1e-5).all()
    assert (resized[0, 1:, 0, 0] > resized[0, :-1, 0, 0]).all()


def test_position__window_table_tiles() -> None:
    """The window table repeats every 8 tokens whatever the size; interpolating it is the known bug of others."""
    encoder = tiny("hieradet")
    with torch.no_grad():
        encoder.pos_embed.zero_()
        position = encoder.position((16, 24))
    assert torch.equal(position[:, :8, :8], encoder.pos_embed_window)
    assert torch.equal(position[:, 8:, 16:], encoder.pos_embed_window)


def test_position__clip_is_space_plus_time() -> None:
    """Every frame has the same spatial table, moved by its own vector."""
    encoder = tiny("hiera_video")
    position = encoder.position((2, 16, 16))
    difference = position[:, 1] - position[:, 0]
    assert position.shape == (1, 2, 16, 16, 16)
    assert torch.allclose(difference, difference[:, :1, :1].expand_as(difference), atol=1e-6)


# --- drop path ----------------------------------------------------------------------------------------------------


def test_drop_path__keeps_or_drops_whole_samples() -> None:
    """Dropping single values is dropout; forgetting to rescale lowers the mean."""
    drop = DropPath(0.25).train()
    x = torch.ones(4000, 2, 2, 3)
    y = drop(x)
    per_sample = y.flatten(1)
    assert (per_sample == per_sample[:, :1]).all()
    assert y.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert y.mean().item() == pytest.approx(1.0, abs=0.05)
    assert drop.eval()(x) is x


def test_drop_path__silent_in_eval() -> None:
    """A network that drops in eval mode gives another answer at each call."""
    encoder = tiny(drop_path=0.5)
    x = pixels(encoder)
    with torch.no_grad():
        assert torch.equal(encoder(x), encoder(x))
        encoder.train()
        assert not torch.equal(encoder(x), encoder(x))


# --- masking ------------------------------------------------------------------------------------------------------

MASKABLE = [name for name in FAMILIES if name not in ("hieradet", "sam2")]


def units_of(encoder: Encoder) -> int:
    """Mask units of the network's own size."""
    grid = encoder.config.grid(encoder.input_size)
    count = 1
    for side, unit in zip(grid, encoder.config.mask_unit, strict=True):
        count *= side // unit
    return count


@pytest.mark.parametrize("family", MASKABLE)
def test_visible__all_units_is_the_whole_image(family: str) -> None:
    """With every unit kept in order, the pooled answer must equal the unmasked one: the column layout loses nothing."""
    encoder = tiny(family)
    x = pixels(encoder)
    everything = torch.arange(units_of(encoder)).expand(2, -1)
    with torch.no_grad():
        masked = encoder.pool(encoder.stages(x, visible=everything)[-1])
        assert torch.allclose(masked, encoder.embedding(x), atol=2e-5)


@pytest.mark.parametrize("family", MASKABLE)
def test_visible__masked_pixels_do_not_leak(family: str) -> None:
    """Whatever stands under masked units, NaN included, the kept tokens are bit-equal."""
    encoder = tiny(family)
    x = pixels(encoder)
    units = units_of(encoder)
    visible = torch.tensor([[0, units - 1], [1, 2]])
    mask = unit_mask(encoder, visible)
    with torch.no_grad():
        expected = encoder.stages(x, visible=visible)
        for other in (torch.randn_like(x) * 50, torch.full_like(x, float("nan"))):
            got = encoder.stages(torch.where(mask, x, other), visible=visible)
            assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def unit_mask(encoder: Encoder, visible: Tensor) -> Tensor:
    """True at pixels of kept units, built independently of the encoder: (b, 1, *pixels)."""
    config = encoder.config
    grid = config.grid(encoder.input_size)
    counts = [g // u for g, u in zip(grid, config.mask_unit, strict=True)]
    mask = torch.zeros(visible.shape[0], *counts, dtype=torch.bool)
    for sample, row in enumerate(visible.tolist()):
        for unit in row:
            mask[(sample, *[int(i) for i in torch.unravel_index(torch.tensor(unit), counts)])] = True
    for axis, (unit, stride) in enumerate(zip(config.mask_unit, config.patch_stride, strict=True), start=1):
        mask = mask.repeat_interleave(unit * stride, dim=axis)
    return mask[:, None]


def test_visible__leak_test_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: without blanking, the 7x7 patch kernel reads over the border of its unit."""
    encoder = tiny()
    x = pixels(encoder)
    visible = torch.tensor([[0], [3]])
    mask = unit_mask(encoder, visible)
    monkeypatch.setattr(F, "interpolate", lambda keep, size: torch.ones(keep.shape[0], 1, *size))
    with torch.no_grad():
        expected = encoder.stages(x, visible=visible)
        got = encoder.stages(torch.where(mask, x, torch.randn_like(x)), visible=visible)
    assert (got[0] - expected[0]).abs().max() > 0.1


@pytest.mark.parametrize("family", ["hieradet", "sam2"])
def test_visible__refused_where_windows_straddle_units(family: str) -> None:
    """Windows of 14 tokens mix kept and dropped units; computing something anyway would be wrong in silence."""
    encoder = tiny(family)
    with pytest.raises(InputError, match="window"):
        encoder.stages(pixels(encoder), visible=torch.tensor([[0], [1]]))
    encoder.stages(pixels(encoder))


def test_visible__other_integers_and_sizes() -> None:
    """32-bit indices are integers too, and masking works at any legal size."""
    encoder = tiny()
    x = pixels(encoder, 96, 64)
    visible = torch.tensor([[0, 5], [2, 3]])
    with torch.no_grad():
        wide = encoder.stages(x, visible=visible)
        narrow = encoder.stages(x, visible=visible.int())
    assert [tuple(m.shape[1:3]) for m in wide] == [(16, 8), (8, 4), (4, 2), (2, 1)]
    assert all(torch.equal(a, b) for a, b in zip(wide, narrow, strict=True))


def test_visible__row_of_the_batch_decides_its_own_units() -> None:
    """A batch whose rows keep different units must equal the rows alone."""
    encoder = tiny()
    x = pixels(encoder)
    visible = torch.tensor([[0, 3], [1, 2]])
    with torch.no_grad():
        both = encoder.stages(x, visible=visible)[-1]
        for row in range(2):
            alone = encoder.stages(x[row : row + 1], visible=visible[row : row + 1])[-1]
            assert torch.allclose(both[row : row + 1], alone, atol=1e-5)


def test_encoder__training_reaches_every_parameter() -> None:
    """A parameter without gradient is a parameter that is not used."""
    for family in FAMILIES:
        encoder = tiny(family).train()
        encoder(pixels(encoder)).square().sum().backward()
        silent = [name for name, p in encoder.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
        assert not silent, (family, silent)


def test_encoder__state_dict_names_are_plain() -> None:
    """Identity placeholders must add no names: files of the plain members have none for them."""
    names = set(tiny().state_dict())
    assert not any("ls1" in name or "drop" in name for name in names)
    assert {"blocks.1.proj.weight", "norm.bias", "head.projection.bias", "pos_embed"} <= names
    assert isinstance(tiny().blocks[0].ls1, nn.Identity)
    assert dataclasses.is_dataclass(tiny().config)
