"""Heads, targets, losses and hidden tokens of self-distillation against birder's, to 1e-6."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hierax.model.dino import Head, dino_loss, hide, ibot_loss, koleo_loss
from hierax.model.targets import Targets, sinkhorn

from ..members import pixels
from ..peers import birder_det, peer
from ..tolerance import FP32, GRADIENT, assert_same_gradients

pytestmark = pytest.mark.parity

EXACT = 1e-6


def theirs():
    return peer("birder.net.ssl.dino_v2")


def close(ours, reference, tolerance=EXACT):
    assert ours.shape == reference.shape
    assert torch.isfinite(ours).all()
    if ours.numel():
        assert (ours.double() - reference.double()).abs().max() <= tolerance * max(1, reference.abs().max().item())


def with_gradient(compute, *tensors):
    """A value and the gradients of what it is computed from."""
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    value = compute(*leaves)
    return value, torch.autograd.grad(value, leaves)


def both(ours, reference, *tensors):
    (value, grads), (expected, expected_grads) = (with_gradient(compute, *tensors) for compute in (ours, reference))
    close(value, expected)
    for grad, wanted in zip(grads, expected_grads, strict=True):
        close(grad, wanted)


def targets(*shape, seed=5):
    return pixels(*shape, seed=seed).mul(3).softmax(-1)


def paired_heads(layers=3, dtype=torch.float32):
    reference = theirs().DINOHead(12, 40, False, layers, 16, 8)
    ours = Head(12, 40, layers=layers, hidden=16, bottleneck=8)
    with torch.no_grad():
        for parameter in ours.parameters():
            nn.init.normal_(parameter, std=0.5)
        last = reference.last_layer.parametrizations.weight
        last.original0.copy_(ours.last_layer.g)
        last.original1.copy_(ours.last_layer.v)
    reference.mlp.load_state_dict(ours.mlp.state_dict())
    return ours.to(dtype), reference.to(dtype)


@pytest.mark.parametrize("layers", [2, 3, 4])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_heads(layers, checkpointed):
    """A length of prototypes that is not trained, or a direction that is not brought to length 1."""
    ours, reference = paired_heads(layers)
    ours.checkpointed = checkpointed
    x = pixels(6, 12)
    close(ours(x), reference(x))
    for module in (ours, reference):
        (module(x) * pixels(6, 40, seed=3)).mean().backward()
    last = reference.last_layer.parametrizations.weight
    close(ours.last_layer.g.grad, last.original0.grad)
    close(ours.last_layer.v.grad, last.original1.grad)
    close(ours.mlp[0].weight.grad, reference.mlp[0].weight.grad)


def test_fresh_heads_begin_alike():
    """MLPs at 0.02, prototypes at length 1: another start is another run."""
    ours, reference = Head(64, 4096), theirs().DINOHead(64, 4096, False, 3, 2048, 256)
    assert torch.equal(ours.last_layer.g, torch.ones(4096, 1))
    last = reference.last_layer.parametrizations.weight
    assert ours.last_layer.v.std().item() == pytest.approx(last.original1.std().item(), rel=0.01)
    assert ours.last_layer.v.abs().max().item() == pytest.approx(last.original1.abs().max().item(), rel=0.01)
    for place in (0, 2, 4):
        assert ours.mlp[place].weight.std().item() == pytest.approx(reference.mlp[place].weight.std().item(), rel=0.02)
        assert not ours.mlp[place].bias.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_heads_in_half_precision(dtype):
    """An epsilon of 1e-12 is 0 in half precision: a crop that the MLP makes zero of would be NaN."""
    ours, reference = paired_heads(dtype=dtype)
    x = pixels(6, 12).to(dtype)
    close(ours(x).float(), reference(x).float(), 2e-2)
    with torch.no_grad():
        for module in (ours, reference):
            module.mlp[4].weight.zero_()
            module.mlp[4].bias.zero_()
    if dtype == torch.float16:
        assert not ours(x).any()
        close(ours(x), reference(x))


ROWS = {"few prototypes": (24, 6), "more prototypes than rows": (5, 64), "one row": (1, 8)}


@pytest.mark.parametrize("shape", ROWS.values(), ids=ROWS.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.04, 0.07])
def test_sinkhorn(shape, dtype, temperature):
    """Rows before columns, three times, in float32 whatever the scores are in."""
    scores = (pixels(*shape) * 0.4).to(dtype)
    reference = theirs().SinkhornKnoppNormalization()(scores.clone(), None, torch.tensor(temperature))
    close(sinkhorn(scores, temperature), reference)


def test_sinkhorn_with_a_queue():
    """Rows of the queue weigh in every normalisation and get no target."""
    scores, queue = pixels(4, 16) * 0.4, pixels(12, 16, seed=9) * 0.4
    reference = theirs().SinkhornKnoppNormalization()(scores, queue, torch.tensor(0.05))
    close(sinkhorn(scores, 0.05, others=queue), reference)
    assert not torch.allclose(reference, sinkhorn(scores, 0.05), atol=1e-2)


@pytest.mark.parametrize("scale", [10.0, 1e3])
def test_sinkhorn_of_extreme_scores(scale):
    """The length of prototypes is trained, so exp(score / 0.04) overflows: birder's targets are then NaN."""
    scores = pixels(6, 10) * scale
    logs = scores.double() / 0.04
    for _ in range(3):
        logs = logs - logs.logsumexp(0)
        logs = logs - logs.logsumexp(1, keepdim=True)
    broken = theirs().SinkhornKnoppNormalization()(scores, None, torch.tensor(0.04))
    assert broken.isnan().any()
    rounding = 4 * torch.finfo(torch.float32).eps * logs.abs().max().item() + 1e-6
    close(sinkhorn(scores, 0.04), logs.exp().float(), rounding if scale < 100 else 2e-2)


