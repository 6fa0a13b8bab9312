"""DINOv2: a student learns to answer as the average of itself does, for other crops of the same image.

Source: arXiv:2304.07193; for a hierarchical encoder as in birder's scripts/train_dino_v2.py.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...data.augment import Augment
from ...data.block_masks import BlockMasks
from ...data.multi_crop import LARGE, MultiCrop
from ...errors import InputError, RecipeError
from ...model import across
from ...model.dino import Head, SelfDistilled, dino_loss, ibot_loss, koleo_loss
from ...model.targets import Targets, collapse
from ...schema import Between, Natural, NonNegative, Positive, ProperShare, Share, conform
from ...weights.adapt import to_encoder, to_num_classes, with_final_norm
from ...weights.card import Weights
from ...weights.network import to_module
from .. import schedules
from ..batches import Part, mixed
from ..recipe import Recipe
from ..schedules import Counting
from .base import Method, StepContext

_Area = Annotated[float, Between(above=0, most=1)]
_Inner = Annotated[float, Between(above=0, below=1)]
_Temperature = Annotated[float, Between(above=0)]
_MASKS = 9  # the random stream of a step that its masks come from
_WARMING, _FROZEN = 0.3, 0.1  # of a run, at most, for phases that are given in passes over the data
_LEAST_SIDE = 128  # pixels below which a crop has too few cells to hide blocks of them


@dataclass(frozen=True, kw_only=True)
class DINOv2Settings:
    """Keys of `[dinov2]`.

    Attributes:
        local_crops: Small crops of an image.
        local_size: Their side in pixels, a multiple of 32; None is 96, or the input's own size for plain Hiera.
        global_scale: Area of a large crop over the image's, (smallest, largest).
        local_scale: Of a small one.
        flip: Probability of a horizontal flip.
        augmentation: What becomes of colours: "dinov2", "birder" or "none".
        mask_probability: Share of the large crops of which cells are hidden from the student.
        mask_ratio: Share of their cells that is hidden, (smallest, largest).
        mask_blocks: How blocks of cells are drawn, "dinov2" or "birder".
        prototypes: Of the head for crops.
        ibot_prototypes: Of the head for cells; None is as many.
        separate_heads: Whether there are two heads, or one for both.
        head_layers: Layers of a head's MLP.
        head_dim: Its width.
        bottleneck: Width of its output, which scores the prototypes.
        ibot_bottleneck: Of the head for cells; None is the same.
        centring: "sinkhorn" balances the prototypes over the batch, "centre" subtracts the average score.
        sinkhorn_iterations: How often Sinkhorn-Knopp normalises.
        queue: Earlier scores, of all processes, that Sinkhorn-Knopp balances along with a small batch; 0 is off.
        queue_after: Steps before the queue takes part.
        centre_momentum: Of the average score.
        student_temperature: Of the student's scores.
        teacher_temperature: Of the teacher's scores, after its warm-up.
        teacher_temperature_start: At the first step.
        teacher_temperature_epochs: Its warm-up in passes over the data, but at most 0.3 of the run.
        teacher_temperature_steps: Its warm-up in steps; overrules the passes.
        teacher_momentum: Of the average that the teacher is, at the first step.
        teacher_momentum_end: At the last; half a cosine between.
        weight_decay_end: Weight decay at the last step, half a cosine from `weight_decay`; None is constant.
        freeze_epochs: Passes over the data in which the prototypes stay, but at most 0.1 of the run.
        freeze_steps: The same in steps; overrules the passes.
        freeze: "gradient" drops the prototypes' gradients before clipping, "lr" takes a rate of 0 after it.
        clip_scope: Gradients that `clip_norm` is for: "submodule" each of backbone and heads, "all" together.
        undecayed: "vectors" spares biases, norms and branch scales from weight decay, "none" nothing.
        patch_embed_lr: Factor on the patch embedding's learning rate.
        drop_path_uniform: Whether every block drops paths at the same rate; else it grows from 0.
        schedules: How steps are counted: "hierax", "dinov2" or "birder".
        dino_weight: Of the loss of crops.
        ibot_weight: Of the loss of hidden cells.
        koleo_weight: Of the loss that spreads embeddings.
        koleo_gathered: Whether embeddings of all processes spread together, or each process's by themselves.
        heads: Where heads come from: "auto" takes those beside the weights if there are any, "fresh" random ones; or
            the path of a file.
        warm_start_heads: Steps at the beginning in which only the heads are trained; None is a tenth of the run where
            weights come without heads, else 0.
    """

    local_crops: Natural = 8
    local_size: Positive | None = None
    global_scale: tuple[_Area, _Area] = (0.32, 1.0)
    local_scale: tuple[_Area, _Area] = (0.05, 0.32)
    flip: Share = 0.5
    augmentation: Literal["dinov2", "birder", "none"] = "dinov2"
    mask_probability: Share = 0.5
    mask_ratio: tuple[_Inner, _Inner] = (0.1, 0.5)
    mask_blocks: Literal["dinov2", "birder"] = "dinov2"
    prototypes: Positive = 65536
    ibot_prototypes: Positive | None = None
    separate_heads: bool = True
    head_layers: Annotated[int, Between(least=1, most=8)] = 3
    head_dim: Positive = 2048
    bottleneck: Positive = 256
    ibot_bottleneck: Positive | None = None
    centring: Literal["sinkhorn", "centre"] = "sinkhorn"
    sinkhorn_iterations: Positive = 3
    queue: Natural = 0
    queue_after: Natural = 0
    centre_momentum: ProperShare = 0.9
    student_temperature: _Temperature = 0.1
    teacher_temperature: _Temperature = 0.07
    teacher_temperature_start: _Temperature = 0.04
    teacher_temperature_epochs: NonNegative = 30.0
    teacher_temperature_steps: Natural | None = None
    teacher_momentum: Share = 0.992
    teacher_momentum_end: Share = 1.0
    weight_decay_end: NonNegative | None = None
    freeze_epochs: NonNegative = 1.0
    freeze_steps: Natural | None = None
    freeze: Literal["gradient", "lr"] = "gradient"
    clip_scope: Literal["submodule", "all"] = "submodule"
    undecayed: Literal["vectors", "none"] = "vectors"
    patch_embed_lr: Share = 1.0
    drop_path_uniform: bool = False
    schedules: Counting = "hierax"
    dino_weight: NonNegative = 1.0
    ibot_weight: NonNegative = 1.0
    koleo_weight: NonNegative = 0.1
    koleo_gathered: bool = False
    heads: str = "auto"
    warm_start_heads: Natural | None = None

    def __post_init__(self) -> None:
        """Refuse what is out of bounds."""
        conform(self, RecipeError)
        for key in ("mask_ratio", "global_scale", "local_scale"):
            smallest, largest = getattr(self, key)
            if smallest > largest:
                raise RecipeError(f"{key} must be (smallest, largest); got {(smallest, largest)}.")


class Taught(NamedTuple):
    """What a student is to learn.

    Attributes:
        scores: What the teacher says of the other large crop, before it becomes a target.
        crops: Targets of the large crops.
        cells: Targets of the hidden cells.
    """

    scores: Float[Tensor, "large k"]
    crops: Float[Tensor, "large k"]
    cells: Float[Tensor, "m k_cells"]


class DINOv2(Method):
    """Self-distillation with hidden cells, for images."""

    name, task, Settings, preset = "dinov2", "pretrain", DINOv2Settings, "small_dinov2"
    extras = "heads.safetensors"
    module: SelfDistilled
    settings: DINOv2Settings

    def __init__(self, weights: Weights, recipe: Recipe, classes: list[str]) -> None:
        super().__init__(as_backbone(weights, recipe), recipe, classes)
        own, config = self.settings, self.weights.config
        self.size, self.small = crop_sizes(self.weights, recipe)
        grid = (self.size[0] // config.strides[-1], self.size[1] // config.strides[-1])
        self.masks = BlockMasks(grid=grid, share=own.mask_probability, ratio=own.mask_ratio, blocks=own.mask_blocks)
        self.module = student(self.weights, recipe)
        self.kept.teacher = copy.deepcopy(self.module).requires_grad_(False)
        shared: dict[str, Any] = {"centring": own.centring, "momentum": own.centre_momentum, "queue": own.queue}
        shared["iterations"] = own.sinkhorn_iterations
        counts = (own.prototypes, _cell_prototypes(own))
        self.kept.dino, self.kept.ibot = (Targets(count, **shared) for count in counts)
        pairs = _pairs(own.local_crops)
        self.chance = {
            "dino_local": math.log(counts[0]) * LARGE * own.local_crops / pairs,
            "dino_global": math.log(counts[0]) * LARGE / pairs,
            "ibot": math.log(counts[1]) * own.mask_probability,
        }
        self._step = -1

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
        return loss, parts | collapse(taught.crops[real], taught.scores[real], answers.large.detach()[real])

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
        taught = Taught(other, torch.zeros_like(other), torch.zeros_like(of_cells))
        how = {"temperature": self.temperature(context), "queued": context.step >= self.settings.queue_after}
        taught.crops[real] = self.kept.dino(other[real], **how)
        taught.cells[real] = self.kept.ibot(of_cells[real], **how)
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
        phase = {"pass_steps": context.pass_steps, "total": context.total, "most": _FROZEN}
        if context.step < schedules.steps_of(own.freeze_steps, own.freeze_epochs, **phase):
            for group in groups:
                if group["last"] and own.freeze == "lr":
                    group["lr"] = 0.0
                elif group["last"]:
                    for parameter in group["params"]:
                        parameter.grad = None

    @torch.no_grad()
    def after_step(self, context: StepContext) -> None:
        """Move the teacher towards the student, and remember what its scores were."""
        own, done = self.settings, context.step - 1
        momentum = schedules.cosine(own.teacher_momentum, own.teacher_momentum_end, done, context.total)
        mine = list(self.kept.teacher.parameters())
        torch._foreach_lerp_(mine, [across.whole(p.detach()) for p in self.module.parameters()], 1 - momentum)  # pyright: ignore[reportPrivateImportUsage]
        self.kept.dino.remember()
        self.kept.ibot.remember()

    def result(self) -> nn.Module:
        """The teacher's backbone."""
        return self.kept.teacher.encoder

    def beside(self) -> dict[str, Tensor]:
        """The teacher's heads and mask token, and the average scores."""
        tensors = {name: t for name, t in self.kept.teacher.state_dict().items() if not name.startswith("encoder.")}
        centres = {f"{name}_centre": getattr(self.kept, name).centre for name in ("dino", "ibot")}
        return {name: tensor.detach().cpu().contiguous() for name, tensor in {**tensors, **centres}.items()}


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


