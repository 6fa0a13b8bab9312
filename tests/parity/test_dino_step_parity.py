"""Whole steps of our loop against birder's own trainer: same weights, crops and hidden cells, same everything after."""

from __future__ import annotations

import re
import threading

import numpy as np
import pytest
import torch

from hierax.config import ModelConfig, PreprocessSpec
from hierax.data.datasets.open import open_data
from hierax.train.batches import Part, Views
from hierax.train.devices import Devices
from hierax.train.loop import Loop
from hierax.train.methods.dinov2 import DINOv2
from hierax.train.presets import PRESETS
from hierax.train.reading import recipe_of, with_options
from hierax.weights.card import ModelCard, Weights

from ..members import coloured_classes, det_config
from ..peers import birder_rename
from ..tolerance import assert_same
from . import birder_trainer

pytestmark = [pytest.mark.parity, pytest.mark.slow]

SAMPLES, BATCH, EPOCHS = 12, 4, 4
STEPS = 2 * SAMPLES // BATCH  # that are compared: in half of them the prototypes stay
CONFIG: ModelConfig = det_config(
    (8, 4, 0, 0), depths=(1, 1, 2, 1), global_blocks=(2,), head="norm_pool", input_size=(96, 96)
)
OURS = {
    "epochs": EPOCHS, "batch_size": BATCH, "accumulate": 1, "lr": 1e-3, "warmup_steps": 3, "drop_path": 0.0,
    "precision": "fp32", "device": "cpu", "workers": 0, "local_crops": 3, "local_size": 32, "prototypes": 24,
    "ibot_prototypes": 20, "head_dim": 16, "bottleneck": 8, "teacher_temperature_steps": 3, "freeze_steps": 3,
}  # fmt: skip
THEIRS = {
    "epochs": EPOCHS, "stop_epoch": 2, "batch_size": BATCH, "lr": 1e-3, "warmup_epochs": 1, "lr_scheduler": "cosine",
    "lr_scheduler_update": "step", "lr_cosine_min": 1e-6, "wd": 0.04, "wd_end": 0.2, "clip_grad_norm": 3.0,
    "warmup_teacher_temp_epochs": 1,
}  # fmt: skip
WAYS = {
    "the published run": ({}, {"centering": "sinkhorn_knopp", "ibot_separate_head": True}),
    "a queue": ({"queue": 8}, {"centering": "sinkhorn_knopp", "ibot_separate_head": True, "sinkhorn_queue_size": 8}),
    "centring, one head": ({"centring": "centre", "separate_heads": False}, {"centering": "centering"}),
}
_BARE = birder_rename(CONFIG.depths, "0")


def renamed(state):
    """birder's tensors under our names and in our shapes."""
    found = {}
    for name, tensor in state.items():
        if name.startswith("backbone."):
            ours = _BARE(name.removeprefix("backbone."))
            tensor = tensor.permute(0, 2, 3, 1) if "pos_embed" in name else tensor
            found[f"encoder.{ours}"] = tensor
        else:
            ours = re.sub(r"parametrizations\.weight\.original0", "g", name)
            ours = re.sub(r"parametrizations\.weight\.original1", "v", ours)
            found[ours] = tensor.flatten() if name == "mask_token" else tensor
    return found


def ours(settings, start, batches, data):
    """The method in our loop, ready to take birder's steps."""
    recipe = with_options(recipe_of(PRESETS["birder_dinov2"]), **OURS, **settings)
    spec = PreprocessSpec(size=(96, 96))
    method = DINOv2(Weights(card=ModelCard(config=CONFIG, preprocess=spec)), recipe, [])
    for module in (method.module, method.kept.teacher):
        module.load_state_dict(renamed(start))

    def hidden(part, context):
        batch = batches[context.step]
        return batch["collated_masks"].unflatten(1, (3, 3)), batch["mask_indices_list"], batch["masks_weight"]

    method.hidden = hidden
    method.input = lambda part, name: part.views[name]
    views = Views(open_data(data, labelled=False), method.views(), CONFIG, recipe)
    return method, Loop(method, views, None, recipe, data.parent, Devices(recipe))


def part_of(batch):
    """What a step of birder's was given, as our loop hands it to a method."""
    views = {
        name: batch[f"collated_{theirs}_crops"].unflatten(0, (-1, BATCH)).transpose(0, 1)
        for name, theirs in (("large", "global"), ("small", "local"))
    }
    zeros = torch.zeros(BATCH, dtype=torch.int64)
    return Part(views, zeros, zeros, list(range(BATCH)), [], list(range(BATCH)))


@pytest.mark.parametrize("way", WAYS)
def test_steps_equal_birders(tmp_path, way, monkeypatch):
    """Losses, clipped gradients, rates, the student, the teacher and the centre, through warm-up and thaw."""
    settings, options = WAYS[way]
    data = coloured_classes(tmp_path / "data", per_class=4)
    theirs = birder_trainer.train(data, tmp_path / "birder", **THEIRS, **options)
    method, loop = ours(settings, theirs.start, theirs.batches, data)
    shown, seen = [], {}
    real = DINOv2.loss

    def loss(self, model, part, context):
        total, parts = real(self, model, part, context)
        shown.append([total.item(), *(parts[name].item() for name in ("dino_local", "dino_global", "koleo", "ibot"))])
        return total, parts

    monkeypatch.setattr(DINOv2, "loss", loss)

    def before(made, *_):
        seen["gradients"] = {n: p.grad.clone() for n, p in method.module.named_parameters() if p.grad is not None}
        seen["rates"] = [(group["lr"], group["weight_decay"]) for group in made.param_groups]

    loop._bare_optimizer.register_step_pre_hook(before)
    for step, batch in enumerate(theirs.batches):
        loop._step(step, [part_of(batch)], 0.0, threading.Event())
        assert np.allclose(shown[step], theirs.losses[step], rtol=3e-6, atol=1e-6), (step, shown, theirs.losses[step])
        assert all(np.allclose(rates, theirs.rates[step], rtol=1e-9) for rates in seen["rates"]), step
        assert_same(seen["gradients"], renamed(theirs.gradients[step]), 1e-6 * 2**step)
        # AdamW divides by the gradients' size, so rounding of the smallest grows from step to step.
        assert_same(method.module.state_dict(), renamed(theirs.student[step]), 5e-6 * (step + 1))
        assert_same(method.kept.teacher.state_dict(), renamed(theirs.teacher[step]), 1e-6 * (step + 1))
    assert len(shown) == STEPS
    if options["centering"] == "centering":
        for name, kind in (("dino", "DINOLoss"), ("ibot", "iBOTPatchLoss")):
            loss_of = theirs.net[kind]
            loss_of.apply_center_update()
            torch.testing.assert_close(
                getattr(method.kept, name).centre, loss_of.center.flatten(), atol=1e-5, rtol=1e-4
            )
