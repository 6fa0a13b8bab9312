"""Architectures as data: block tables, sizes, and the parameter counts that published models have."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hierax.config import (
    ARCHITECTURES,
    DecoderConfig,
    ModelConfig,
    PreprocessSpec,
    architecture,
    block_table,
    square_windows,
)
from hierax.errors import InputError, UnknownNameError
from hierax.model.encoder import Encoder
from hierax.model.mae import MaskedAutoencoder

# Millions of parameters as published or measured from the original packages' own code.
MILLIONS = {
    **dict(
        zip(
            [f"hiera_{s}_224" for s in ("tiny", "small", "base", "base_plus", "large", "huge")],
            [27.910, 35.008, 51.525, 69.897, 213.740, 672.780],
            strict=True,
        )
    ),
    **dict(
        zip(
            [f"hiera_{s}" for s in ("tiny", "small", "base", "base_plus", "large", "huge")],
            [27.141, 34.239, 50.756, 69.000, 212.587, 670.731],
            strict=True,
        )
    ),
    **dict(
        zip(
            [f"mae_hiera_{s}_224" for s in ("tiny", "small", "base", "base_plus", "large", "huge")],
            [55.021, 62.119, 78.636, 97.584, 242.876, 710.082],
            strict=True,
        )
    ),
    **dict(
        zip(
            [f"mae_hiera_hiera_{s}" for s in ("tiny", "small", "base", "base_plus", "large")],
            [62.618, 69.716, 86.233, 107.524, 258.584],
            strict=True,
        )
    ),
    "hiera_base_16x224": 51.093,
    "hiera_base_plus_16x224": 69.392,
    "hiera_large_16x224": 213.092,
    "hiera_huge_16x224": 671.628,
    "mae_hiera_base_16x224": 79.367,
    "mae_hiera_base_plus_16x224": 98.320,
    "mae_hiera_large_16x224": 243.622,
    "mae_hiera_huge_16x224": 710.862,
    "hiera_abswin_tiny": 26.865,
    "hiera_abswin_small": 33.963,
    "hiera_abswin_base": 50.480,
    "hiera_abswin_base_plus": 68.678,
    "hiera_abswin_base_plus_ap": 78.322,
    "hiera_abswin_large": 212.173,
    "hiera_abswin_huge": 669.994,
    "mae_hiera_hiera_abswin_base": 85.957,
    "hiera_small_abswin_256": 34.362,
    "hiera_base_abswin_256": 51.267,
    "timm_hieradet_small": 34.730,
    "sam2_hiera_tiny": 26.849,
    "sam2_hiera_small": 33.947,
    "sam2_hiera_base_plus": 68.676,
    "sam2_hiera_large": 212.149,
    "hieradet_small": 33.949,
    "hieradet_base": 50.480,
    "hieradet_large": 212.152,
}
# A tally of ours where nobody published one: guards against change, not against error.
TALLY = {
    "mae_hiera_hiera_huge": 757.332,
    "mae_hiera_hiera_abswin_tiny": 62.342,
    "mae_hiera_hiera_abswin_small": 69.440,
    "mae_hiera_hiera_abswin_base_plus": 107.202,
    "mae_hiera_hiera_abswin_large": 258.170,
    "mae_hiera_hiera_abswin_huge": 756.596,
    "hiera_nano_96": 1.385,
}


def millions(config: ModelConfig) -> float:
    """Parameters of a network that is never allocated."""
    with torch.device("meta"):
        module = MaskedAutoencoder(config) if config.decoder else Encoder(config)
    return round(sum(p.numel() for p in module.parameters()) / 1e6, 3)


@pytest.mark.parametrize("name", {**MILLIONS, **TALLY})
def test_architectures__parameters(name: str) -> None:
    """A missing projection, norm or table, or a wrong depth, changes the count."""
    assert millions(ARCHITECTURES[name]) == {**MILLIONS, **TALLY}[name]


def test_architectures__all_counted() -> None:
    """A new name without a count would go unchecked; HieraDet twins differ only in windows or by one norm."""
    derived = {f"hieradet_d_{size}": f"hieradet_{size}" for size in ("tiny", "small", "base", "base_plus", "large")}
    norm = {"hieradet_tiny": "sam2_hiera_tiny", "hieradet_base_plus": "sam2_hiera_base_plus"}
    assert set(ARCHITECTURES) == {*MILLIONS, *TALLY, *derived, *norm}
    for name, twin in derived.items():
        assert millions(ARCHITECTURES[name]) == millions(ARCHITECTURES[twin])
    for name, trunk in norm.items():
        config = ARCHITECTURES[name]
        extra = 2 * config.embedding_size / 1e6
        assert millions(config) == pytest.approx(MILLIONS[trunk] + extra, abs=1.1e-3)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures__survive_json(name: str) -> None:
    """A tuple that came back as a list, or a decoder as a dict, would no longer be equal or hashable."""
    config = ARCHITECTURES[name]
    again = ModelConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)
    assert config.name == name


def printed(config: ModelConfig) -> str:
    """Windows of a table in the notation of papers: G global, q pooling, a bar before each stage."""
    words = []
    for spec in block_table(config):
        bar = "| " if words and spec.q_stride else ""
        window = "G" if spec.window is None else str(spec.window[-1])
        words.append(f"{bar}{window}{'q' if spec.q_stride else ''}")
    return " ".join(words)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sam2_hiera_tiny", "8 | 8q 4 | 4q 14 G 14 G 14 G | 14q 7"),
        ("sam2_hiera_small", "8 | 8q 4 | 4q 14 14 14 G 14 14 G 14 14 G | 14q 7"),
        ("hieradet_d_tiny", "8 | 8q 4 | 4q G G G G G G | Gq G"),
        ("hiera_tiny_224", "8 | 8q 4 | 4q G G G G G G | Gq G"),
        ("mae_hiera_tiny_224", "8 | 8q 4 | 4q G G G G G G G G"),
        ("timm_hieradet_small", "8 | 8q 4 | 4q 16 16 16 G 16 16 G 16 16 G | 16q 8"),
    ],
)
def test_block_table__windows(name: str, expected: str) -> None:
    """Without the lag rule the first block of a stage would print its own stage's window."""
    assert printed(ARCHITECTURES[name]) == expected


