"""Devices, precision and processes: the one place that talks to accelerate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import MissingExtraError, RecipeError
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
            from accelerate import Accelerator
        except ImportError as error:
            raise MissingExtraError("train", "accelerate") from error
        _forget_last_run()
        self.precision = _precision(recipe)
        self.sharded = recipe.sharding == "fsdp2"
        options: dict[str, Any] = {"fsdp_plugin": _fsdp2()} if self.sharded else {}
        try:
            self.accelerator = Accelerator(
                cpu=_wanted(recipe) == "cpu",
                mixed_precision="no" if self.precision == "fp32" else self.precision,
                **options,
            )
        except (ValueError, RuntimeError) as error:
            raise RecipeError(
                f"device={recipe.device!r}, precision={recipe.precision!r}, sharding={recipe.sharding!r} must be "
                f"possible here: {str(error).splitlines()[0]}"
            ) from error
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.main = self.accelerator.is_main_process
        self.device: torch.device = self.accelerator.device
        if recipe.batch_size % (self.world * recipe.accumulate * recipe.repeats):
            raise RecipeError(
                f"batch_size must be a multiple of processes x accumulate x repeats = "
                f"{self.world * recipe.accumulate * recipe.repeats}; got {recipe.batch_size}."
            )

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Network and optimiser ready for steps."""
        module.to(self.device)
        prepared = self.accelerator.prepare(module, optimizer)
        return prepared[0], prepared[1]

    def sum(self, *numbers: float) -> list[float]:
        """Sums over all processes, in float64 where the device has it."""
        if self.world == 1:
            return list(numbers)
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        values = torch.tensor(numbers, dtype=dtype, device=self.device)
        torch.distributed.all_reduce(values)
        return values.tolist()

    def any(self, flag: bool) -> bool:
        """Whether it holds on any process."""
        return self.sum(float(flag))[0] > 0

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in order of rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Until all processes are here."""
        self.accelerator.wait_for_everyone()

    def norm(self, parameters: list[nn.Parameter], clip: float | None, optimizer: Any) -> float:
        """Gradient norm over everything, clipped if asked for."""
        if self.precision == "fp16":
            self.accelerator.unscale_gradients(optimizer)
        if clip is not None:
            norm: Any = self.accelerator.clip_grad_norm_(parameters, clip)
        else:
            grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
            norm = torch.nn.utils.get_total_norm(grads)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        return float(norm)

    def state(self, module: nn.Module) -> dict[str, Tensor]:
        """Whole parameters on the CPU, wherever they are kept."""
        if not self.sharded:
            return {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return get_model_state_dict(module, options=options)  # type: ignore[return-value]


def _wanted(recipe: Recipe) -> str:
    """The kind of device that the recipe asks for.

    Raises:
        RecipeError: It is not there.
    """
    mps = getattr(torch.backends, "mps", None)
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": bool(mps and mps.is_available())}
    kind = recipe.device.split(":")[0]
    if kind == "auto":
        return "cuda" if there["cuda"] else "mps" if there["mps"] else "cpu"
    if not there.get(kind, False):
        names = ", ".join(name for name, here in there.items() if here)
        raise RecipeError(f"device must be auto or one that is here ({names}); got {recipe.device!r}.")
    return kind


def _precision(recipe: Recipe) -> str:
    if recipe.precision != "auto":
        return recipe.precision
    native = _wanted(recipe) == "cuda" and torch.cuda.get_device_capability()[0] >= 8
    return "bf16" if native else "fp32"


def _fsdp2() -> Any:
    from accelerate import FullyShardedDataParallelPlugin

    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["Block"],
        state_dict_type="SHARDED_STATE_DICT",
    )


def _forget_last_run() -> None:
    """Accelerate keeps settings for the life of a process; a second run may want others."""
    from accelerate.state import AcceleratorState, PartialState

    AcceleratorState._reset_state(reset_partial_state=False)
    if not torch.distributed.is_initialized():
        PartialState._reset_state()
