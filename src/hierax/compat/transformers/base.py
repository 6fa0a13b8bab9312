"""What all models share: loading, saving, and the ways of asking."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ...config import ModelConfig
from ...errors import CheckpointError, InputError
from ...model.encoder import Encoder
from ...model.precision import as_dtype
from ...weights.adapt import check_stated
from ...weights.card import Weights
from ...weights.files import write_json, write_safetensors
from ...weights.network import to_module
from ...weights.shapes import expected
from .configuration_base import CONFIG, PreTrainedConfig
from .options import Request, requested
from .outputs import ModelOutput

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger("hierax")
_SHARD = "5GB"  # transformers' own limit, below which it writes one file too


@dataclasses.dataclass
class LoadingInfo:
    """What became of the parameters, by transformers' names."""

    missing_keys: set[str] = dataclasses.field(default_factory=set)
    unexpected_keys: set[str] = dataclasses.field(default_factory=set)
    mismatched_keys: set[tuple[str, tuple[int, ...], tuple[int, ...]]] = dataclasses.field(default_factory=set)
    error_msgs: list[str] = dataclasses.field(default_factory=list)

    def inside(self, part: str) -> LoadingInfo:
        """The same of a part of a larger model."""
        return LoadingInfo(
            missing_keys={f"{part}.{name}" for name in self.missing_keys},
            unexpected_keys=self.unexpected_keys,
            mismatched_keys={(f"{part}.{name}", there, here) for name, there, here in self.mismatched_keys},
            error_msgs=self.error_msgs,
        )


