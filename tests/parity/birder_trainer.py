"""birder's own DINOv2 trainer, run for a few steps on a tiny HieraDet, and everything that went in and out."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from ..peers import peer

NETWORK = {
    "depths": [1, 1, 2, 1], "embed_dim": 16, "num_heads": 1, "global_pos_size": [7, 7], "global_att_blocks": [2],
    "window_spec": [8, 4, 0, 0], "drop_path_rate": 0.0,
}  # fmt: skip


@dataclass
class Trained:
    """What a run of birder's trainer was given and did.

    Attributes:
        start: The student's state before the first step.
        batches: What each step was given.
        gradients: The student's, of each step, clipped.
        rates: Learning rate and weight decay of each step.
        losses: Of each step: the sum, and the parts as birder shows them.
        student: The student's state after each step.
        teacher: The teacher's.
        net: Student, teacher and losses after the last step.
    """

    start: dict[str, Tensor] = field(default_factory=dict)
    batches: list[dict[str, Any]] = field(default_factory=list)
    gradients: list[dict[str, Tensor]] = field(default_factory=list)
    rates: list[tuple[float, float]] = field(default_factory=list)
    losses: list[list[float]] = field(default_factory=list)
    student: list[dict[str, Tensor]] = field(default_factory=list)
    teacher: list[dict[str, Tensor]] = field(default_factory=list)
    net: dict[str, nn.Module] = field(default_factory=dict)


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def train(data: Path, folder: Path, **options: Any) -> Trained:
    """Run birder's trainer on a folder of images, in its own words but for where it writes."""
    script, settings = peer("birder.scripts.train_dino_v2"), peer("birder.conf.settings")
    utils, found = peer("birder.common.training_utils"), Trained()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MODELS_DIR", "TRAINING_RUNS_PATH"):
            (folder / name.lower()).mkdir(parents=True, exist_ok=True)
            patch.setattr(settings, name, folder / name.lower())
        real_batch, real_load, real_optimizer = (
            script.TrainCollator.__call__,
            nn.Module.load_state_dict,
            utils.get_optimizer,
        )
        real_update = utils.SmoothedValue.update

        def batch(self: Any, items: Any) -> Any:
            found.batches.append(copy.deepcopy(real_batch(self, items)))
            return copy.deepcopy(found.batches[-1])

        def load(self: nn.Module, state: Any, *given: Any, **named: Any) -> Any:
            if isinstance(self, script.DINOv2Teacher):
                found.net["teacher"] = self
                found.start.update({name: tensor.clone() for name, tensor in state.items()})
            return real_load(self, state, *given, **named)

        def students(*given: Any, **named: Any) -> nn.Module:
            found.net["student"] = real_student(*given, **named)
            for name, parameter in found.net["student"].named_parameters():
                if name == "mask_token" or "pos_embed" in name:  # begins at 0, where a wrong place shows nothing
                    nn.init.normal_(parameter, std=0.5)
            return found.net["student"]

        def optimizer(parameters: Any, lr: float, args: Any) -> Any:
            made = real_optimizer(parameters, lr, args)

            def before(made: Any, *_: Any) -> None:
                grads = {n: p.grad.clone() for n, p in found.net["student"].named_parameters() if p.grad is not None}
                found.gradients.append(grads)
                found.rates.append((made.param_groups[0]["lr"], made.param_groups[0]["weight_decay"]))

            made.register_step_pre_hook(before)
            return made

        def update(self: Any, value: Any, *given: Any) -> Any:
            if not shown or self is shown[0]:  # the sum, the first that birder shows of a step
                shown[:1] = [self]
                found.losses.append([])
                found.student.append(_state(found.net["student"]))
                found.teacher.append(_state(found.net["teacher"]))
            found.losses[-1].append(float(value))
            return real_update(self, value, *given)

        shown: list[Any] = []
        real_student = script.DINOv2Student
        patch.setattr(script.TrainCollator, "__call__", batch)
        patch.setattr(nn.Module, "load_state_dict", load)
        patch.setattr(script, "DINOv2Student", students)
        patch.setattr(utils, "get_optimizer", optimizer)
        patch.setattr(utils.SmoothedValue, "update", update)
        for name in ("DINOLoss", "iBOTPatchLoss"):
            patch.setattr(script, name, _kept(getattr(script, name), found.net, name))
        usual: dict[str, Any] = {
            "network": "hieradet_d_tiny", "model_config": NETWORK, "size": (96, 96), "local_crop_size": (32, 32),
            "local_crops_number": 3, "device": "cpu", "num_workers": 0, "pin_memory": False, "seed": 3, "opt": "adamw",
            "no_summary": True, "img_loader": "pil", "non_interactive": True, "data_path": [str(data)], "dino_head_hidden_dim": 16,
            "head_bottleneck_dim": 8, "dino_out_dim": 24, "ibot_out_dim": 20, "no_extended_metrics": True,
        }  # fmt: skip
        script.train(script.args_from_dict(**usual | options))
    return found


def _kept(kind: Any, net: dict[str, nn.Module], name: str) -> Any:
    def make(*given: Any, **named: Any) -> nn.Module:
        net[name] = kind(*given, **named)
        return net[name]

    return make
