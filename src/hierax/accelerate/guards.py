"""When the original must run: what a fast answer cannot give, or would pass over."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn
from torch._C import _len_torch_dispatch_stack
from torch._C._functorch import peek_interpreter_stack
from torch._jit_internal import is_scripting
from torch.jit._trace import is_tracing
from torch.nn.modules import module as hooked

from .peer import Original

_CAPTURING = "transformers.utils.output_capturing"


def traced() -> bool:
    """Whether something writes down what runs: a compiler, an exporter, a tracer."""
    return torch.compiler.is_compiling() or is_tracing() or is_scripting() or torch.onnx.is_in_onnx_export()


def check_call(x: Tensor) -> None:
    """Refuse an input that engines do not take.

    Raises:
        Original: Names what it is.
    """
    if type(x) not in (Tensor, nn.Parameter) or x.layout != torch.strided or not x.is_floating_point():
        raise Original(f"input that is a {type(x).__name__}")
    # Under vmap and its like, and for fake tensors, there is no address.
    if peek_interpreter_stack() is not None or _len_torch_dispatch_stack():
        raise Original("a transform or a mode of torch stands around the call")
    if x.numel() == 0:
        raise Original("an empty batch")


def check_inside(module: nn.Module, modules: list[nn.Module], x: Tensor) -> None:
    """Refuse where gradients may be asked for, and where something stands inside that must run.

    Raises:
        Original: Says what.
    """
    if torch.is_grad_enabled() and (x.requires_grad or any(_learns(each) for each in modules)):
        raise Original("gradients may be asked for. Call it inside torch.no_grad() or torch.inference_mode()")
    if hooked._global_forward_hooks or hooked._global_forward_pre_hooks:
        raise Original("hooks are registered for all modules")
    collecting = _collecting()
    for each in modules:
        if each.training:
            raise Original("it is in train mode. Call .eval()")
        if each is module:
            continue
        if "forward" in each.__dict__ or each._forward_pre_hooks or each._compiled_call_impl is not None:
            raise Original("something was put into a layer inside it")
        if each._forward_hooks and (collecting or any(not _captures(hook) for hook in each._forward_hooks.values())):
            raise Original("hooks on a layer inside it are asked for values")
        if each._parameters and next(iter(each._parameters.values())) is not None:
            weight = next(iter(each._parameters.values()))
            if weight is not None and weight.device != x.device:
                raise Original(f"pixels are on {x.device} and weights on {weight.device}")


def _learns(module: nn.Module) -> bool:
    return any(p is not None and p.requires_grad for p in module._parameters.values())


def _captures(hook: object) -> bool:
    """Whether a hook is one that transformers leaves behind for ever, idle unless values are collected."""
    return getattr(hook, "__name__", "") == "output_capturing_hook" and getattr(hook, "__module__", "") == _CAPTURING


def _collecting() -> bool:
    """Whether transformers collects inner values in this context."""
    capturing = sys.modules.get(_CAPTURING)
    if capturing is None:
        return False
    collector = getattr(capturing, "_active_collector", None)
    return collector is None or bool(collector.get())
