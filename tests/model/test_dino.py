"""What a student sees of hidden cells, what even answers cost, and scores of several processes."""

from __future__ import annotations

import math

import pytest
import torch

from hierax.model.dino import dino_loss, hide, ibot_loss
from hierax.model.targets import Targets, collapse, sinkhorn

from ..members import pixels, tiny

FAMILIES = ("hieradet", "hieradet_d", "abswin", "hiera", "sam2")


def inside(cell, margin):
    """Pixels of a cell, a few from its edges."""
    row, column = cell
    spots = [slice(32 * place + margin, 32 * (place + 1) - margin) for place in (row, column)]
    return (slice(None), slice(None), *spots)


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_pixels_do_not_reach_the_student(family):
    """Replaced after positions, or before the patch embedding alone, what is hidden would be seen."""
    encoder, x = tiny(family, input_size=(96, 96)), pixels(1, 3, 96, 96)
    mask, token = torch.zeros(1, 3, 3, dtype=torch.bool), pixels(16, seed=2)
    mask[0, 1, 1] = True
    changed = x.clone()
    changed[inside((1, 1), 4)] += 3
    with torch.no_grad():
        assert torch.equal(hide(encoder, x, mask, token), hide(encoder, changed, mask, token))
        assert not torch.allclose(hide(encoder, x, None, token), hide(encoder, changed, None, token), atol=1e-3)
        # The patch kernel overlaps: three pixels of a hidden cell are seen by the tokens below and right of it.
        edge = x.clone()
        edge[..., 63, 40:60] += 3
        assert not torch.equal(hide(encoder, x, mask, token), hide(encoder, edge, mask, token))
        assert not torch.equal(hide(encoder, x, mask, token), hide(encoder, x, mask, token + 1))


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_enters_a_hidden_cell_before_global_attention(family):
    """Windows of the first two stages are cells of 32 pixels: until attention is global, a cell knows only its place."""
    encoder, x = tiny(family, input_size=(96, 96)), pixels(1, 3, 96, 96)
    mask, token = torch.zeros(1, 3, 3, dtype=torch.bool), pixels(16, seed=2)
    mask[0, 1, 1] = True

    def stages(x):
        tokens = encoder.patch_embed(x)
        cells = mask.repeat_interleave(8, 1).repeat_interleave(8, 2)
        tokens = torch.where(cells[..., None], token, tokens)
        return encoder.through(tokens + encoder.position((24, 24)))

    with torch.no_grad():
        one, other = stages(x), stages(pixels(1, 3, 96, 96, seed=8))
    for stage, cell in enumerate((8, 4)):
        at = (slice(None), slice(cell, 2 * cell), slice(cell, 2 * cell))
        assert torch.equal(one[stage][at], other[stage][at])
    assert not torch.allclose(one[2][:, 2:4, 2:4], other[2][:, 2:4, 2:4], atol=1e-3)


def test_even_answers_cost_the_logarithm_of_the_prototypes():
    """Chance levels are computed from it: 9.86, 1.23 and 5.55 of 65536 prototypes and 8 small crops."""
    k, even = 65536, math.log(65536)
    targets = pixels(2, 2, k).mul(9).softmax(-1)
    assert dino_loss(torch.zeros(8, 2, k), targets).item() / 18 == pytest.approx(even * 16 / 18, rel=1e-5)
    assert even * 16 / 18 == pytest.approx(9.86, abs=0.005)
    assert even * 2 / 18 == pytest.approx(1.23, abs=0.005)
    cells = ibot_loss(torch.zeros(6, k), targets.flatten(0, 1)[[0, 1, 2, 3, 0, 1]], torch.full((6,), 1 / 3), 4)
    assert cells.item() == pytest.approx(even / 2, rel=1e-5)
    assert even / 2 == pytest.approx(5.55, abs=0.006)