class PreTrainedModel(nn.Module):
    """A network with transformers' config, parameter names and files.

    Attributes:
        config: transformers' description of the network.
        name_or_path: Where it was loaded from.
    """

    config_class: ClassVar[type[PreTrainedConfig]]
    main_input_name: ClassVar[str] = "pixel_values"
    constructor_options: ClassVar[tuple[str, ...]] = ()
    config: Any
    name_or_path: str = ""

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the parameters."""
        return next(self.parameters()).dtype

    @property
    def encoder(self) -> Encoder:
        """Our encoder, which does the work."""
        raise NotImplementedError

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: Mapping[str, Any] | None = None,
        *,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Trade compute for memory while training; there is one way to, so that its own options change nothing.

        Raises:
            InputError: Some of the blocks only, or activations elsewhere.
        """
        if every_n_layers != 1 or offload:
            raise InputError("Every block is checkpointed where it is. Leave every_n_layers and offload out.")
        self.encoder.checkpoint_blocks = True

    def activation_checkpointing_disable(self) -> None:
        """Keep what every block computes."""
        self.encoder.checkpoint_blocks = False

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        """`activation_checkpointing_enable`, by its older name."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **options)

    gradient_checkpointing_disable = activation_checkpointing_disable

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether compute is traded for memory."""
        return self.encoder.checkpoint_blocks

    def push_to_hub(self, *args: Any, **options: Any) -> None:
        """Refused.

        Raises:
            InputError: Says how to upload.
        """
        raise InputError("push_to_hub is not supported. Save the model, and upload: hf upload YOU/NAME FOLDER.")

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """How many numbers the model has; embeddings are those of words, of which there are none."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not only_trainable)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        config: PreTrainedConfig | dict[str, Any] | str | Path | None = None,
        **options: Any,
    ) -> Any:
        """Load a transformers folder, or any checkpoint that hierax knows and this class can hold, in eval mode.

        What the class has and the file lacks (a head, a decoder, a neck) is freshly initialised and said.

        Args:
            pretrained_model_name_or_path: Folder, file, catalogue name or hub id.
            config: Instead of the file's: a config, its dictionary, or where it lies.
            **options: `cache_dir`, `local_files_only`, `force_download`, `token`, `revision`, `dtype` or `torch_dtype`,
                `device_map` (one device), `use_safetensors`, `ignore_mismatched_sizes`, `output_loading_info` for a
                pair; options of the constructor; and any field of the config.

        Raises:
            UnknownNameError: No such name or option.
            CheckpointError: Broken, incomplete, or not of this architecture.
            InputError: An option that hierax cannot honour.
        """
        request, own = requested(options, cls.options())
        weights = request.weights(pretrained_model_name_or_path)
        model, info = cls.of_weights(weights, request, config, **own)
        model.name_or_path = str(pretrained_model_name_or_path)
        return (model, dataclasses.asdict(info)) if request.info else model

    @classmethod
    def options(cls) -> set[str]:
        """Names of what the constructor takes and of the config's fields."""
        return {*cls.constructor_options, *cls.config_class.fields(), *cls.config_class.extra_fields}

    @classmethod
    def of_weights(
        cls, weights: Weights, request: Request, config: Any = None, **options: Any
    ) -> tuple[Self, LoadingInfo]:
        """The model of weights that are in memory, in eval mode, and what became of them; options as `options` says."""
        own = {name: options.pop(name) for name in cls.constructor_options if name in options}
        if config is None and "image_size" in cls.options() and "image_size" not in options:
            check_stated(weights.config.input_size, option="image_size=")
        described = cls.config_class.of_weights(weights)
        if isinstance(config, (str, Path)):
            config = cls.config_class.from_pretrained(config)
        if config is not None:
            config = config if isinstance(config, dict) else config.to_dict()
            described = cls.config_class.from_dict({**config, "hierax": getattr(described, "hierax", {})})
        described.update(options)
        model, info = cls.build(weights, described, request.lenient, **own)
        wanted = request.dtype or described.dtype
        model = model.to(request.device, as_dtype(wanted) if wanted else None)
        model.config.update({"dtype": model.dtype})
        return model.eval(), info

    @classmethod
    def build(cls, weights: Weights, config: Any, lenient: bool, **own: Any) -> tuple[Self, LoadingInfo]:
        """The model with every parameter that the weights have for it, the rest fresh."""
        raise NotImplementedError

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        is_main_process: bool = True,
        safe_serialization: bool = True,
        max_shard_size: int | str = _SHARD,
        push_to_hub: bool = False,
    ) -> None:
        """Write a folder that transformers loads: config.json and model.safetensors.

        Args:
            save_directory: The folder.
            is_main_process: False writes nothing: of several processes one writes.
            safe_serialization: Pickles are not written; False is refused.
            max_shard_size: One file is written; a limit below its size is refused.
            push_to_hub: Refused; the folder can be uploaded.

        Raises:
            InputError: What is refused.
            CheckpointError: The folder cannot be written.
        """
        from huggingface_hub import split_torch_state_dict_into_shards

        if push_to_hub:
            self.push_to_hub()
        if not safe_serialization:
            raise InputError("hierax writes safetensors only, as pickles can run code. Leave safe_serialization out.")
        if not is_main_process:
            return
        folder, state = Path(save_directory), self.state_dict()
        if split_torch_state_dict_into_shards(state, max_shard_size=max_shard_size).is_sharded:
            raise InputError(f"One weights file is written, and it is larger than max_shard_size={max_shard_size!r}.")
        self.config.update({"dtype": self.dtype})
        write_safetensors(folder / "model.safetensors", state, {"format": "pt"})
        write_json(folder / CONFIG, {"architectures": [type(self).__name__], **self.config.to_dict()})

    def pixels(self, pixel_values: Tensor | None) -> Tensor:
        """The input, which must be there.

        Raises:
            InputError: It is not.
        """
        if pixel_values is None:
            raise InputError("pixel_values must be given, (b, 3, h, w) as the image processor makes them.")
        return pixel_values

    def returned(self, output: ModelOutput, return_dict: bool | None) -> Any:
        """The output, or a tuple of it."""
        keep = self.config.return_dict if return_dict is None else return_dict
        return output if keep else output.to_tuple()


def load_network(
    weights: Weights, target: ModelConfig, lenient: bool, spell: Any, **instead: Tensor
) -> tuple[nn.Module, LoadingInfo]:
    """The target network with every parameter that the weights have for it, the rest fresh.

    Args:
        weights: Of another head or decoder, maybe.
        target: The network.
        lenient: Make parameters of another shape fresh.
        spell: Names as transformers has them.
        **instead: What to put in the place of missing parameters, by the last part but one of our name.

    Raises:
        CheckpointError: A parameter of another shape.
    """
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
    tensors |= {key: instead[key] for key in missing if key in instead}
    info = LoadingInfo(
        missing_keys={spell(key) for key in missing},
        unexpected_keys={
            *weights.report.left_over,
            *(weights.names.get(key, key) for key in found if key not in shapes),
        },
        mismatched_keys={(spell(key), tuple(found[key].shape), shapes[key]) for key in unfit},
    )
    return to_module(dataclasses.replace(weights, tensors=tensors).with_card(config=target)), info
