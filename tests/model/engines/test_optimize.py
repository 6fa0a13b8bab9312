"""Fast encoders against the readable one, on loud weights: every family, every kind of product, odd sizes."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import hierax
from hierax.config import ModelConfig
from hierax.errors import InputError, UnknownNameError
from hierax.model.encoder import Encoder
from hierax.model.engines import eager, optimize, processor

from ...members import det_config, loud, pixels, plain_config
from ...tolerance import FP32, FP64, LOUD, distance

SMALL = {"depths": (1, 2, 3, 1), "embed_dim": 16}


def named(name: str, size: int, **options: object) -> ModelConfig:
    """A public architecture made small."""
    return dataclasses.replace(hierax.create(name, input_size=size, **{**SMALL, **options}).config, num_classes=5)


# (config, sizes): 256 and 480x320 leave cut windows at HieraDet's stages 3 and 4, 96x160 nothing but cut ones.
FAMILIES: dict[str, tuple[ModelConfig, tuple[tuple[int, ...], ...]]] = {
    "hiera": (plain_config((64, 64), (1, 2, 3, 1), 16), ((64, 64), (96, 160))),
    "hiera q_pool 2": (plain_config((64, 64), (1, 2, 3, 1), 16, q_pool=2, head="pool"), ((64, 96),)),
    "video": (plain_config((4, 64, 64), (1, 2, 3, 1), 16), ((4, 64, 64), (8, 64, 96))),
    "hieradet": (det_config(), ((224, 224), (256, 256), (96, 160), (480, 320))),
    "hieradet 16, 8": (det_config((8, 4, 16, 8)), ((256, 256), (96, 160))),
    "hieradet global stages": (det_config((8, 4, 0, 0)), ((96, 160),)),
    "hieradet windows by side": (det_config((8, 4, 0, -7), head="norm_pool", input_size=(224, 224)), ((224, 224),)),
    "hieradet norm_pool": (det_config(head="norm_pool"), ((256, 256),)),
    "attention pool": (named("hiera_abswin_base_plus_ap", 64, num_heads=1, attention_pool_heads=2), ((64, 96),)),
    "max_avg shortcut": (named("hiera_small_abswin_256", 64), ((64, 64), (96, 128))),
    "layer scale": (named("timm_hieradet_small", 256, global_blocks=(4,)), ((256, 256), (160, 192))),
}
CASES = [(name, size) for name, (_, sizes) in FAMILIES.items() for size in sizes]


@pytest.fixture(autouse=True, params=["plain", "packed"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Everything here runs with both kinds of product: which one a machine's clock takes must not matter."""
    if request.param == "packed" and not processor.packs(torch.float32):
        pytest.skip("this torch has no oneDNN operators")
    monkeypatch.setenv("HIERAX_FORCE_PRODUCTS", request.param)
    return request.param


def answers(encoder: Encoder, x: Tensor) -> dict[str, Tensor]:
    """Everything that a caller can ask."""
    said = {**encoder.detection_features(x), "embedding": encoder.embedding(x), "logits": encoder(x)}
    return {**said, "map": encoder.forward_features(x), "classes": encoder.classify(said["embedding"])}


