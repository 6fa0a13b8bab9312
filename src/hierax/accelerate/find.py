"""The encoders in whatever a person holds: a network, a predictor, a pipeline."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import InputError
from . import seam
from .birder import BirderHiera, BirderHieraDet
from .meta import MetaHiera
from .peer import Peer
from .sam2 import Sam2Trunk
from .timm import TimmHiera, TimmHieraDet
from .transformers import TransformersHiera, TransformersHieraDet

PEERS: tuple[Peer, ...] = (
    Sam2Trunk(),
    TransformersHieraDet(),
    TransformersHiera(),
    TimmHieraDet(),
    TimmHiera(),
    BirderHieraDet(),
    BirderHiera(),
    MetaHiera(),
)
ACCEPTED = (
    "sam2's SAM2ImagePredictor, SAM2VideoPredictor, SAM2AutomaticMaskGenerator and SAM2Base; transformers' HieraModel, "
    "HieraForImageClassification, Sam2Model, Sam2VisionModel, Sam2VideoModel and pipelines; timm's hiera*, sam2_hiera* "
    "and hieradet*; birder's Hiera and HieraDet; Meta's hiera; and networks that hold one of these"
)


def peer_of(module: nn.Module) -> Peer | None:
    """The kind of encoder that a module is, by its parts."""
    return next((peer for peer in PEERS if peer.matches(module)), None)


def network_of(obj: Any) -> nn.Module | None:
    """The network that a model, predictor or pipeline is or holds; None for anything else."""
    for name in ("predictor", "model"):
        if not isinstance(obj, nn.Module):
            obj = getattr(obj, name, obj)
    return obj if isinstance(obj, nn.Module) else None


def encoders_in(obj: Any) -> dict[str, tuple[nn.Module, Peer]]:
    """Every encoder in an object, by its place in the network; what stands in two places counts once.

    Raises:
        InputError: None, or one that cannot be made faster; says why.
    """
    if type(obj).__module__.split(".")[0] == "hierax":
        raise InputError(
            f"accelerate takes models of other packages; got {type(obj).__name__} of hierax. Use hierax.optimize, or "
            "hierax.load(..., fast=True)."
        )
    network = network_of(obj)
    if network is None:
        raise InputError(f"accelerate takes {ACCEPTED}; got {type(obj).__name__}.")
    found: dict[str, tuple[nn.Module, Peer]] = {}
    for name, module in network.named_modules():
        inside = any(not place or name.startswith(f"{place}.") for place in found)
        peer = None if inside else peer_of(module)
        if peer is not None:
            found[name] = (module, peer)
    if not found:
        raise InputError(f"accelerate takes {ACCEPTED}; {type(obj).__name__} holds no such encoder.")
    for name, (module, peer) in found.items():
        if reason := peer.obstacle(module) or _reached_otherwise(network, name):
            raise InputError(f"This {peer.name} cannot be accelerated: {reason}.")
    return found


def _reached_otherwise(network: nn.Module, name: str) -> str | None:
    """Why exchanged methods of the module at that place would not be called."""
    parts = name.split(".") if name else []
    for depth in range(len(parts) + 1):
        module, place = network.get_submodule(".".join(parts[:depth])), ".".join(parts[:depth]) or "it"
        own = module.__dict__.get("forward")
        if module._compiled_call_impl is not None or hasattr(own, "_torchdynamo_orig_callable"):
            return f"{place} is compiled, and a compiler sees the original. Build it without compile_image_encoder"
        if depth == len(parts) and own is not None and seam.placed(module) is None:
            return f"{place} has a forward of its own. Remove it first"
    return None
