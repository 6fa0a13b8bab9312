"""Grad-CAM against hooks of autograd, occlusion against covering by hand."""

from __future__ import annotations

import pytest
import torch

from hierax.model.explainers import gradcam, heat_maps, occlusion, predicted, rollout

from ..members import pixels, tiny


def by_hooks(encoder, image, label, stage):
    """The map of one image: the stage's last block is watched forward and backward, nothing of ours is asked."""
    seen = {}
    block = encoder.blocks[encoder.stage_ends[stage]]
    handles = [
        block.register_forward_hook(lambda _, __, out: seen.__setitem__("map", out.detach())),
        block.register_full_backward_hook(lambda _, __, out: seen.__setitem__("gradient", out[0])),
    ]
    encoder(image[None].requires_grad_())[0, label].backward()
    for handle in handles:
        handle.remove()
    encoder.zero_grad()
    maps, gradient = seen["map"][0], seen["gradient"][0]  # (h, w, c)
    total = torch.zeros(maps.shape[:2])
    for channel in range(maps.shape[-1]):
        total += gradient[..., channel].mean() * maps[..., channel]
    return total.clamp(min=0)


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("family", ["hiera", "abswin_attention", "timm_abswin", "hieradet"])
def test_gradcam__hooks(family, stage):
    """Gradients of another class, of the sum over classes, of probabilities, or at another block, give other maps."""
    encoder = tiny(family, num_classes=3)
    images, classes = pixels(2, 3, 64, 64), torch.tensor([2, 0])
    found = gradcam(encoder, images, classes, stage)
    wanted = torch.stack([by_hooks(encoder, images[i], int(classes[i]), stage) for i in range(2)])
    assert found.shape == (2, 16 >> stage, 16 >> stage)
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max().clamp_min(1)
    other = gradcam(encoder, images, torch.tensor([0, 2]), stage)
    assert (other - found).abs().max() > 1e-3 * max(found.max(), other.max())
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_gradcam__within_inference():
    """Callers switch gradients off; the map must not be zero, or an error, because of that."""
    encoder, image = tiny("hiera"), pixels(1, 3, 64, 64)
    wanted = gradcam(encoder, image, torch.tensor([1]), 2)
    with torch.no_grad():
        assert torch.equal(gradcam(encoder, image, torch.tensor([1]), 2), wanted)


def test_heat_maps__rollout_of_a_class():
    """A class must change a rollout, by where it begins; one that is ignored would be a setting without an effect."""
    encoder, image = tiny("hiera", input_size=(128, 128)), pixels(1, 3, 128, 128)
    label = torch.tensor([1])
    start = gradcam(encoder, image, label, 3)
    assert start.max() > 0
    found = heat_maps("rollout", encoder, image, label)
    assert torch.equal(found, rollout(encoder, image, start))
    assert (found - heat_maps("rollout", encoder, image, None)).abs().max() > 1e-4


@torch.no_grad()
def test_occlusion__by_hand():
    """One square at a time, on a copy of its own: a copy used twice, or an edge left out, changes the drops."""
    encoder, images = tiny("hiera", input_size=(64, 96)), pixels(2, 3, 64, 96)
    classes = predicted(encoder, images)
    found = occlusion(encoder, images, classes, 3)
    assert found.shape == (2, 2, 3)
    for image, label, drops in zip(images, classes, found, strict=True):
        whole = encoder(image[None]).double().softmax(-1)[0, label]
        for row in range(2):
            for column in range(3):
                values = []
                for top in (row - 1, row):
                    for left in (column - 1, column):
                        covered = image.clone()
                        for y in range(max(0, 32 * top), min(64, 32 * top + 64)):
                            covered[:, y, max(0, 32 * left) : 32 * left + 64] = 0
                        values.append(whole - encoder(covered[None]).double().softmax(-1)[0, label])
                assert drops[row, column] == pytest.approx(float(sum(values) / 4), abs=1e-6)
    assert found.abs().max() > 1e-3