def apart(fast: Encoder, exact: Encoder, x: Tensor) -> float:
    """Largest distance over all answers."""
    with torch.inference_mode():
        ours, theirs = answers(fast, x), answers(exact, x)
    assert set(ours) == set(theirs)
    assert all(ours[key].is_contiguous() for key in ours)
    return max(distance(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize(("name", "size"), CASES)
def test_fast__equals_readable(name: str, size: tuple[int, ...], products: str) -> None:
    """Windows cut at the wrong edge, a key too few in a cut window, a bias folded wrongly: all far above rounding."""
    exact = loud(Encoder(FAMILIES[name][0]))
    fast = optimize(exact)
    assert fast.choice == f"engine torch, float32 on cpu, {products} products"
    assert apart(fast, exact, pixels(2, 3, *size)) <= FP32


def test_fast__loud_enough() -> None:
    """The negative control: leaving the padded keys out of the softmax costs a hundred tolerances."""
    exact = loud(Encoder(det_config()))
    fast = optimize(exact)
    x = pixels(1, 3, 256, 256)
    from hierax.model.engines import blocks

    whole = blocks.attend_beside_zeros
    try:
        blocks.attend_beside_zeros = lambda q, k, v, heads, zeros: whole(q, k, v, heads, 0)
        assert apart(fast, exact, x) > LOUD * FP32
    finally:
        blocks.attend_beside_zeros = whole
    assert apart(fast, exact, x) <= FP32


def test_fast__sizes_batches_and_threads_in_turn() -> None:
    """One module for everything: a table, schedule or buffer kept from another size or thread would be wrong."""
    exact = loud(Encoder(det_config()))
    fast = optimize(exact)
    inputs = [pixels(b, 3, *size) for size in ((256, 256), (64, 96), (256, 256)) for b in (3, 1)]
    assert max(apart(fast, exact, x) for x in inputs) <= FP32
    with torch.inference_mode():
        expected = [exact.embedding(x) for x in inputs]
    found: dict[int, float] = {}

    def work(i: int) -> None:
        with torch.inference_mode():
            found[i] = max(distance(fast.embedding(inputs[i]), expected[i]) for _ in range(5))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    [t.start() for t in threads], [t.join() for t in threads]
    assert max(found.values()) <= FP32


def test_fast__chunks_like_a_large_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows and MLP rows done a few at a time, as a large image is: a chunk lost or doubled would be wrong."""
    from hierax.model.engines import eager as module

    monkeypatch.setattr(module, "FEWEST_ROWS", 20)
    monkeypatch.setattr(module, "HIDDEN_BYTES", 1)
    for name in ("hieradet", "hiera", "max_avg shortcut"):
        exact = loud(Encoder(FAMILIES[name][0]))
        fast = optimize(exact)
        assert apart(fast, exact, pixels(3, 3, 128, 96)) <= FP32


def test_fast__maps_are_not_overwritten() -> None:
    """Later blocks work in place; a stage map that shared their memory would hold a later stage's numbers."""
    exact = loud(Encoder(det_config()))
    fast = optimize(exact)
    x = pixels(2, 3, 128, 128)
    with torch.no_grad():
        alone = {f"stage{i}": fast.detection_features(x, [f"stage{i}"])[f"stage{i}"] for i in (1, 2, 3, 4)}
        together = fast.detection_features(x)
        first = together["stage1"].clone()
        fast.embedding(pixels(2, 3, 128, 128, seed=2))
    assert all(torch.equal(alone[key], together[key]) for key in alone)
    assert torch.equal(first, together["stage1"])
    x_before = x.clone()
    fast.embedding(x)
    assert torch.equal(x, x_before)


def test_fast__outputs_can_feed_training() -> None:
    """A linear probe on embeddings must be trainable, also after buffers were made in inference mode."""
    fast = optimize(loud(Encoder(det_config())))
    x = pixels(2, 3, 64, 64)
    with torch.inference_mode():
        fast.embedding(x)
    embedding = fast.embedding(x)
    assert not embedding.requires_grad
    assert not embedding.is_inference()
    probe = torch.nn.Linear(fast.embedding_size, 2)
    probe(embedding).sum().backward()
    assert probe.weight.grad is not None


def test_fast__gradients_of_the_input() -> None:
    """Asked for a gradient (saliency), the readable path must answer; the in-place one would raise or give none."""
    exact = loud(Encoder(det_config()))
    fast = optimize(exact)
    a, b = (pixels(1, 3, 64, 64).requires_grad_() for _ in range(2))
    fast.embedding(a).sum().backward()
    exact.embedding(b).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)


def changed(fast: Encoder, how: str, other: Encoder) -> None:
    """Give a fast encoder another's weights, in one of the ways that people do."""
    state = {key: value.clone() for key, value in other.state_dict().items()}
    with torch.no_grad():
        match how:
            case "load_state_dict":
                fast.load_state_dict(state)
            case "assign":
                fast.load_state_dict(state, assign=True)
            case "data":
                for name, parameter in fast.named_parameters():
                    parameter.data = state[name]
            case "parameters replaced":
                for name, _ in list(fast.named_parameters()):
                    owner, _, leaf = name.rpartition(".")
                    setattr(fast.get_submodule(owner), leaf, torch.nn.Parameter(state[name]))
            case "last parameter replaced":
                fast.load_state_dict({**other.state_dict(), "blocks.6.mlp.fc2.weight": fast.blocks[6].mlp.fc2.weight})
                fast.blocks[6].mlp.fc2.weight = torch.nn.Parameter(state["blocks.6.mlp.fc2.weight"])
            case "blocks replaced":
                fast.load_state_dict(state, assign=True)
                fast.blocks = copy.deepcopy(other.blocks)
            case "inside data, then refresh":
                for name, parameter in fast.named_parameters():
                    parameter.data.copy_(state[name])
                fast.refresh()


WAYS = ("load_state_dict", "assign", "data", "parameters replaced", "last parameter replaced", "blocks replaced")


@pytest.mark.parametrize("how", [*WAYS, "inside data, then refresh"])
def test_fast__follows_changed_weights(how: str) -> None:
    """Folded weights that went stale would keep answering for the old parameters."""
    exact = loud(Encoder(plain_config((64, 64), (1, 2, 3, 1), 16)))
    fast = optimize(exact)
    x = pixels(2, 3, 64, 64)
    assert apart(fast, exact, x) <= FP32
    for seed in (3, 4):  # twice: an old parameter's memory may come back
        other = loud(Encoder(exact.config), seed=seed)
        changed(fast, how, other)
        assert apart(fast, other, x) <= FP32


def test_fast__follows_the_dtype(products: str) -> None:
    """oneDNN packs no float64 and, on most processors, no float16: products of the old kind would raise."""
    exact = loud(Encoder(plain_config((64, 64), (1, 2, 3, 1), 16)))
    fast, x = optimize(exact), pixels(2, 3, 64, 64)
    assert apart(fast, exact, x) <= FP32
    assert products in fast.choice
    assert apart(fast.double(), copy.deepcopy(exact).double(), x.double()) <= FP64
    assert "plain" in fast.choice
    assert cosine(fast.half(), exact, x) > 0.999
    assert apart(fast.float(), copy.deepcopy(exact).half().float(), x) <= FP32
    assert products in fast.choice
    assert exact.patch_embed.proj.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "value", "ask"),
    [
        ("HIERAX_FORCE_PRODUCTS", "paked", lambda: optimize(Encoder(plain_config((64, 64), (1, 1, 1, 1), 16)))),
        ("HIERAX_FORCE_BF16", "yes", processor.native_bfloat16),
        ("HIERAX_FORCE_VNNI", "2", processor.exact_int8),
    ],
)
def test_processor__forced_to_what_is_not(
    name: str, value: str, ask: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt wish that was ignored would leave a branch untested for ever."""
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"{name} must be .* got {value!r}"):
        ask()


def test_processor__forced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A switch that did nothing would leave the other branch untested."""
    for value in ("0", "1"):
        monkeypatch.setenv("HIERAX_FORCE_BF16", value)
        monkeypatch.setenv("HIERAX_FORCE_VNNI", value)
        assert processor.native_bfloat16() == processor.exact_int8() == (value == "1")
        auto = optimize(Encoder(plain_config((64, 64), (1, 1, 1, 1), 16)), dtype="auto")
        assert next(auto.parameters()).dtype == (torch.bfloat16 if value == "1" else torch.float32)


def test_fast__answers_in_the_parameters_dtype() -> None:
    """The caller cannot know what an engine computes in: heads and losses that follow must fit on every machine."""
    fast = optimize(loud(Encoder(det_config(num_classes=3, head="norm_pool"))), dtype="bfloat16")
    assert {p.dtype for p in fast.parameters()} == {torch.bfloat16}
    for x in (pixels(1, 3, 64, 64), pixels(1, 3, 64, 64).bfloat16(), pixels(0, 3, 64, 64)):
        assert {answer.dtype for answer in answers(fast, x).values()} == {torch.bfloat16}
    with pytest.raises(InputError, match=r"floating-point.*uint8"):
        fast.embedding(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


def test_fast__empty_batch() -> None:
    """The last part of a batch that divides evenly is empty; it has no maximum and no windows."""
    exact = loud(Encoder(det_config(num_classes=3)))
    assert apart(optimize(exact), exact, pixels(2, 3, 64, 64)) <= FP32
    for key, answer in answers(optimize(exact), pixels(0, 3, 64, 64)).items():
        assert answer.shape == answers(exact, pixels(0, 3, 64, 64))[key].shape


def test_fast__copies_and_pickles() -> None:
    """A copy that kept the original's engine would answer with the original's weights after a change."""
    exact = loud(Encoder(det_config()))
    fast, other, x = optimize(exact), loud(Encoder(exact.config), seed=3), pixels(2, 3, 64, 64)
    assert apart(fast, exact, x) <= FP32
    for twin in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert apart(twin, exact, x) <= FP32
        twin.load_state_dict(other.state_dict())
        assert apart(twin, other, x) <= FP32
    assert apart(fast, exact, x) <= FP32


def test_fast__keeps_few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that meets every size would otherwise hold a table for each until it dies."""
    monkeypatch.setattr(eager, "SIZES", 2)
    exact = loud(Encoder(plain_config((64, 64), (1, 1, 1, 1), 16)))
    fast = optimize(exact)
    for width in (32, 64, 96, 32, 128):
        assert apart(fast, exact, pixels(1, 3, 64, width)) <= FP32
    engine = fast.current()
    assert list(engine.position.held) == list(engine.schedule.held) == [((16, 8),), ((16, 32),)]


def test_fast__state_is_the_models() -> None:
    """Saving a predictor after fast=True reads this state: other names, other numbers or a copy would be wrong."""
    exact = loud(Encoder(det_config(head="norm_pool", num_classes=3)))
    fast = optimize(exact)
    state = fast.state_dict()
    assert list(state) == list(exact.state_dict())
    assert all(state[key].data_ptr() == value.data_ptr() for key, value in exact.state_dict().items())
    for name in ("config", "num_classes", "embedding_size", "input_size", "return_channels", "strides"):
        assert getattr(fast, name) == getattr(exact, name)


def test_fast__refuses_like_the_encoder() -> None:
    """An engine that took an illegal input would answer nonsense."""
    fast = optimize(loud(Encoder(det_config())))
    for shape in ((1, 3, 65, 64), (1, 1, 64, 64), (3, 64, 64)):
        with pytest.raises(InputError):
            fast.embedding(torch.zeros(shape))
    with pytest.raises(UnknownNameError):
        fast.detection_features(torch.zeros(1, 3, 64, 64), ["stage9"])
    with pytest.raises(UnknownNameError, match="openvino"):
        optimize(fast, engine="openvno")
    with pytest.raises(InputError, match="dtype"):
        optimize(fast, dtype="float7")
    with pytest.raises(InputError, match="int8"):
        optimize(fast, dtype="int8", engine="torch")
    with pytest.raises(InputError):
        optimize(torch.nn.Linear(2, 2))


def cosine(fast: Encoder, exact: Encoder, x: Tensor) -> float:
    """Of the embedding that is furthest off."""
    with torch.inference_mode():
        return torch.nn.functional.cosine_similarity(fast.embedding(x).float(), exact.embedding(x)).min().item()


def test_fast__bfloat16_is_near() -> None:
    """Lower precision is a choice, not another model: embeddings still point the same way."""
    exact = loud(Encoder(det_config()))
    fast = optimize(exact, dtype="bfloat16", engine="torch")
    assert cosine(fast, exact, pixels(2, 3, 128, 128)) > 0.995
    assert exact.patch_embed.proj.weight.dtype == torch.float32
