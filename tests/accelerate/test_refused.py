"""What cannot be made faster is refused with the reason, and left exactly as it was."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import hierax
from hierax.errors import HieraxError, InputError, UnknownNameError

from ..members import tiny
from ..peers import TINY, peer
from .test_seam import graph

pytestmark = pytest.mark.parity


class Adapter(nn.Module):
    """A layer as peft wraps it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = layer
        self.lora_A = nn.ModuleDict({"default": nn.Linear(layer.in_features, 2, bias=False)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As before, until it is trained."""
        return self.base_layer(x)


Adapter.__module__ = "peft.tuners.lora.layer"


class LoraLinear(nn.Linear):
    """A layer as loralib subclasses it: the keys of a plain one."""


class Quantized(torch.Tensor):
    """A tensor as torchao subclasses it."""


def _layer(module: Any, layer: Callable[[nn.Linear], nn.Module]) -> None:
    block = next(m for m in module.modules() if hasattr(m, "mlp") and hasattr(m, "attn"))
    block.attn.proj = layer(block.attn.proj)


def _first(module: Any, change: Callable[[nn.Module], Any]) -> None:
    change(next(m for m in module.modules() if isinstance(m, nn.Linear)))


def _subclass(layer: nn.Module) -> None:
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Quantized), requires_grad=False)


def _int8(layer: nn.Module) -> None:
    layer.weight = nn.Parameter(torch.zeros_like(layer.weight, dtype=torch.int8), requires_grad=False)


def _loralib(layer: nn.Linear) -> nn.Module:
    other = LoraLinear(layer.in_features, layer.out_features)
    other.load_state_dict(layer.state_dict())
    return other


SPOILED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "peft": (lambda m: _layer(m, Adapter), "adapters.*merge_and_unload"),
    "loralib": (lambda m: _layer(m, _loralib), "adapters"),
    "dynamic int8": (
        lambda m: _layer(m, lambda layer: torch.ao.quantization.quantize_dynamic(nn.Sequential(layer))[0]),
        "quantized",
    ),
    "tensor subclass": (lambda m: _first(m, _subclass), "Quantized, no plain tensor"),
    "int8 weights": (lambda m: _first(m, _int8), "quantized"),
    "meta": (lambda m: m.to("meta"), "half loaded"),
    "half on meta": (lambda m: _first(m, lambda layer: layer.to("meta")), "half loaded"),
    "two types": (lambda m: _first(m, lambda layer: layer.half()), "one type and device"),
    "NaN": (lambda m: _first(m, lambda layer: layer.weight.data.fill_(float("nan"))), "NaN"),
    "parametrized": (lambda m: _first(m, parametrizations.weight_norm), "parametrizations"),
    "device_map": (lambda m: _first(m, lambda layer: setattr(layer, "_hf_hook", object())), "device_map"),
    "activation": (lambda m: _activation(m), "GELU"),
    "no bias": (lambda m: _first(m, lambda layer: setattr(layer, "bias", None)), "missing"),
    "norms differ": (
        lambda m: setattr(next(x for x in m.modules() if isinstance(x, nn.LayerNorm)), "eps", 1e-3),
        "epsilon",
    ),
    "double": (lambda m: m.double(), "float64"),
}


def _activation(module: Any) -> None:
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if "GELU" in type(child).__name__:
                setattr(parent, name, nn.GELU(approximate="tanh"))


PEERS = ("sam2", "transformers", "timm_plain", "birder_hieradet", "meta")
# Adapters and missing weights with every peer, the rest with one or another.
PAIRS = [(name, spoiled) for name in PEERS for spoiled in ("peft", "half on meta")]
PAIRS += [
    (PEERS[index % 5], spoiled) for index, spoiled in enumerate(SPOILED) if spoiled not in ("peft", "half on meta")
]


@pytest.mark.parametrize(("name", "spoiled"), PAIRS)
def test_spoiled__is_refused(name: str, spoiled: str) -> None:
    """An adapter passed over, or weights taken for whole that are not, would be a wrong answer that nobody sees."""
    module = TINY[name]().module
    change, reason = SPOILED[spoiled]
    change(module)
    was = graph(module)
    with pytest.raises(InputError, match="cannot be accelerated") as caught:
        hierax.accelerate(module, engine="torch", check=False)
    assert re.search(reason, str(caught.value)), caught.value
    assert graph(module) == was
    assert not hierax.is_accelerated(module)


@pytest.mark.parametrize("obj", [None, 3, "sam2_hiera_tiny", [nn.Linear(2, 2)], nn.Linear(2, 2), object()])
def test_others__are_refused_by_name(obj: Any) -> None:
    """A list, a path or a stranger: what is accepted is said."""
    with pytest.raises(InputError, match=rf"SAM2ImagePredictor.*{type(obj).__name__}"):
        hierax.accelerate(obj)
    assert not hierax.is_accelerated(obj)
    hierax.restore(obj)


def test_ours__have_doors_of_their_own() -> None:
    """`optimize` does that."""
    with pytest.raises(InputError, match=r"hierax\.optimize"):
        hierax.accelerate(tiny())
    with pytest.raises(InputError, match=r"hierax\.load"):
        hierax.accelerate(hierax.load())


def test_backbone__feeds_another_order() -> None:
    """transformers' HieraBackbone is another network on the same weights: its blocks see tokens in raster order."""
    transformers = peer("transformers")
    model = transformers.HieraBackbone(transformers.HieraConfig(embed_dim=16, depths=[1, 1, 1, 1], image_size=[64, 64]))
    with pytest.raises(InputError, match="holds no such encoder"):
        hierax.accelerate(model)


def test_options__are_checked(caplog: pytest.LogCaptureFixture) -> None:
    """An unknown engine or an illegal size leaves the model alone."""
    module = TINY["timm_plain"]().module
    wrong = {"engine": (UnknownNameError, "fast"), "input_size": (InputError, 33), "dtype": (HieraxError, "float3")}
    for already in (False, True):
        for option, (kind, value) in wrong.items():
            with pytest.raises(kind):
                hierax.accelerate(module, **{option: value})
        assert hierax.is_accelerated(module) == already
        hierax.accelerate(module, engine="torch", check=False)


def test_compiled_encoder__is_refused() -> None:
    """SAM 2's compile_image_encoder puts a compiled forward around the trunk: what it sees is the original."""
    module = nn.Module()
    module.trunk = TINY["sam2"]().module
    module.forward = torch.compile(lambda x: module.trunk(x), backend="eager")
    with pytest.raises(InputError, match="compile_image_encoder"):
        hierax.accelerate(module)
    other = TINY["sam2"]().module
    other.compile(backend="eager")
    with pytest.raises(InputError, match="compiled"):
        hierax.accelerate(other)
    own = TINY["sam2"]().module
    own.forward = lambda x: [x]
    with pytest.raises(InputError, match="forward of its own"):
        hierax.accelerate(own)