@pytest.mark.parametrize("tokens", [False, True])
def test_centring_over_steps(tokens):
    """The centre of a step is that of the steps before it; one that is moved first sees its own scores."""
    module = theirs()
    reference = (module.iBOTPatchLoss if tokens else module.DINOLoss)(16, 0.1, 0.9)
    ours = Targets(16, centring="centre", momentum=0.9)
    for step in range(4):
        scores = pixels(6 + step, 16, seed=step) + 1
        given = scores[None] if tokens else scores
        expected = reference.softmax_center_teacher(given, 0.05)
        reference.update_center(given)
        close(ours(scores, 0.05), expected[0] if tokens else expected)
        ours.remember()
    reference.apply_center_update()
    close(ours.centre, reference.center.flatten())


def test_the_queue_over_steps():
    """Not used until it is full, then the newest, whatever the size of a step."""
    reference, ours = theirs().DINOLoss(8, 0.1, 0.9, queue_size=10), Targets(8, queue=10)
    for step, rows in enumerate([4, 4, 3, 4, 12, 2, 10, 1]):
        scores = pixels(rows, 8, seed=step) * 0.3
        close(ours(scores, 0.05), reference.sinkhorn_knopp_teacher(scores, torch.tensor(0.05)))
        ours.remember()
    assert torch.equal(ours.queue.sort(0).values, reference.sinkhorn_queue.queue.sort(0).values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_dino_loss(dtype, scale):
    """Every student's crop with every target, summed over pairs, averaged over images."""
    reference = theirs().DINOLoss(20, 0.1, 0.9)
    students, wanted = (pixels(3, 4, 20) * scale).to(dtype), targets(2, 4, 20)
    ours, their = dino_loss(students, wanted), reference(list(students), list(wanted))
    close(ours, their)
    if dtype == torch.float32:
        both(lambda s: dino_loss(s, wanted), lambda s: reference(list(s), list(wanted)), students)


@pytest.mark.parametrize("counts", [(3, 0, 5, 1), (0, 0, 0, 0), (9, 9, 9, 9)], ids=["uneven", "none", "all"])
def test_ibot_loss(counts):
    """Divided by all crops, also those that hide nothing; without a hidden cell it is 0, and so are gradients."""
    masks = torch.zeros(4, 9, dtype=torch.bool)
    for crop, count in enumerate(counts):
        masks[crop, :count] = True
    weight = masks.sum(1, dtype=torch.float32).clamp_min(1).reciprocal()
    weight = weight[:, None].expand_as(masks)[masks]
    students, wanted = pixels(int(masks.sum()), 20), targets(int(masks.sum()), 20)
    reference = theirs().iBOTPatchLoss(20, 0.1, 0.9)
    both(
        lambda s: ibot_loss(s, wanted, weight, 4),
        lambda s: reference(s, wanted, student_masks_flat=masks, masks_weight=weight),
        students,
    )
    half = students.half()
    close(ibot_loss(half, wanted, weight, 4), reference(half, wanted, masks, weight))


@pytest.mark.parametrize("rows", [2, 7])
def test_koleo_loss(rows):
    """The nearest other embedding by angle, and the length of the difference."""
    x = pixels(rows, 12)
    both(koleo_loss, theirs().KoLeoLoss(), x)
    close(koleo_loss(x.half()), theirs().KoLeoLoss()(x.half().float()))


def test_koleo_of_equal_embeddings():
    """A collapsed batch costs -log of the two epsilons; one embedding alone has no neighbour and costs nothing."""
    close(koleo_loss(torch.ones(4, 64)), theirs().KoLeoLoss()(torch.ones(4, 64)))
    assert koleo_loss(torch.ones(4, 64)).item() == pytest.approx(16.22, abs=0.01)
    assert koleo_loss(torch.ones(1, 64)).item() == 0


@pytest.fixture(scope="module", params=[(8, 4, 14, 7), (8, 4, 0, 0)], ids=["fixed windows", "d"])
def pair(request):
    reference = birder_det(request.param, (96, 96))
    return reference, reference.encoder()


def hidden(seed=0):
    return torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(seed)) < 0.4


def test_hidden_tokens(pair):
    """Replaced after the patch embedding and before positions; the last stage's map and the pooled vector."""
    reference, ours = pair
    x, token, mask = pixels(2, 3, 96, 96), pixels(16, seed=4), hidden()

    def mine(x, token):
        last = hide(ours, x, mask, token)
        return last.movedim(-1, 1), ours.pool(last)

    def birders(x, token):
        said = reference.module.masked_encoding_retention(
            x, mask.flatten(1).float(), token.reshape(1, 1, 1, -1), return_keys="all"
        )
        return said["features"], said["embedding"]

    for said, expected in zip(mine(x, token), birders(x, token), strict=True):
        close(said, expected, FP32)
    grads, wanted = (
        with_gradient(lambda *given, ask=ask: sum((part * 0.1).square().mean() for part in ask(*given)), x, token)[1]
        for ask in (mine, birders)
    )
    assert_same_gradients(dict(enumerate(grads)), dict(enumerate(wanted)), GRADIENT)
    close(hide(ours, x, None, token), ours.stages(x)[-1])
