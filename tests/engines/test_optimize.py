"""The fast door against the readable encoder, on loud weights: every family, every kind of product, odd sizes."""

from __future__ import annotations

import dataclasses
import threading

import pytest
import torch
from torch import Tensor

import hierax
from hierax.config import ModelConfig
from hierax.errors import InputError, UnknownNameError
from hierax.model.encoder import Encoder
from hierax.model.engines import FastEncoder, optimize
from hierax.model.engines.products import Packed, Plain, Traced, has_packed
from hierax.model.mae import MaskedAutoencoder

from ..peers import det_config, loud, mae_config, plain_config
from ..tolerance import FP32, LOUD, distance

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


def pixels(*shape: int, seed: int = 1) -> Tensor:
    """Seeded N(0, 1) pixels."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


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


@pytest.mark.parametrize("kind", [Plain, Packed, Traced])
@pytest.mark.parametrize(("name", "size"), CASES)
def test_fast__equals_readable(name: str, size: tuple[int, ...], kind: type) -> None:
    """Windows cut at the wrong edge, a key too few in a cut window, a bias folded wrongly: all far above rounding."""
    if kind is Packed and not has_packed():
        pytest.skip("this torch has no oneDNN operators")
    exact = loud(Encoder(FAMILIES[name][0]))
    fast = FastEncoder(exact)
    fast.kind = kind
    assert apart(fast, exact, pixels(2, 3, *size)) <= FP32


def test_fast__loud_enough() -> None:
    """The negative control: leaving the padded keys out of the softmax costs a hundred tolerances."""
    exact = loud(Encoder(det_config()))
    fast = FastEncoder(exact)
    x = pixels(1, 3, 256, 256)
    fast.begin(x)
    from hierax.model.engines import blocks

    whole = blocks.attend_beside_zeros
    try:
        blocks.attend_beside_zeros = lambda q, k, v, zeros: whole(q, k, v, 0)
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
    from hierax.model.engines import encoder as module

    monkeypatch.setattr(module, "FEWEST_ROWS", 20)
    monkeypatch.setattr(module, "HIDDEN_BYTES", 1)
    for name in ("hieradet", "hiera", "max_avg shortcut"):
        exact = loud(Encoder(FAMILIES[name][0]))
        fast = FastEncoder(exact)
        fast.kind = Plain
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


def test_fast__follows_changed_weights() -> None:
    """Folded weights that went stale would keep answering for the old parameters."""
    exact = loud(Encoder(plain_config((64, 64), (1, 2, 3, 1), 16)))
    fast = optimize(exact)
    x = pixels(2, 3, 64, 64)
    assert apart(fast, exact, x) <= FP32
    other = loud(Encoder(exact.config), seed=3)
    fast.load_state_dict(other.state_dict())
    assert apart(fast, other, x) <= FP32
    assert apart(fast.double(), other.double(), x.double()) <= 1e-12


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


def test_fast__masked_autoencoder() -> None:
    """Masked passes go the readable way and whole images the fast one; both must agree with the original."""
    exact = loud(MaskedAutoencoder(mae_config((64, 64), (1, 2, 3, 1), 16)))
    fast = optimize(exact)
    x, visible = pixels(2, 3, 64, 64), torch.tensor([[0, 3], [1, 2]])
    with torch.no_grad():
        assert torch.equal(fast(x, visible=visible).prediction, exact(x, visible=visible).prediction)
        assert distance(fast.encoder.embedding(x), exact.encoder.embedding(x)) <= FP32
    assert isinstance(fast.encoder, FastEncoder)
    assert type(exact.encoder) is Encoder
    assert list(fast.state_dict()) == list(exact.state_dict())


def test_fast__bfloat16_is_near() -> None:
    """Lower precision is a choice, not another model: embeddings still point the same way."""
    exact = loud(Encoder(det_config()))
    fast = optimize(exact, dtype="bfloat16")
    x = pixels(2, 3, 128, 128)
    with torch.inference_mode():
        ours = fast.embedding(x.bfloat16()).float()
        cosine = torch.nn.functional.cosine_similarity(ours, exact.embedding(x))
    assert exact.patch_embed.proj.weight.dtype == torch.float32
    assert cosine.min() > 0.995