def test_block_table__sam2_tiny_row() -> None:
    """Widths, heads and ends of every block, written out once."""
    rows = [
        (row.stage, row.dim_in, row.dim_out, row.heads, row.last_of_stage)
        for row in block_table(ARCHITECTURES["sam2_hiera_tiny"])
    ]
    assert rows == [
        (1, 96, 96, 1, True),
        (2, 96, 192, 2, False),
        (2, 192, 192, 2, True),
        (3, 192, 384, 4, False),
        *[(3, 384, 384, 4, False)] * 5,
        (3, 384, 384, 4, True),
        (4, 384, 768, 8, False),
        (4, 768, 768, 8, True),
    ]


def test_block_table__q_pool_2_widens_without_pooling() -> None:
    """Masked pretraining keeps stage 4 at stride 16: pooling there anyway would give 7x7 for 14x14."""
    config = ARCHITECTURES["mae_hiera_base_224"]
    openers = [row for row in block_table(config) if row.dim_in != row.dim_out]
    assert [row.q_stride for row in openers] == [(2, 2), (2, 2), None]
    assert config.strides == (4, 8, 16, 16)
    assert ARCHITECTURES["hiera_base_224"].strides == (4, 8, 16, 32)


def test_block_table__clip_windows_and_strides() -> None:
    """Time is never pooled and never inside a window."""
    config = ARCHITECTURES["hiera_base_16x224"]
    rows = block_table(config)
    assert {row.window for row in rows} == {(1, 8, 8), (1, 4, 4), None}
    assert {row.q_stride for row in rows} == {None, (1, 2, 2)}
    assert config.grid(config.input_size) == (8, 56, 56)
    assert config.strides == (4, 8, 16, 32)


