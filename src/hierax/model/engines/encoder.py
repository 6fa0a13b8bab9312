"""The encoder behind the fast door: an `Encoder` whose stages run on windows that stay split.

Everything else (heads, pooling, names, state dict, errors) is inherited, so both doors answer alike.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..encoder import Encoder
from .blocks import FastBlock
from .products import Packed, Plain, Traced, best_kind
from .schedule import Run, schedule
from .threads import spread

# The MLP's hidden layer and the qkv of as many tokens stay in the caches; fewer rows leave BLAS idle.
HIDDEN_BYTES = 6_000_000
FEWEST_ROWS = 784

Ordered = tuple[Float[Tensor, "b tokens c"], Run]


class FastEncoder(Encoder):
    """An encoder for inference: the numbers of the readable one within rounding, sooner.

    Its parameters share memory with the model that it was made from; weights are folded again when they changed,
    moved or were cast. Outputs carry no gradient unless the input asks for one: then, in train mode, under autocast
    and with `visible`, the readable encoder's own path runs.

    Attributes:
        engine: Which engine runs: "torch", "compile" or "openvino".
        choice: One line that says what runs.
    """

    engine = "torch"

    def __init__(self, model: Encoder) -> None:
        with torch.device("meta"):
            super().__init__(model.config)
            self.set_num_classes(model.num_classes)
        self.load_state_dict(model.state_dict(), assign=True)
        for ours, theirs in zip(self.blocks, model.blocks, strict=True):
            ours.window, ours.q_stride = theirs.window, theirs.q_stride
        self.eval()
        self.kind: type[Plain] | type[Packed] | type[Traced] | None = None
        self._state: tuple = ()
        self._fast: list[FastBlock] = []
        self._tables: dict[tuple[int, ...], Tensor] = {}
        self._schedules: dict[tuple[int, ...], tuple[Run, ...]] = {}

    @property
    def choice(self) -> str:
        """What runs, in words."""
        parameter = next(self.parameters())
        kind = "" if self.kind is None else f", {self.kind.__name__.lower()} products"
        return f"engine {self.engine}, {str(parameter.dtype).removeprefix('torch.')} on {parameter.device}{kind}"

    def stages(
        self,
        x: Float[Tensor, "b 3 *pixels"],
        *,
        visible: Int[Tensor, "b n"] | None = None,
        last: int | None = None,
    ) -> list[Float[Tensor, "b *grid c"]]:
        """Token grids at the end of each stage; see `Encoder.stages`."""
        if visible is not None or self._differentiable(x):
            return super().stages(x, visible=visible, last=last)
        self.begin(x)
        with torch.no_grad():
            return self.run_stages(x, len(self.stage_ends) - 1 if last is None else last)

    def embedding(self, x: Float[Tensor, "b 3 *pixels"]) -> Float[Tensor, "b c"]:
        """Pooled and normed vector; pooling takes tokens in any order, so none are put back."""
        if self._differentiable(x):
            return super().embedding(x)
        self.begin(x)
        with torch.no_grad():
            return self.run_embedding(x)

    def begin(self, x: Tensor) -> None:
        """Refuse what `Encoder.embed_tokens` refuses, before an engine sees it, and see that the weights are ready."""
        if x.ndim != len(self.input_size) + 2 or x.shape[1] != self.config.in_channels:
            super().embed_tokens(x)
        self.config.check_size(tuple(x.shape[2:]))
        self.prepare()

    def run_stages(self, x: Float[Tensor, "b 3 *pixels"], last: int) -> list[Float[Tensor, "b *grid c"]]:
        """What the engine does for `stages`."""
        parts = spread(lambda part: [_raster(*done) for done in self.ordered_stages(part, last)], x)
        return parts[0] if len(parts) == 1 else [torch.cat(maps) for maps in zip(*parts, strict=True)]

    def run_embedding(self, x: Float[Tensor, "b 3 *pixels"]) -> Float[Tensor, "b c"]:
        """What the engine does for `embedding`."""
        last = len(self.stage_ends) - 1
        parts = spread(lambda part: self.pool(self.ordered_stages(part, last, maps=False)[-1][0]), x)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def position(self, grid: tuple[int, ...]) -> Float[Tensor, "1 *grid c"]:
        """Position vectors of a token grid, resized once per grid."""
        if torch.is_grad_enabled():
            return super().position(grid)
        if grid in self._tables:
            return self._tables[grid]
        with torch.inference_mode(False), torch.no_grad():
            self._tables[grid] = super().position(grid).contiguous()
        return self._tables[grid]

    def ordered_stages(self, x: Float[Tensor, "b 3 *pixels"], last: int, *, maps: bool = True) -> list[Ordered]:
        """Tokens at the end of each stage and the run that left them; without `maps`, only the last ones are kept."""
        channels_last = torch.channels_last_3d if self.config.is_video else torch.channels_last
        tokens = self.embed_tokens(x.contiguous(memory_format=channels_last))
        grid = tuple(tokens.shape[1:-1])
        tokens = tokens.flatten(1, -2)
        found: list[Ordered] = []
        for run in self.schedule(grid):
            if len(found) > last:
                break
            shared = bool(found) and found[-1][0] is tokens and maps
            tokens = self._run(run, tokens, keep=shared)
            if run.ends_stage:
                found = [*found, (tokens, run)] if maps else [(tokens, run)] * (len(found) + 1)
        return found

    def schedule(self, grid: tuple[int, ...]) -> tuple[Run, ...]:
        """The runs of blocks for a token grid, worked out once."""
        if grid not in self._schedules:
            self._schedules[grid] = schedule(list(self.blocks), self.stage_ends, grid)  # type: ignore[arg-type]
        return self._schedules[grid]

    def _run(self, run: Run, x: Float[Tensor, "b tokens c"], *, keep: bool) -> Float[Tensor, "b pooled d"]:
        """A run of blocks over every item; x is overwritten unless it must be kept."""
        blocks = self._fast[slice(*run.blocks)]
        b = x.shape[0]
        if run.move is not None:
            x, keep = x.index_select(1, run.move.to(x.device)), False
        items = x.reshape(b * run.items, -1, x.shape[-1])  # (n, tokens, c)
        if keep and not blocks[0].widens and items.data_ptr() == x.data_ptr():
            items = items.clone()
        rows = self._rows(blocks[-1], x)
        parts = []
        for part in [items] if rows is None else items.split(max(1, rows // items.shape[1])):
            layout = run.layout
            for block in blocks:
                part = block(part, layout, rows)
                if block.q_stride is not None:
                    layout = layout.pooled(block.q_stride)
            parts.append(part)
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).reshape(b, -1, parts[0].shape[-1])

    def _rows(self, block: FastBlock, x: Tensor) -> int | None:
        """How many tokens to push through a block at a time; None is all of them."""
        if self.kind is Traced or x.device.type != "cpu":
            return None
        return max(FEWEST_ROWS, HIDDEN_BYTES // (block.hidden * x.element_size()))

    def prepare(self) -> None:
        """Fold and fuse the weights, again if they changed, moved or were cast."""
        parameters = list(self.parameters())
        first = parameters[0]
        versions = sum(p._version for p in parameters if not p.is_inference())
        state = (first.data_ptr(), first.dtype, first.device, versions)
        if state == self._state:
            return
        with torch.inference_mode(False), torch.no_grad():
            self.kind = self.kind or best_kind(first.dtype, first.device.type)
            self._fast = [FastBlock(block, self.kind) for block in self.blocks]  # type: ignore[arg-type]
        self._tables.clear()
        self._state = state

    def _differentiable(self, x: Tensor) -> bool:
        autocast = torch.is_autocast_enabled(x.device.type)
        return self.training or autocast or (torch.is_grad_enabled() and x.requires_grad)


def _raster(tokens: Float[Tensor, "b tokens c"], run: Run) -> Float[Tensor, "b *grid c"]:
    """Tokens as a grid, after the run that left them."""
    if run.back is not None:
        tokens = tokens.index_select(1, run.back.to(tokens.device))
    return tokens.unflatten(1, run.whole.grid)
