"""What can be set of DINOv2; what the published code does differently from each other is here under a name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ..errors import RecipeError
from ..schema import Between, Natural, NonNegative, Positive, ProperShare, Share, conform
from .bounds import CollapseSettings
from .schedules import Counting

_Area = Annotated[float, Between(above=0, most=1)]
_Inner = Annotated[float, Between(above=0, below=1)]
_Temperature = Annotated[float, Between(above=0)]


@dataclass(frozen=True, kw_only=True)
class DINOv2Settings(CollapseSettings):
    """Keys of `[dinov2]`, those of its warnings among them.

    Attributes:
        local_crops: Small crops of an image.
        local_size: Their side in pixels, a multiple of 32; None is 96, or the input's own size for plain Hiera.
        global_scale: Area of a large crop over the image's, (smallest, largest).
        local_scale: Of a small one.
        flip: Probability of a horizontal flip.
        augmentation: What becomes of colours: "dinov2", "birder" or "none".
        mask_probability: Share of the large crops of which cells are hidden from the student.
        mask_ratio: Share of their cells that is hidden, (smallest, largest), or one number.
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
        if isinstance(self.mask_ratio, (int, float)):  # one ratio for all
            object.__setattr__(self, "mask_ratio", (self.mask_ratio, self.mask_ratio))
        conform(self, RecipeError)
        for key in ("mask_ratio", "global_scale", "local_scale"):
            smallest, largest = getattr(self, key)
            if smallest > largest:
                raise RecipeError(f"{key} must be (smallest, largest); got {(smallest, largest)}.")