@pytest.mark.parametrize(("size", "windows"), [((224, 224), (14, 7)), ((384, 256), (16, 8)), ((64, 32), (2, 1))])
def test_block_table__fractional_windows(size: tuple[int, int], windows: tuple[int, int]) -> None:
    """A negative window is a share of the shorter side of the configured size, not of the longer or the input."""
    config = dataclasses.replace(
        ARCHITECTURES["hieradet_tiny"], windows=square_windows((8, 4, -16, -32)), input_size=size
    )
    rows = block_table(config)
    assert rows[4].window == (windows[0],) * 2
    assert rows[-1].window == (windows[1],) * 2
    assert rows[5].window is None


@given(depths=st.tuples(*[st.integers(1, 6)] * 4), rate=st.floats(0, 0.9))
def test_block_table__drop_path_is_linear(depths: tuple[int, ...], rate: float) -> None:
    """Rates that restart in each stage, or miss the last block, would not be the straight line from 0."""
    rows = block_table(ModelConfig(depths=depths, drop_path=rate))
    expected = torch.linspace(0, rate, sum(depths), dtype=torch.float64).tolist()
    assert [row.drop_path for row in rows] == pytest.approx(expected, abs=1e-12)
    assert [row.index for row in rows] == list(range(sum(depths)))
    assert sum(row.last_of_stage for row in rows) == 4


@given(height=st.integers(-64, 2000), width=st.integers(-64, 2000))
def test_check_size__images(height: int, width: int) -> None:
    """Every positive multiple of 32 passes, nothing else does, and the sizes named in the message are legal."""
    config = ARCHITECTURES["hiera_tiny_224"]
    if height > 0 and width > 0 and height % 32 == width % 32 == 0:
        config.check_size((height, width))
        return
    with pytest.raises(InputError) as caught:
        config.check_size((height, width))
    text = str(caught.value)
    assert f"got {height}x{width}" in text
    for found in re.findall(r"(\d+)x(\d+)", text.split("Nearest legal:")[1]):
        config.check_size((int(found[0]), int(found[1])))


def test_check_size__message() -> None:
    """Rule, what was got, remedy: all three must be in the text."""
    with pytest.raises(InputError) as caught:
        ARCHITECTURES["hieradet_small"].check_size((250, 224))
    text = str(caught.value)
    for part in ("multiple of 32x32", "'hieradet_small'", "250x224", "224x224", "256x224"):
        assert part in text


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_check_size__own_size(name: str) -> None:
    """Every member accepts the size it is published at, and 32 is the step for all of them."""
    config = ARCHITECTURES[name]
    config.check_size(config.input_size)
    assert config.size_multiple[-2:] == (32, 32)


def test_full_size__spellings() -> None:
    """An int is a square; a pair keeps a clip's frames; a bool or a float is no size."""
    image, clip = ARCHITECTURES["hiera_tiny_224"], ARCHITECTURES["hiera_base_16x224"]
    assert image.full_size(256) == (256, 256)
    assert clip.full_size((256, 320)) == (16, 256, 320)
    assert clip.full_size(256) == (16, 256, 256)
    assert image.with_input_size((96, 64)).table_size == (24, 16)
    for wrong in (True, 224.0, "224", None):
        with pytest.raises(InputError, match="int or"):
            image.full_size(wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="axes"):
        image.full_size((16, 224, 224))
    with pytest.raises(InputError, match="multiple"):
        clip.full_size((15, 224, 224))


def test_config__contradictions() -> None:
    """A rank or a stage count that does not fit must be refused here, not fail later in a reshape."""
    with pytest.raises(InputError, match="q_stride"):
        ModelConfig(q_stride=(1, 2, 2))
    with pytest.raises(InputError, match="windows"):
        ModelConfig(depths=(1, 2, 3))
    with pytest.raises(InputError, match="q_pool"):
        ModelConfig(q_pool=4)


def test_config__unknown_key() -> None:
    """A misspelt option that were ignored would silently give another network."""
    with pytest.raises(UnknownNameError, match="embed_dim"):
        ModelConfig.from_dict({"embed_dims": 96})
    with pytest.raises(UnknownNameError, match="crop_ratio"):
        PreprocessSpec.from_dict({"crop_ration": 1.0})


def test_architecture__unknown_name() -> None:
    """The nearest name must be in the message, without the quotes that KeyError adds."""
    with pytest.raises(UnknownNameError) as caught:
        architecture("hiera_tiny_225")
    assert str(caught.value).startswith("Unknown architecture 'hiera_tiny_225'. Did you mean 'hiera_tiny_224'?")
    assert isinstance(caught.value, KeyError)


