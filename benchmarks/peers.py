"""Every peer, built with the same weights as ours, as it is and through compilers."""

from __future__ import annotations

import copy
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import hierax
from hierax.model.encoder import Encoder

COMPILERS = ("openvino", "onnxruntime", "compile")
Runner = Callable[[], Tensor]


class Peer(nn.Module):
    """Another package's network as a function from pixels to embeddings, so that exporters see its weights."""

    def __init__(self, module: nn.Module, answer: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.module, self.answer = module.eval(), answer

    def forward(self, x: Tensor) -> Tensor:
        """The embedding."""
        return self.answer(self.module, x)


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


def written(encoder: nn.Module, format: str) -> dict[str, Tensor]:
    """Our weights under another package's names, through our own converter."""
    import safetensors.torch

    from hierax.weights.card import ModelCard, Weights
    from hierax.weights.network import from_module
    from hierax.weights.write import write_weights

    weights = from_module(encoder, Weights(card=ModelCard(config=encoder.config, preprocess=hierax.PreprocessSpec())))
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
    module = importlib.import_module("hiera").hiera_base_224(pretrained=False)
    module.load_state_dict(written(encoder, "meta"), strict=False)
    return Peer(module, lambda m, x: m.norm(m(x, return_intermediates=True)[1][-1].flatten(1, 2).mean(1)))


def timm_hiera(encoder: Encoder, name: str = "hiera_base_224") -> Peer:
    """timm's network of that name."""
    prepare()
    module = importlib.import_module("timm").create_model(name, num_classes=encoder.num_classes)
    module.load_state_dict(written(encoder, "timm"))
    return Peer(module, lambda m, x: m.forward_head(m.forward_features(x), pre_logits=True))


def transformers_hiera(encoder: Encoder) -> Peer:
    """transformers' HieraModel."""
    prepare()
    transformers = importlib.import_module("transformers")
    heads = [encoder.config.num_heads * 2**stage for stage in range(4)]
    config = transformers.HieraConfig(
        embed_dim=encoder.config.embed_dim,
        depths=list(encoder.config.depths),
        num_heads=heads,
        num_labels=encoder.num_classes,
    )
    module = transformers.HieraForImageClassification(config)
    module.load_state_dict(written(encoder, "transformers"), strict=False)
    return Peer(module, lambda m, x: m.hiera(x).pooler_output)


def birder_net(name: str, encoder: Encoder, size: int) -> Peer:
    """A birder network."""
    prepare()
    registry = importlib.import_module("birder.model_registry").registry
    importlib.import_module("birder.net.hieradet")
    importlib.import_module("birder.net.hiera")
    module = registry.net_factory(name, encoder.num_classes, size=(size, size))
    module.load_state_dict(written(encoder, "birder"), strict=False)
    return Peer(module, lambda m, x: m.embedding(x))


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
    )
    state = {key.split("trunk.")[-1]: value for key, value in written(encoder, "sam2").items()}
    module.load_state_dict(state, strict=False)
    return Peer(module, lambda m, x: m(x)[-1].mean((2, 3)))


class RankFour(nn.Module):
    """A network whose attention has four axes: torch's ONNX converter refuses Meta's and timm's five."""

    def __init__(self, peer: nn.Module) -> None:
        super().__init__()
        self.peer = peer

    def forward(self, x: Tensor) -> Tensor:
        """The same numbers."""
        with _Flattened():
            return self.peer(x)


class _Flattened(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if function is F.scaled_dot_product_attention and len(args) == 3 and args[0].ndim == 5:
            return function(*(part.flatten(0, 1) for part in args), **kwargs).unflatten(0, args[0].shape[:2])
        return function(*args, **kwargs)


def eager(peer: nn.Module, x: Tensor, dtype: torch.dtype) -> Runner:
    """A network as its package runs it."""
    peer, x = cast(peer, dtype), x.to(dtype)
    return lambda: peer(x)


def compiled(peer: nn.Module, x: Tensor, dtype: torch.dtype, how: str) -> Runner:
    """A network through one of `COMPILERS`, on as many threads as torch has."""
    return {"openvino": _openvino, "onnxruntime": _onnxruntime, "compile": _compile}[how](peer, x, dtype)


def cast(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module itself in float32, else a copy; other runners go on using the original."""
    return module if dtype == torch.float32 else copy.deepcopy(module).to(dtype)


def _compile(peer: nn.Module, x: Tensor, dtype: torch.dtype) -> Runner:
    """torch.compile of the exported graph (no breaks) with frozen weights."""
    x = x.to(dtype)
    program = torch.compile(_exported(cast(peer, dtype), x).module(), dynamic=False)
    with torch._inductor.config.patch(freezing=True), torch.inference_mode():  # as an option it would do nothing
        program(x)
    return lambda: program(x)


def _openvino(peer: nn.Module, x: Tensor, dtype: torch.dtype) -> Runner:
    """OpenVINO; in bfloat16 it casts the float32 graph itself."""
    import openvino

    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    model = openvino.Core().compile_model(openvino.convert_model(_exported(peer, x)), "CPU", hints)
    pixels = x.numpy()
    return lambda: torch.from_numpy(model(pixels)[0].copy())


def _onnxruntime(peer: nn.Module, x: Tensor, dtype: torch.dtype) -> Runner:
    """ONNX Runtime's CPU provider on torch's own export."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    x = x.to(dtype)
    with TemporaryDirectory() as folder:
        path = str(Path(folder) / "peer.onnx")
        with torch.no_grad():
            torch.onnx.export(RankFour(cast(peer, dtype)), (x,), path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: torch.from_numpy(session.run(None, feed)[0])


def _exported(peer: nn.Module, x: Tensor) -> torch.export.ExportedProgram:
    with torch.no_grad():
        return torch.export.export(peer, (x,), strict=False)
