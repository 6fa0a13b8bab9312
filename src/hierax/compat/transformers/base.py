"""What the four models share: loading, saving, and the size rule."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ...config import ModelConfig
from ...errors import CheckpointError, InputError, UnknownNameError, nearest
from ...model.encoder import Encoder
from ...model.init import build
from ...model.precision import as_dtype
from ...registry import find_weights
from ...weights.adapt import check_stated
from ...weights.card import Weights
from ...weights.files import write_json, write_safetensors
from ...weights.formats.transformers import ENCODER_OUTER, HIERA
from ...weights.network import to_module
from ...weights.rename import flat_name
from ...weights.shapes import expected
from ..dialect import ForeignNames
from .configuration import HieraConfig
from .outputs import ModelOutput

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger("hierax")
# Options of transformers that change nothing here: how a file is read, and which kernel runs.
_WITHOUT_EFFECT = ("low_cpu_mem_usage", "trust_remote_code", "use_safetensors", "attn_implementation", "weights_only")
_ENVIRONMENT = {
    "cache_dir": "HF_HUB_CACHE", "token": "HF_TOKEN", "use_auth_token": "HF_TOKEN", "proxies": "HTTPS_PROXY",
    "local_files_only": "HF_HUB_OFFLINE", "mirror": "HF_ENDPOINT",
}  # fmt: skip


class HieraPreTrainedModel(ForeignNames):
    """A Hiera network with transformers' config, parameter names and files.

    Attributes:
        config: transformers' description of the network.
        network: Our encoder or masked autoencoder, which does the work.
    """

    inner: ClassVar[str] = "network"
    base_model_prefix: ClassVar[str] = "hiera"
    main_input_name: ClassVar[str] = "pixel_values"
    inner_prefix: ClassVar[str] = ""
    constructor_options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: HieraConfig, *, network: nn.Module | None = None, **options: Any) -> None:
        super().__init__()
        self.config = config
        self.network = build(self.architecture(config, **options)) if network is None else network
        self.name_or_path = ""

    @property
    def encoder(self) -> Encoder:
        """Our encoder, inside a masked autoencoder too."""
        return getattr(self.network, "encoder", self.network)  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the parameters."""
        return next(self.parameters()).dtype

    def num_parameters(self, only_trainable: bool = False) -> int:
        """How many numbers the model has."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not only_trainable)

    def get_input_embeddings(self) -> nn.Module:
        """The patch embedding."""
        return self.encoder.patch_embed

    def spell(self, name: str) -> str:
        """Name that transformers gives to one of our parameters."""
        key = flat_name(name)
        return (self.inner_prefix if key.startswith(ENCODER_OUTER) else "") + HIERA.spell(key, self.config.depths)

    @classmethod
    def architecture(cls, config: HieraConfig) -> ModelConfig:
        """Our architecture of this class with this config; a class takes options of its constructor beside it."""
        raise NotImplementedError

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Self:
        """Load a transformers folder, or any checkpoint of plain Hiera that hierax knows, in eval mode.

        What the class has and the file lacks (a head, a decoder) is freshly initialised and said.

        Args:
            source: Folder, file, catalogue name or hub id.
            **options: `config`, `revision`, `dtype` or `torch_dtype`, `device_map` (one device),
                `ignore_mismatched_sizes`, options of the constructor, and any field of the config.

        Raises:
            UnknownNameError: No such name or option.
            CheckpointError: Broken, incomplete, or not of this architecture.
            InputError: An option that hierax cannot honour.
        """
        config, revision, device = (options.pop(name, None) for name in ("config", "revision", "device_map"))
        dtype = options.pop("dtype", options.pop("torch_dtype", None))
        if isinstance(device, dict):
            raise InputError(
                "device_map must be one device, such as 'cpu' or 'cuda'; a map per layer is not supported."
            )
        lenient = options.pop("ignore_mismatched_sizes", False)
        own = {name: options.pop(name) for name in cls.constructor_options if name in options}
        _check_options(options)
        weights = find_weights(source, revision=revision)
        if config is None and "image_size" not in options:
            check_stated(weights.config.input_size, option="image_size=")
        described = HieraConfig.of_weights(weights)
        config = described if config is None else HieraConfig.from_dict(config.to_dict(), hierax=described.hierax)
        config.update({key: value for key, value in options.items() if key not in _WITHOUT_EFFECT})
        network = _load(weights, cls.architecture(config, **own), config, lenient)
        wanted = config.dtype if dtype in (None, "auto") else dtype
        model = cls(config, network=network, **own)
        model.restore(weights)
        model.name_or_path = str(source)
        model = model.to(None if device == "auto" else device, as_dtype(wanted) if wanted else None)
        config.update({"dtype": model.dtype})
        return model.eval()

    def restore(self, weights: Weights) -> None:
        """Load what the class has beside our network; nothing, for most."""

    def save_pretrained(self, directory: str | Path) -> None:
        """Write a folder that transformers loads: config.json and model.safetensors."""
        folder = Path(directory)
        self.config.update({"dtype": self.dtype})
        write_safetensors(folder / "model.safetensors", self.state_dict())
        write_json(folder / "config.json", {"architectures": [type(self).__name__], **self.config.to_dict()})

    def check_size(self, pixel_values: Tensor | None, interpolate: bool | None) -> Tensor:
        """Refuse no input, and another size than the config's unless asked to interpolate.

        Raises:
            InputError: Says which size is wanted, or which option allows any.
        """
        if pixel_values is None:
            raise InputError("pixel_values must be given, (b, 3, h, w) as the image processor makes them.")
        if not interpolate and tuple(pixel_values.shape[-2:]) != tuple(self.config.image_size):
            raise InputError(
                f"Images must be {self.config.image_size} (height, width) as in the config; got "
                f"{list(pixel_values.shape[-2:])}. Pass interpolate_pos_encoding=True for any multiple of 32."
            )
        return pixel_values

    def returned(self, output: ModelOutput, return_dict: bool | None) -> Any:
        """The output, or a tuple of it."""
        keep = self.config.return_dict if return_dict is None else return_dict
        return output if keep else output.to_tuple()


def _check_options(options: dict[str, Any]) -> None:
    """Refuse what would otherwise be ignored in silence."""
    known = HieraConfig().to_dict()
    for name in options:
        if name in _ENVIRONMENT:
            raise InputError(f"{name}= is not supported here; set the environment variable {_ENVIRONMENT[name]}.")
        if name not in known and name not in (*_WITHOUT_EFFECT, "num_labels"):
            raise UnknownNameError(f"Unknown option {name!r}. {nearest(name, known)}")


def _load(weights: Weights, target: ModelConfig, config: HieraConfig, lenient: bool) -> nn.Module:
    """The target network with every parameter that the weights have for it, the rest fresh."""
    shapes, found = expected(target), weights.tensors
    tensors = {key: found[key] for key, shape in shapes.items() if key in found and tuple(found[key].shape) == shape}
    missing = [key for key in shapes if key not in found]
    unfit = [key for key in shapes if key in found and key not in tensors]
    mismatched = [f"{key} {tuple(found[key].shape)} for {shapes[key]}" for key in unfit]
    if mismatched and not lenient:
        raise CheckpointError(
            f"{weights.card.name!r} does not fit the config: {', '.join(mismatched)}. "
            "Leave the config as it is, or pass ignore_mismatched_sizes=True for fresh parameters."
        )
    if missing or mismatched:
        log.warning("%s: freshly initialised: %s.", weights.card.name, ", ".join([*missing, *mismatched][:6]))
    if "norm.weight" in missing and target.head == "pool_norm":
        # Quirk(transformers): what a checkpoint lacks gets its own initialisation, also the pooler's norm.
        tensors["norm.weight"] = torch.full(shapes["norm.weight"], float(config.layer_norm_init))
        tensors["norm.bias"] = torch.full(shapes["norm.bias"], float(config.initializer_range))
    return to_module(dataclasses.replace(weights, tensors=tensors).with_card(config=target))