def test_architectures__of_one_trunk_are_told_apart() -> None:
    """The three `small` HieraDets have equal shapes and different windows; equal configs would hide a mix-up."""
    windows = {ARCHITECTURES[n].windows for n in ("hieradet_small", "hieradet_d_small", "timm_hieradet_small")}
    assert len(windows) == 3
    assert ARCHITECTURES["hieradet_large"].windows != ARCHITECTURES["sam2_hiera_large"].windows
    assert ARCHITECTURES["hieradet_small"].head == "norm_pool"
    assert ARCHITECTURES["mae_hiera_tiny_224"].decoder == DecoderConfig()


def test_preprocess_spec__survives_json_and_keeps_its_ratio() -> None:
    """A recipe at another size keeps the crop ratio of the exact shorter side it was written with."""
    spec = PreprocessSpec(resize_to=256)
    assert PreprocessSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert spec.with_size((224, 224)) is spec
    bigger = spec.with_size((448, 448))
    assert (bigger.size, bigger.resize_to, bigger.crop_ratio) == ((448, 448), None, 224 / 256)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("head", "bogus"),
        ("position", "gird"),
        ("shortcut", "lin"),
        ("family", "vit"),
        ("depths", (2, -1, 2, 2)),
        ("depths", (2, 0, 2, 2)),
        ("depths", "2222"),
        ("depths", (10**9, 1, 1, 1)),
        ("windows", ((0, 8), (4, 4), None, None)),
        ("windows", ((), (4, 4), None, None)),
        ("windows", ((8,), (4, 4), None, None)),
        ("windows", (8, (4, 4), None, None)),
        ("input_size", (0, 224)),
        ("input_size", (224, 10**7)),
        ("input_size", (224,)),
        ("num_heads", 5),
        ("num_heads", 0),
        ("num_classes", -1),
        ("num_classes", True),
        ("num_classes", 3.0),
        ("embed_dim", "96"),
        ("drop_path", 1.0),
        ("norm_eps", math.nan),
        ("mlp_ratio", 0.0),
        ("q_pool", -1),
        ("position_size", (7,)),
        ("attention_pool_heads", 7),
        ("decoder", {"num_heads": 5}),
        ("decoder", 8),
    ],
)
def test_model_config__refuses_what_is_no_network(field: str, value: object) -> None:
    """An unknown head used to pool without a norm; a wrong type or size failed far from its cause."""
    with pytest.raises(InputError, match=field.replace("decoder", "num_heads|decoder")):
        ModelConfig(**{field: value})
    with pytest.raises(InputError):
        dataclasses.replace(ModelConfig(), **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("std", (0.2, 0.2, 0.0)),
        ("std", (0.2, 0.2)),
        ("mean", (math.inf, 0.0, 0.0)),
        ("size", (0, 224)),
        ("size", 224),
        ("crop_ratio", 0.0),
        ("interpolation", "nearest"),
        ("frame_stride", 0),
    ],
)
def test_preprocess_spec__refuses_what_is_no_recipe(field: str, value: object) -> None:
    """A zero deviation makes every pixel infinite."""
    with pytest.raises(InputError, match=field):
        PreprocessSpec(**{field: value})


def test_from_dict__unknown_decoder_key_suggests() -> None:
    """It was a TypeError of the constructor, which no caller catches."""
    data = {**ARCHITECTURES["mae_hiera_tiny_224"].to_dict(), "decoder": {"detph": 3}}
    with pytest.raises(UnknownNameError, match="'depth'"):
        ModelConfig.from_dict(data)
    with pytest.raises(InputError, match="table"):
        ModelConfig.from_dict([1])  # type: ignore[arg-type]


def test_from_dict__lists_are_tuples_and_the_rest_is_as_declared() -> None:
    """A list makes a config unhashable, a whole number for a real one unequal to the same config."""
    config = ModelConfig(windows=[[8, 8], [4, 4], None, None], mlp_ratio=4)
    assert config == ModelConfig()
    assert hash(config) == hash(ModelConfig())