def as_backbone(weights: Weights, recipe: Recipe) -> Weights:
    """An encoder without classes.

    Raises:
        RecipeError: A network of clips.
    """
    if weights.config.is_video:
        raise RecipeError(
            f"DINOv2 trains networks of images; {weights.config.name!r} takes clips. Use mae, or a model of images."
        )
    weights = with_final_norm(to_num_classes(to_encoder(weights), 0))
    changes = {} if recipe.drop_path is None else {"drop_path": recipe.drop_path}
    return weights.with_card(config=dataclasses.replace(weights.config, head_dropout=0.0, **changes))


def crop_sizes(weights: Weights, recipe: Recipe) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width of large and small crops.

    Raises:
        RecipeError: A size that the network cannot take.
    """
    config, asked = weights.config, recipe.settings.local_size
    large: tuple[int, int] = config.input_size[-2:]  # type: ignore[assignment]
    if config.position == "grid":
        if asked is not None and (asked, asked) != large:
            raise RecipeError(
                f"Plain Hiera takes one size only, because its positions are of one; got local_size={asked} for input "
                f"of {large[0]}x{large[1]}. Leave local_size out: small crops then are smaller parts of the image at "
                "the same size. Or take a hieradet_... or hiera_abswin_... model."
            )
        return large, large
    small = (asked or 96, asked or 96)
    try:
        config.check_size(small)
    except InputError as error:
        raise RecipeError(f"local_size must be one that the network takes: {error}") from error
    return large, small


def student(weights: Weights, recipe: Recipe) -> SelfDistilled:
    """The encoder with fresh heads."""
    own, encoder = recipe.settings, to_module(weights)
    if own.drop_path_uniform:
        for block in encoder.blocks:  # type: ignore[union-attr]
            block.drop_path.rate = weights.config.drop_path
    width, shape = weights.config.embedding_size, {"layers": own.head_layers, "hidden": own.head_dim}
    dino = Head(width, own.prototypes, bottleneck=own.bottleneck, **shape)
    ibot = None
    if own.separate_heads:
        ibot = Head(width, _cell_prototypes(own), bottleneck=own.ibot_bottleneck or own.bottleneck, **shape)
    for head in filter(None, (dino, ibot)):
        head.checkpointed = recipe.checkpoint_blocks
    return SelfDistilled(encoder, dino, ibot)  # type: ignore[arg-type]