def test_collapse_is_seen():
    """The same answer for every crop, and no answer for any: each has a number that says so."""
    rows, k = 12, 32
    scores = pixels(rows, k)
    healthy = collapse(sinkhorn(scores, 0.07), scores)
    assert healthy["target_entropy"] < 0.5
    assert healthy["target_information"] > 0.5
    assert healthy["prototype_share"] < 0.5
    same = pixels(1, k).expand(rows, k)
    flat = collapse(sinkhorn(same, 0.07), scores)
    assert flat["target_entropy"] == pytest.approx(1, abs=1e-5)
    assert flat["target_information"] == pytest.approx(0, abs=1e-6)
    centred = collapse((same / 0.01).softmax(-1), scores)
    assert centred["target_information"] == pytest.approx(0, abs=1e-5)
    assert centred["prototype_share"] == 1
    assert centred["agreement"] < 0.5


def test_collapse__scores_of_images_that_look_alike():
    """Digits share most of what they show, and so one favourite prototype, of which balanced targets keep nothing."""
    rows, k = 32, 64
    alike = 0.02 * pixels(rows, k) + pixels(1, k)
    assert (alike.argmax(1) == alike.argmax(1)[0]).all()
    found = collapse(sinkhorn(alike, 0.04), alike)
    assert found["prototype_share"] < 0.3
    assert found["target_information"] > 0.01


@pytest.mark.parametrize(("rows", "k"), [(2, 64), (8, 4), (16, 16)])
def test_information__is_whole_where_each_target_names_its_crop(rows, k):
    """The bound means the same for any batch and any number of prototypes."""
    targets = torch.eye(max(rows, k))[:rows, :k] if rows <= k else torch.eye(k).repeat(rows // k, 1)
    assert collapse(targets, targets)["target_information"] == pytest.approx(1, abs=1e-5)
    assert collapse(targets, targets)["agreement"] == 1


def test_a_skipped_step_leaves_no_trace():
    """A NaN in the centre or in the queue would stay there."""
    for options in ({"centring": "centre"}, {"queue": 6}):
        targets = Targets(4, **options)
        targets(torch.full((3, 4), torch.nan), 0.05)
        targets.forget()
        targets(pixels(3, 4), 0.05)
        targets.remember()
        assert all(buffer.isfinite().all() for buffer in targets.buffers())


def test_parts_of_a_step_move_the_centre_once():
    """A centre that moves with every part makes accumulation another run."""
    whole, parts = Targets(4, centring="centre"), Targets(4, centring="centre")
    scores = pixels(6, 4)
    whole(scores, 0.05)
    for part in scores.split([1, 5]):
        parts(part, 0.05)
    whole.remember(), parts.remember()
    torch.testing.assert_close(whole.centre, parts.centre)


def test_nothing_hidden_leaves_the_centre():
    """The mean of no cells is NaN."""
    targets = Targets(4, centring="centre")
    assert targets(torch.zeros(0, 4), 0.05).shape == (0, 4)
    targets.remember()
    assert not targets.centre.any()
    assert sinkhorn(torch.zeros(0, 4), 0.05).shape == (0, 4)


@pytest.mark.parametrize("family", ["hieradet", "sam2"])
@pytest.mark.parametrize("side", [32, 96])
def test_small_crops_are_not_padded_in_vain(family, side):
    """In training the zeros that fill a window are not computed; answers and gradients stay those of the padded way."""
    encoder, x = tiny(family, input_size=(96, 96)), pixels(2, 3, side, side)
    said, grads = {}, {}
    for way in ("eval", "train"):
        getattr(encoder, way)()
        said[way] = encoder.stages(x)[-1]
        found = torch.autograd.grad(
            said[way].square().mean(), [p for n, p in encoder.named_parameters() if "blocks" in n]
        )
        grads[way] = torch.cat([grad.flatten() for grad in found])
    torch.testing.assert_close(said["train"], said["eval"], atol=1e-5, rtol=1e-5)
    assert (grads["train"] - grads["eval"]).abs().max() <= 1e-5 * grads["eval"].abs().max()
