"""The lines of Python by which each package loads what was written for it; tests run them as they stand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..config import ModelConfig
from .files import read_json
from .formats.birder import NAMES as BIRDER
from .formats.sam2 import TRUNK

# How transformers finds the class that a folder names.
_AUTO = {
    "HieraForImageClassification": "AutoModelForImageClassification",
    "HieraForPreTraining": "AutoModelForPreTraining",
    "HieraBackbone": "AutoBackbone",
}


def loading_lines(to: str, path: Path, config: ModelConfig) -> list[str]:
    """Lines that load a network in the package whose format it was written in.

    Args:
        to: The format.
        path: What was written, as a reader would name it.
        config: The network.
    """
    return _LINES[to](path, config)


def _hierax(path: Path, _config: ModelConfig) -> list[str]:
    return ["import hierax", f"predictor = hierax.load({str(path)!r})"]


def _transformers(path: Path, _config: ModelConfig) -> list[str]:
    auto = _AUTO.get(read_json(path / "config.json")["architectures"][0], "AutoModel")
    return [
        f"from transformers import AutoImageProcessor, {auto}",
        f"processor = AutoImageProcessor.from_pretrained({str(path)!r})",
        f"model = {auto}.from_pretrained({str(path)!r}).eval()",
    ]


def _timm(path: Path, _config: ModelConfig) -> list[str]:
    if path.is_dir():
        return ["import timm", f"model = timm.create_model({f'local-dir:{path}'!r}, pretrained=True).eval()"]
    return [
        "import json, timm",
        f"said = json.load(open({str(path.with_suffix('.json'))!r}))",
        "options = {'num_classes': said['num_classes'], **said.get('model_args', {})}",
        f"model = timm.create_model(said['architecture'], checkpoint_path={str(path)!r}, **options).eval()",
    ]


def _meta(path: Path, config: ModelConfig) -> list[str]:
    kind = "Hiera" if config.decoder is None else "MaskedAutoencoderHiera"
    if path.suffix == ".safetensors":
        beside = path.with_name(f"{'config' if path.stem == 'model' else path.stem}.json")
        return [
            "import hiera, json, safetensors.torch",
            f"model = hiera.{kind}(**json.load(open({str(beside)!r}))).eval()",
            f"model.load_state_dict(safetensors.torch.load_file({str(path)!r}))",
        ]
    return [
        "import hiera, torch",
        f"file = torch.load({str(path)!r}, weights_only=True)",
        f"model = hiera.{kind}(**file['config']).eval()",
        "model.load_state_dict(file['model_state'])",
    ]


def _sam2(path: Path, config: ModelConfig) -> list[str]:
    windows = tuple(window[0] for window in config.windows if isinstance(window, tuple))
    arguments = {
        "embed_dim": config.embed_dim,
        "num_heads": config.num_heads,
        "stages": config.depths,
        "global_att_blocks": config.global_blocks,
        "window_spec": windows,
        "window_pos_embed_bkg_spatial_size": config.position_size,
    }
    return [
        "import torch",
        "from sam2.modeling.backbones.hieradet import Hiera",
        f"model = Hiera({_keywords(arguments)}).eval()  # of a whole file build_sam2 loads all",
        f"state, trunk = torch.load({str(path)!r}, weights_only=True)['model'], {TRUNK!r}",
        "model.load_state_dict({k.removeprefix(trunk): v for k, v in state.items() if k.startswith(trunk)})",
    ]


def _birder(path: Path, config: ModelConfig) -> list[str]:
    """A file says all of its network but the class, which a name stands for."""
    name = "hiera_tiny" if config.position != "window" else "hiera_abswin_tiny"
    if config.name in BIRDER:  # of these the file may say no more than the name
        name = config.name.removeprefix("mae_hiera_")
    elif config.family == "hieradet":
        name = "hieradet_d_tiny" if None in config.windows else "hieradet_tiny"
    elif config.head == "attention":
        name = "hiera_abswin_base_plus_ap"
    if config.decoder is not None:
        size = tuple(config.input_size)
        return [
            "import birder, torch",
            "from birder.model_registry import registry",
            "from birder.net.mim.mae_hiera import MAE_Hiera",
            f"file = torch.load({str(path)!r}, weights_only=True)",
            f"encoder = registry.net_factory({name!r}, 0, config=file.get('encoder_config'), size={size})",
            f"model = MAE_Hiera(encoder, size={size}).eval()",
            "model.load_state_dict(file['state'])",
        ]
    bare = ", st=True" if path.suffix == ".safetensors" else ""
    return [
        "import torch",
        "from birder.common.fs_ops import load_model",
        f"model, info = load_model(torch.device('cpu'), {name!r}, path={str(path)!r}, inference=True{bare})",
    ]


def _keywords(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


_LINES: dict[str, Callable[[Path, ModelConfig], list[str]]] = {
    "hierax": _hierax,
    "transformers": _transformers,
    "timm": _timm,
    "meta": _meta,
    "sam2": _sam2,
    "birder": _birder,
}
