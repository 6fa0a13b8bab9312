"""Every peer, built with the same weights as ours where its names can be told from ours."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

import hierax
from hierax.model.encoder import Encoder

Ask = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Peer:
    """A runner and whether its numbers must equal ours."""

    name: str
    ask: Ask
    same_weights: bool = True


def installed(*names: str) -> bool:
    """Whether all these packages can be imported."""
    return all(importlib.util.find_spec(name) is not None for name in names)


def prepare() -> None:
    """Register the operator schemas that torchvision's Python needs where its compiled half is missing."""
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", schema)


def loud(module: nn.Module) -> nn.Module:
    """Seeded random weights under which a wrong network answers clearly wrong."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            draw = torch.randn(parameter.shape, generator=generator)
            if "pos_embed" in name:
                draw *= 0.5
            elif parameter.ndim > 1:
                draw /= parameter[0].numel() ** 0.5
            else:
                draw = (1 if "norm" in name and name.endswith("weight") else 0) + 0.2 * draw
            parameter.copy_(draw)
    return module.eval()


def written(encoder: Encoder, format: str) -> dict[str, Tensor]:
    """Our weights under another package's names, through our own converter."""
    import safetensors.torch

    from hierax.weights.load import from_module, write_weights
    from hierax.weights.state import Weights

    weights = from_module(encoder, Weights(config=encoder.config, tensors={}, preprocess=hierax.PreprocessSpec()))
    with TemporaryDirectory() as folder:
        path = write_weights(weights, Path(folder) / "out", to=format)
        file = next(iter(path.rglob("*.safetensors"))) if path.is_dir() else path
        if file.suffix == ".safetensors":
            return {key: value.clone() for key, value in safetensors.torch.load_file(file).items()}
        state = torch.load(file, weights_only=True)
    state = state.get("model_state", state.get("model", state.get("state", state)))
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def meta_hiera(encoder: Encoder) -> Peer:
    """Meta's hiera."""
    prepare()
    module = importlib.import_module("hiera").hiera_base_224(pretrained=False).eval()
    module.load_state_dict(written(encoder, "meta"), strict=False)

    def ask(x: Tensor) -> Tensor:
        return module.norm(module(x, return_intermediates=True)[1][-1].flatten(1, 2).mean(1))

    return Peer("meta", ask)


def timm_hiera(encoder: Encoder) -> Peer:
    """timm's hiera_base_224."""
    prepare()
    module = importlib.import_module("timm").create_model("hiera_base_224", num_classes=encoder.num_classes).eval()
    module.load_state_dict(written(encoder, "timm"))
    return Peer("timm", lambda x: module.forward_head(module.forward_features(x), pre_logits=True))


def transformers_hiera(encoder: Encoder) -> Peer:
    """transformers' HieraModel."""
    prepare()
    transformers = importlib.import_module("transformers")
    config = transformers.HieraConfig(
        embed_dim=96, depths=[2, 3, 16, 3], num_heads=[1, 2, 4, 8], num_labels=encoder.num_classes
    )
    module = transformers.HieraForImageClassification(config).eval()
    module.load_state_dict(written(encoder, "transformers"), strict=False)
    return Peer("transformers", lambda x: module.hiera(x).pooler_output)


def birder_net(name: str, encoder: Encoder, size: int) -> Peer:
    """A birder network."""
    prepare()
    registry = importlib.import_module("birder.model_registry").registry
    importlib.import_module("birder.net.hieradet")
    importlib.import_module("birder.net.hiera")
    module = registry.net_factory(name, encoder.num_classes, size=(size, size)).eval()
    module.load_state_dict(written(encoder, "birder"), strict=False)
    return Peer("birder", module.embedding)


def sam2_trunk(encoder: Encoder) -> Peer:
    """The trunk of SAM 2's image encoder."""
    prepare()
    config = encoder.config
    hieradet = importlib.import_module("sam2.modeling.backbones.hieradet")
    module = hieradet.Hiera(
        embed_dim=96,
        num_heads=1,
        stages=config.depths,
        global_att_blocks=config.global_blocks,
        window_spec=(8, 4, 14, 7),
        window_pos_embed_bkg_spatial_size=(7, 7),
    ).eval()
    state = {key.split("trunk.")[-1]: value for key, value in written(encoder, "sam2").items()}
    module.load_state_dict(state, strict=False)
    return Peer("sam2", lambda x: module(x)[-1].mean((2, 3)))


def compiled(peer: Peer, x: Tensor, how: str) -> Peer:
    """A peer through OpenVINO in float32, or through torch.compile with frozen weights."""
    program = torch.export.export(Asked(peer.ask), (x,), strict=False)
    if how == "compile":
        module = torch.compile(program.module(), options={"freezing": True})
        return Peer(f"{peer.name} compile", module)
    import openvino

    model = openvino.Core().compile_model(
        openvino.convert_model(program), "CPU", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    )
    return Peer(f"{peer.name} openvino", lambda x: torch.from_numpy(model(x.numpy())[0].copy()))


class Asked(nn.Module):
    """A peer's embedding as a module's forward, for exporters; its weights become constants."""

    def __init__(self, ask: Ask) -> None:
        super().__init__()
        self.ask = ask

    def forward(self, x: Tensor) -> Tensor:
        """The embedding."""
        return self.ask(x)
