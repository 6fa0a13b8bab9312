"""Devices, precision and processes: the one place that talks to accelerate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import MissingExtraError, RecipeError
from ..model.across import whole
from .recipe import Recipe


class Devices:
    """This process among those of a run.

    Attributes:
        rank: Number of this process.
        world: How many there are.
        main: Whether this one writes files and talks.
        sharded: Whether weights and optimiser are spread over the processes.
        precision: "fp32", "bf16" or "fp16".
        device: Where tensors go.
    """

    def __init__(self, recipe: Recipe) -> None:
        try:
            from accelerate import Accelerator, FullyShardedDataParallelPlugin
            from accelerate.state import AcceleratorState, PartialState
            from accelerate.utils import patch_environment
        except ImportError as error:
            raise MissingExtraError("train", "accelerate") from error
        # Accelerate keeps settings for the life of a process; a second run may want others.
        AcceleratorState._reset_state(reset_partial_state=False)
        if not torch.distributed.is_initialized():
            PartialState._reset_state()
        device = wanted(recipe.device)
        self.precision = recipe.precision
        if self.precision == "auto":
            native = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8
            self.precision = "bf16" if native else "fp32"
        self.sharded = recipe.sharding == "fsdp2"
        plugin = None
        if self.sharded:
            wrap = {"auto_wrap_policy": "transformer_based_wrap", "transformer_cls_names_to_wrap": ["Block"]}
            plugin = FullyShardedDataParallelPlugin(fsdp_version=2, state_dict_type="SHARDED_STATE_DICT", **wrap)
        # A device with an index is taken from the environment alone.
        placed = {} if device.index is None else {"ACCELERATE_TORCH_DEVICE": device}
        try:
            with patch_environment(**placed):
                precision = "no" if self.precision == "fp32" else self.precision
                self.accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=precision, fsdp_plugin=plugin)
        except (ValueError, RuntimeError) as error:
            raise RecipeError(
                f"device={recipe.device!r}, precision={recipe.precision!r}, sharding={recipe.sharding!r} must be "
                f"possible here: {str(error).splitlines()[0]}"
            ) from error
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.main = self.accelerator.is_main_process
        self.device: torch.device = self.accelerator.device
        if self.world > 1 and device.index is not None:
            raise RecipeError(
                f"device must be without a number where each of {self.world} processes takes its own; "
                f"got {recipe.device!r}."
            )

    def check(self, recipe: Recipe) -> None:
        """Refuse a batch that cannot be shared out evenly.

        Raises:
            RecipeError: It is no multiple of the parts.
        """
        parts = self.world * recipe.accumulate * recipe.repeats
        if recipe.batch_size % parts:
            raise RecipeError(
                f"batch_size must be a multiple of processes x accumulate x repeats = {parts}; got {recipe.batch_size}."
            )

    def sums(self, numbers: Sequence[float | Tensor], alike: Float[Tensor, " n"]) -> list[float]:
        """Each number summed over all processes, and those that are alike on all: one reduction, one wait for a device.

        They may lie on the host or the device, and are summed in float64 where the device has it.
        """
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        own = torch.stack([torch.as_tensor(n, dtype=dtype).to(self.device, non_blocking=True) for n in numbers])
        if self.world > 1:
            torch.distributed.all_reduce(own)
        return torch.cat([own, alike.to(own)]).tolist()

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in order of rank."""
        from accelerate.utils import gather_object

        return gather_object([value])

    def norms(self, scopes: Sequence[list[Tensor]], optimizer: Any) -> Float[Tensor, " scopes"]:
        """Norm of the gradients of each scope together, on the device."""
        if self.precision == "fp16":
            self.accelerator.unscale_gradients(optimizer)
        return torch.stack([whole(torch.nn.utils.get_total_norm(grads)).to(self.device) for grads in scopes])

    def state(self, module: nn.Module) -> dict[str, Tensor]:
        """Whole parameters on the CPU, wherever they are kept."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return get_model_state_dict(module, options=options)  # type: ignore[return-value]

    def load(self, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave on the main process; the others' tensors do not count."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=self.world > 1)
        set_model_state_dict(module, dict(tensors), options=options)


def wanted(name: str) -> torch.device:
    """The device that a recipe asks for, with its index if it names one.

    Raises:
        RecipeError: It is not there.
    """
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if counts[kind]))
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or (device.index or 0) >= counts.get(device.type, 0):
        there = ", ".join(f"{kind}:{count - 1}" if count > 1 else kind for kind, count in counts.items() if count)
        raise RecipeError(f"device must be auto or one that is here (up to {there}); got {name!r}.")
    return device
