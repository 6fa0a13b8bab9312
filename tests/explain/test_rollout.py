"""Attention rollout against the product of dense attention matrices, built token by token."""

from __future__ import annotations

import importlib
import itertools

import pytest
import torch

from hierax.model.encoder import split_windows
from hierax.model.explainers import rollout
from hierax.model.explainers.rollout import attention_of_windows

from ..members import pixels, tiny

IMAGE_FAMILIES = (
    "hiera", "hiera_q_pool_2", "abswin", "abswin_attention", "timm_abswin", "hieradet", "hieradet_d", "sam2",
)  # fmt: skip
TOLERANCE = 5e-7  # of shares, whose sum is 1


def dense(block, x):
    """The matrix (outputs, inputs) of one block for tokens (h, w, c): every query against every key of its window."""
    h, w, _ = x.shape
    heads, (down, across) = block.attn.heads, block.q_stride or (1, 1)
    window = block.window or (h, w)
    q, k, _ = block.attn.qkv(block.norm1(x)).chunk(3, dim=-1)  # (h, w, d)
    bias = block.attn.qkv.bias.chunk(3)[1]
    width = q.shape[-1] // heads
    rows = []
    for row, column in itertools.product(range(h // down), range(w // across)):
        own = [(row * down + i, column * across + j) for i in range(down) for j in range(across)]
        query = torch.stack([q[place] for place in own]).amax(0)
        top, left = (place // side * side for place, side in zip(own[0], window, strict=True))
        keys = list(itertools.product(range(top, top + window[0]), range(left, left + window[1])))
        inside = torch.tensor([y < h and x_ < w for y, x_ in keys])
        vectors = torch.stack([k[y, x_] if y < h and x_ < w else bias for y, x_ in keys]).unflatten(1, (heads, width))
        scores = torch.einsum("khd,hd->kh", vectors, query.unflatten(0, (heads, width))) / width**0.5
        weights = scores.softmax(0).mean(1)
        line = torch.zeros(h, w)
        places = torch.tensor(keys)[inside].T
        line[places[0], places[1]] = weights[inside] / 2
        for place in own:
            line[place] += 1 / len(own) / 2
        rows.append(line.flatten())
    return torch.stack(rows)


@torch.no_grad()
def by_hand(encoder, image, start, stage=-1):
    """A row times the product of all dense matrices, from the last block of a stage to the first token grid."""
    tokens, matrices = encoder.embed_tokens(image[None]), []
    shape = tokens.shape[1:-1]
    for block in encoder.blocks[: encoder.stage_ends[stage] + 1]:
        matrices.append(dense(block, tokens[0]))
        tokens = block(tokens)
    row = torch.full((tokens[0, ..., 0].numel(),), 1 / tokens[0, ..., 0].numel()) if start is None else start.flatten()
    for matrix in reversed(matrices):
        row = row @ matrix
    return row.reshape(shape)


@pytest.mark.parametrize("family", IMAGE_FAMILIES)
def test_rollout__product_of_dense_matrices(family):
    """A wrong window, a lag forgotten, padding left out of the softmax, or queries pooled after it, moves the shares."""
    encoder, image = tiny(family, input_size=(32, 96)), pixels(3, 32, 96)
    last = encoder.stages(image[None])[-1]
    generator = torch.Generator().manual_seed(3)
    start = torch.rand(last.shape[1:-1], generator=generator)
    found = rollout(encoder, image[None], start[None])[0]
    wanted = by_hand(encoder, image, start / start.sum())
    assert found.shape == (8, 24)
    assert (found - wanted).abs().max() < TOLERANCE
    uniform = by_hand(encoder, image, None)
    assert (uniform - wanted).abs().max() > 100 * TOLERANCE  # the comparison can tell one answer from another
    if encoder.config.head != "attention":
        assert (rollout(encoder, image[None])[0] - uniform).abs().max() < TOLERANCE


@pytest.mark.parametrize("stage", range(4))
def test_rollout__of_a_stage(stage):
    """Blocks of later stages in the product would mix cells that this stage keeps apart."""
    encoder, image = tiny("hieradet"), pixels(3, 32, 64)
    found = rollout(encoder, image[None], stage=stage)[0]
    assert (found - by_hand(encoder, image, None, stage)).abs().max() < TOLERANCE


def test_rollout__sum():
    """Attention to padding belongs to no pixel: handed out to pixels it would make HieraDet's shares sum to 1."""
    image = pixels(2, 3, 64, 64)
    assert rollout(tiny("hiera"), image).sum((1, 2)).tolist() == pytest.approx([1, 1], abs=1e-5)
    padded = rollout(tiny("hieradet"), image).sum((1, 2))
    assert (padded < 0.9).all()
    assert (padded > 0.1).all()


def test_rollout__attention_pool():
    """A head that attends has weights of its own; the plain mean in their place is another answer."""
    encoder, image = tiny("abswin_attention"), pixels(3, 64, 64)
    with torch.no_grad():
        tokens = encoder.stages(image[None])[-1]
        pool = encoder.attention_pool
        q, k = pool.q(pool.latent)[0, 0], pool.kv(tokens.flatten(1, 2))[0].chunk(2, dim=-1)[0]
        width = len(q) // pool.heads
        heads = [slice(i * width, (i + 1) * width) for i in range(pool.heads)]
        start = torch.stack([(k[:, own] @ q[own] / width**0.5).softmax(0) for own in heads]).mean(0)
    assert (rollout(encoder, image[None])[0] - by_hand(encoder, image, start)).abs().max() < TOLERANCE
    assert start.max() > 1.05 * start.min()


def test_rollout__one_mask_unit_is_an_island():
    """In plain Hiera a stage-2 cell has seen its own 32 pixels alone: anything outside is a window too many."""
    encoder, image = tiny("hiera", input_size=(96, 96)), pixels(1, 3, 96, 96)
    start = torch.zeros(1, 12, 12)
    start[0, 5, 6] = 1  # in the unit of rows 32..63, columns 32..63
    found = rollout(encoder, image, start, stage=1)[0]
    outside = found.clone()
    outside[8:16, 8:16] = 0
    assert outside.abs().max() == 0
    assert found.sum() == pytest.approx(1, abs=1e-5)


def test_rollout__some_queries_at_a_time(monkeypatch):
    """Global attention at 1024 px has matrices of 4096 x 4096: they must come in parts, and the parts add up."""
    encoder, image = tiny("hieradet"), pixels(2, 3, 64, 64)
    whole = rollout(encoder, image)
    monkeypatch.setattr(importlib.import_module("hierax.model.explainers.rollout"), "_MOST", 100)
    assert (rollout(encoder, image) - whole).abs().max() < 1e-7


def test_rollout__weights_are_those_of_the_encoder():
    """Should the encoder's attention change (another scale, a bias, a norm of keys), rollout must not go on as before.

    The weights, one query at a time, times the values must give what the encoder's own attention gives.
    """
    encoder = tiny("hieradet")
    block = encoder.blocks[encoder.stage_ends[0] + 1]  # pools its queries, in windows
    windows = split_windows(pixels(1, 16, 16, block.norm1.weight.numel()), block.window)[:1]
    with torch.no_grad():
        wanted = block.attn(windows, block.q_stride).flatten(0, -2)  # (queries, d)
        values = block.attn.qkv(windows).chunk(3, dim=-1)[2].flatten(0, -2)  # (keys, d)
        queries = len(wanted)
        heads, width = block.attn.heads, values.shape[-1] // block.attn.heads
        assert heads == 2
        every = torch.eye(queries)[:, None]  # one query each
        mean = torch.stack([attention_of_windows(block, windows, one)[0] for one in every])
        assert mean.sum(1).tolist() == pytest.approx([1] * queries, abs=1e-5)
        # With equal values in both heads, the mean of the heads is what the encoder's output is made of.
        block.attn.qkv.weight[-values.shape[1] :][width:] = block.attn.qkv.weight[-values.shape[1] :][:width]
        block.attn.qkv.bias[-values.shape[1] :][width:] = block.attn.qkv.bias[-values.shape[1] :][:width]
        block.attn.proj.weight.copy_(torch.cat([torch.eye(width), torch.eye(width)], 1).repeat(2, 1) / 2)
        block.attn.proj.bias.zero_()
        shared = block.attn.qkv(windows).chunk(3, dim=-1)[2].flatten(0, -2)[:, :width]
        found = block.attn(windows, block.q_stride).flatten(0, -2)[:, :width]
    assert (mean @ shared - found).abs().max() < 1e-5
    assert (found - wanted[:, :width]).abs().max() > 1e-3
