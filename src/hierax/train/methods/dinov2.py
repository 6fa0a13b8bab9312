"""DINOv2: a student learns to answer as the average of itself does, for other crops of the same image.

Source: arXiv:2304.07193; for a hierarchical encoder as in birder's scripts/train_dino_v2.py.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...data.augment import Augment
from ...data.block_masks import BlockMasks
from ...data.datasets.samples import TrainingData
from ...data.datasets.some import sizes_of
from ...data.multi_crop import LARGE, MultiCrop
from ...errors import InputError, RecipeError
from ...model import across
from ...model.dino import SelfDistilled, dino_loss, ibot_loss, koleo_loss
from ...model.targets import Targets, collapse
from ...weights.card import Weights
from .. import schedules
from ..batches import Part, mixed
from ..bounds import Bound, collapse_bounds
from ..dinov2_auto import suited
from ..dinov2_settings import DINOv2Settings
from ..dinov2_start import HEADS, as_backbone, check_rows, crop_sizes, find_heads, student
from ..recipe import Recipe
from .base import Method, StepContext

_MASKS = 9  # the random stream of a step that its masks come from
_WARMING, _FROZEN = 0.3, 0.1  # of a run, at most, for phases that are given in passes over the data
_WARM = 0.1  # of a run, for fresh heads on weights
_LEAST_SIDE = 128  # pixels below which a crop has too few cells to hide blocks of them


class Taught(NamedTuple):
    """What a student is to learn.

    Attributes:
        crops: Targets of the large crops.
        cells: Targets of the hidden cells.
    """

    crops: Float[Tensor, "large k"]
    cells: Float[Tensor, "m k_cells"]


class Kept(nn.Module):
    """What a run keeps beside the student.

    Attributes:
        teacher: The student's average.
        dino: Makes targets of crops.
        ibot: And of hidden cells.
    """

    def __init__(self, teacher: SelfDistilled, dino: Targets, ibot: Targets) -> None:
        super().__init__()
        self.teacher, self.dino, self.ibot = teacher, dino, ibot


class DINOv2(Method):
    """Self-distillation with hidden cells, for images."""

    name, task, Settings, preset = "dinov2", "pretrain", DINOv2Settings, "small_dinov2"
    extras = HEADS
    telling = ("target_information", "target_entropy", "prototype_share", "agreement")
    module: SelfDistilled
    kept: Kept
    settings: DINOv2Settings

    def __init__(self, weights: Weights, recipe: Recipe, classes: list[str]) -> None:
        super().__init__(as_backbone(weights, recipe), recipe, classes)
        own, config = self.settings, self.weights.config
        processes = across.world_size()
        if recipe.ema_decay:
            raise RecipeError(
                f"ema_decay must be 0 for dinov2, whose result is the teacher, an average already; got "
                f"{recipe.ema_decay}. Leave it out; teacher_momentum is the average's."
            )
        check_rows(recipe.batch_size // (recipe.accumulate * processes), recipe, processes)
        self.size, self.small = crop_sizes(config, own.local_size)
        grid = (self.size[0] // config.strides[-1], self.size[1] // config.strides[-1])
        self.masks = BlockMasks(grid=grid, share=own.mask_probability, ratio=own.mask_ratio, blocks=own.mask_blocks)
        self.heads = find_heads(weights, own.heads)
        self.module = student(self.weights, recipe, self.heads)  # type: ignore[assignment]
        shared: dict[str, Any] = {"centring": own.centring, "momentum": own.centre_momentum, "queue": own.queue}
        shared["iterations"] = own.sinkhorn_iterations
        counts = (own.prototypes, _cell_prototypes(own))
        dino, ibot = (Targets(count, **shared) for count in counts)
        self.kept = Kept(copy.deepcopy(self.module).requires_grad_(False), dino, ibot)  # type: ignore[assignment]
        for kept, name in ((self.kept.dino, "dino_centre"), (self.kept.ibot, "ibot_centre")):
            kept.centre.copy_(self.heads.get(name, kept.centre))
        pairs = _pairs(own.local_crops)
        self.chance = {
            "dino_local": math.log(counts[0]) * LARGE * own.local_crops / pairs,
            "dino_global": math.log(counts[0]) * LARGE / pairs,
            "ibot": math.log(counts[1]) * own.mask_probability,
        }
        self._step = -1

    @classmethod
    def open(cls, data: Any, recipe: Recipe) -> tuple[TrainingData, TrainingData | None]:
        """Samples to train on; one alone has nothing to be told apart from."""
        train, validation = super().open(data, recipe)
        if len(train) < 2:
            raise InputError(f"DINOv2 tells images apart, so it needs at least 2; the data has {len(train)}. Add more.")
        return train, validation

    @classmethod
    def suited(
        cls, samples: int, weights: Weights, recipe: Recipe, asked: Collection[str]
    ) -> tuple[dict[str, Any], list[str]]:
        """Steps, prototypes, queue and momentum for the data and the batch."""
        return suited(samples, weights, recipe, asked)

    def views(self) -> MultiCrop:
        """The crops of each image."""
        own, spec = self.settings, self.weights.preprocess
        cut: dict[str, Any] = {"bicubic": spec.interpolation == "bicubic", "flip": own.flip}
        return MultiCrop(
            Augment(size=self.size, crop_scale=own.global_scale, **cut),
            Augment(size=self.small, crop_scale=own.local_scale, **cut),
            own.local_crops,
            own.augmentation,
        )

    def loss(self, model: nn.Module, part: Part, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """What crops, hidden cells and the spread of embeddings cost, weighted; and what tells of collapse."""
        own, rows = self.settings, len(part)
        large = _crop_major(self.input(part, "large"))
        small = _crop_major(self.input(part, "small")) if own.local_crops else None
        hidden, cells, weights = (t.to(large.device, non_blocking=True) for t in self.hidden(part, context))
        taught = self.targets(large, cells, part, context)
        answers = model(large, small, hidden, cells)

        pairs, temperature = _pairs(own.local_crops), own.student_temperature
        parts = {
            "dino_global": dino_loss(answers.large[None], taught.crops[None], temperature) * LARGE / pairs,
            "ibot": ibot_loss(answers.cells, taught.cells, weights, LARGE * rows, temperature),
        }
        loss = own.dino_weight * parts["dino_global"] + own.ibot_weight * parts["ibot"]
        if answers.small is not None:
            of_small, both = answers.small.unflatten(0, (-1, rows)), taught.crops.unflatten(0, (LARGE, rows))
            parts["dino_local"] = dino_loss(of_small, both, temperature) / pairs
            loss = loss + own.dino_weight * parts["dino_local"]
        if own.koleo_weight:
            spread = [koleo_loss(x, gathered=own.koleo_gathered) for x in answers.embedding.chunk(LARGE)]
            parts["koleo"] = torch.stack(spread).sum()
            loss = loss + own.koleo_weight * parts["koleo"]
        real = _real(part)
        return loss, parts | collapse(taught.crops[real], answers.large.detach()[real])

    def hidden(self, part: Part, context: StepContext) -> tuple[Tensor, Tensor, Tensor]:
        """Which cells of the large crops are hidden, their indices, and the weight of each; alike on any processes."""
        hidden = torch.zeros(LARGE * len(part), *self.masks.grid, dtype=torch.bool)
        if part.samples:  # a part that stands for no sample hides nothing
            seed = mixed(self.recipe.seed, _MASKS, context.step)
            hidden = torch.from_numpy(self.masks.draw(seed, context.samples, context.places, LARGE))
        cells = hidden.flatten().nonzero().flatten()
        weights = 1 / hidden.flatten(1).sum(1).clamp(min=1)  # of each crop
        return hidden, cells, weights.repeat_interleave(hidden[0].numel())[cells]

    @torch.no_grad()
    def targets(self, large: Tensor, cells: Tensor, part: Part, context: StepContext) -> Taught:
        """What the teacher says of the large crops, each in the place of the other one, and of their hidden cells."""
        if context.step != self._step:
            self._step = context.step
            for kept in (self.kept.dino, self.kept.ibot):
                kept.forget()  # whatever a step that was skipped left behind
        said = self.kept.teacher.eval()(large, None, None, cells)
        other, of_cells, real = said.large.float().roll(len(part), 0), said.cells.float(), _real(part)
        taught = Taught(torch.zeros_like(other), torch.zeros_like(of_cells))
        how = {"temperature": self.temperature(context), "queued": context.step >= self.settings.queue_after}
        # Numbers of crops and cells in the whole step: what is remembered is the same on any processes.
        places = torch.tensor(context.places, dtype=torch.int64, device=large.device)
        crops = torch.cat([places + crop * context.samples for crop in range(LARGE)])
        size = math.prod(self.masks.grid)
        numbers = crops[cells // size] * size + cells % size if part.samples else cells
        taught.crops[real] = self.kept.dino(other[real], order=crops, **how)
        taught.cells[real] = self.kept.ibot(of_cells[real], order=numbers, **how)
        return taught

    def temperature(self, context: StepContext) -> float:
        """The teacher's at a step."""
        own = self.settings
        start, end = own.teacher_temperature_start, own.teacher_temperature
        phase = {"pass_steps": context.pass_steps, "total": context.total, "most": _WARMING}
        steps = schedules.steps_of(own.teacher_temperature_steps, own.teacher_temperature_epochs, **phase)
        return schedules.ramp(start, end, context.step, steps, own.schedules)

    def learning_rate(self, step: int, *, total: int, warmup: int) -> float:
        """By the counting of the settings."""
        if self.settings.schedules == "hierax" or self.recipe.schedule != "cosine":
            return super().learning_rate(step, total=total, warmup=warmup)
        rates = {"total": total, "warmup": warmup, "counting": self.settings.schedules}
        return schedules.learning_rate(step, self.recipe.peak_lr, self.recipe.min_lr, **rates)

    def groups(self) -> list[dict[str, Any]]:
        """Parameters by weight decay and learning rate; prototypes apart."""
        own, recipe, depth = self.settings, self.recipe, sum(self.weights.config.depths)
        groups: dict[tuple[float, bool, bool], dict[str, Any]] = {}
        for name, parameter in self.module.named_parameters():
            spared = name.endswith(".bias") or "norm" in name or "gamma" in name
            decays = own.undecayed == "none" or not spared
            scale = recipe.layer_decay ** (depth + 1 - _layer(name, depth))
            scale *= own.patch_embed_lr if ".patch_embed." in name else 1.0
            last = ".last_layer." in name
            rates = {"weight_decay": recipe.weight_decay * decays, "lr_scale": scale, "last": last}
            group = groups.setdefault((scale, decays, last), {"params": [], "names": [], **rates})
            group["params"].append(parameter)
            group["names"].append(name)
        return list(groups.values())

    def clip_scopes(self) -> list[list[nn.Parameter]]:
        """Backbone and heads, or all together."""
        if self.settings.clip_scope == "all":
            return super().clip_scopes()
        heads = [head for head in (self.module.dino_head, self.module.ibot_head) if head is not None]
        scopes = [[*self.module.encoder.parameters(), self.module.mask_token], *(list(h.parameters()) for h in heads)]
        return scopes

    def before_step(self, context: StepContext, groups: list[dict[str, Any]]) -> None:
        """Weight decay of the step; what is frozen stays."""
        own, recipe = self.settings, self.recipe
        if own.weight_decay_end is not None:
            span = {"total": context.total, "counting": own.schedules}
            decay = schedules.weight_decay(context.step, recipe.weight_decay, own.weight_decay_end, **span)
            for group in groups:
                group["weight_decay"] = decay if group["weight_decay"] else 0.0
        if context.step < self.warm_start(context.total):
            for parameter in (*self.module.encoder.parameters(), self.module.mask_token):
                parameter.grad = None
        phase = {"pass_steps": context.pass_steps, "total": context.total, "most": _FROZEN}
        if context.step < schedules.steps_of(own.freeze_steps, own.freeze_epochs, **phase):
            for group in groups:
                if group["last"] and own.freeze == "lr":
                    group["lr"] = 0.0
                elif group["last"]:
                    for parameter in group["params"]:
                        parameter.grad = None

    def warm_start(self, total: int) -> int:
        """Steps in which only the heads are trained: fresh heads would undo what a backbone has learned."""
        if self.settings.warm_start_heads is not None:
            return self.settings.warm_start_heads
        return math.ceil(_WARM * total) if self.weights.tensors and not self.heads else 0

    @torch.no_grad()
    def after_step(self, context: StepContext) -> None:
        """Move the teacher towards the student, and remember what its scores were."""
        own, done = self.settings, context.step - 1
        momentum = schedules.cosine(own.teacher_momentum, own.teacher_momentum_end, done, context.total)
        mine: list[Tensor] = list(self.kept.teacher.parameters())
        torch._foreach_lerp_(mine, [across.whole(p.detach()) for p in self.module.parameters()], 1 - momentum)  # pyright: ignore[reportPrivateImportUsage]
        self.kept.dino.remember()
        self.kept.ibot.remember()

    def bounds(self) -> list[Bound]:
        """When it has collapsed."""
        own = self.settings
        heat = own.teacher_temperature / own.student_temperature
        return collapse_bounds(own, LARGE * self.recipe.batch_size // self.recipe.accumulate, heat)

    def result(self) -> nn.Module:
        """The teacher's backbone."""
        return self.kept.teacher.encoder

    def beside(self) -> dict[str, Tensor]:
        """The teacher's heads and mask token, and the average scores."""
        tensors = {name: t for name, t in self.kept.teacher.state_dict().items() if not name.startswith("encoder.")}
        centres = {f"{name}_centre": getattr(self.kept, name).centre for name in ("dino", "ibot")}
        return {name: tensor.detach().cpu().contiguous() for name, tensor in {**tensors, **centres}.items()}

    def remarks(self, data: TrainingData) -> list[str]:
        """Also whether images are smaller than what is cut out of them."""
        lines, sizes = super().remarks(data), [min(size) for size in sizes_of(data)]
        few = sum(size < min(self.size) for size in sizes)
        if few:
            lines.append(
                f"{few} of {len(sizes)} images that were looked at are smaller than a crop, "
                f"{self.size[0]}x{self.size[1]}, the smallest {min(sizes)}: they are enlarged, which adds nothing to "
                "learn from (input_size=)."
            )
        return lines

    def advice(self, samples: int) -> list[str]:
        """What is begun with, and what is too small."""
        lines = []
        if self.weights.tensors:
            alone = ", trained alone at first" if self.settings.warm_start_heads != 0 else ""
            kept = "with the heads that lie beside them" if self.heads else f"with fresh heads{alone}"
            lines.append(f"goes on from weights {kept}")
        own = self.settings
        if own.teacher_temperature > own.student_temperature:
            lines.append(
                f"teacher_temperature {own.teacher_temperature:g} is above student_temperature "
                f"{own.student_temperature:g}: targets flatter than the answers teach little. 0.04 to 0.07 are usual."
            )
        if min(self.size) < _LEAST_SIDE:
            lines.append(
                f"crops of {self.size[0]}x{self.size[1]} pixels have {math.prod(self.masks.grid)} cells to hide, in "
                f"blocks of four: of many crops none is. From {_LEAST_SIDE} pixels on that is rare (input_size=)."
            )
        return lines


def _pairs(small: int) -> int:
    """Pairs of a teacher's crop and a student's other one: 2 of large crops and 2 a small one."""
    return LARGE + max(LARGE * small, 1)


def _real(part: Part) -> slice:
    """Rows of a part that count: none of one that stands for no sample, so that other processes need not wait."""
    return slice(None) if part.samples else slice(0, 0)


def _cell_prototypes(own: DINOv2Settings) -> int:
    return own.prototypes if own.ibot_prototypes is None or not own.separate_heads else own.ibot_prototypes


def _layer(name: str, depth: int) -> int:
    """Layer of a parameter: 0 for what precedes the blocks, i + 1 for block i, one more for norm and heads."""
    if name.startswith(("encoder.patch_embed.", "encoder.pos_embed", "mask_token")):
        return 0
    return int(name.split(".")[2]) + 1 if name.startswith("encoder.blocks.") else depth + 1


def _crop_major(crops: Float[Tensor, "b n 3 h w"]) -> Float[Tensor, "n_b 3 h w"]:
    """First the first crop of each image, then the second."""
    return crops.transpose(0, 1).flatten(0, 1)
