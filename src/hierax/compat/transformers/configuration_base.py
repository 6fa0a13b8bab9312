"""What the configs of all networks share: fields as attributes, JSON, files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import nearest
from ...weights.card import ModelCard, Weights
from ...weights.catalog import CatalogEntry
from ...weights.files import write_json
from ...weights.labels import class_names
from .options import Request, is_option, requested

if TYPE_CHECKING:
    from typing_extensions import Self

CONFIG = "config.json"
OUTPUTS = {"output_hidden_states": False, "output_attentions": False, "return_dict": True}


class PreTrainedConfig:
    """A network's description with transformers' fields, defaults and file.

    Attributes:
        dtype: Type of the parameters, None if nobody said.
    """

    model_type: ClassVar[str]
    derived: ClassVar[tuple[str, ...]] = ("model_type",)  # written, and never read
    dtype: Any

    def __init__(self, **options: Any) -> None:
        """Take any of transformers' fields by name."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        """Only reached for what was never set."""
        raise AttributeError(f"{type(self).__name__} has no {name!r}. {nearest(name, self.__dict__)}")

    def __repr__(self) -> str:
        """Class and JSON."""
        return f"{type(self).__name__} {self.to_json_string()}"

    @classmethod
    def fields(cls) -> set[str]:
        """Names of all fields."""
        return set(cls().to_dict())

    def update(self, options: Mapping[str, Any]) -> None:
        """Change several fields, what depends on them kept consistent."""
        self.__dict__.update(self.from_dict(self.to_dict(), **options).__dict__)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data; `from_dict` inverts it."""
        dtype = str(self.dtype).removeprefix("torch.") if self.dtype else None
        return {**self.__dict__, "dtype": dtype, **{name: getattr(self, name) for name in self.derived}}

    def to_json_string(self) -> str:
        """`to_dict` as indented JSON."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], **changes: Any) -> Self:
        """Read what `to_dict` or transformers wrote, with changes on top."""
        return cls(**{**data, **changes})

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Any:
        """The config of a folder, file, catalogue name or hub id, of which config.json alone is fetched if it will do.

        Of a published name the catalogue knows it, so that nothing is.

        Args:
            pretrained_model_name_or_path: The source.
            **options: `cache_dir`, `revision`, `token` and the like; `return_unused_kwargs` for a pair with what is
                no field; and changes to any field.

        Raises:
            UnknownNameError: No such name or option.
            CheckpointError: Not a network that this class could describe.
        """
        unused = options.pop("return_unused_kwargs", None)
        known = {*cls.fields(), *cls.extra_fields}
        apart = {
            name: options.pop(name) for name in list(options) if unused and name not in known and not is_option(name)
        }
        request, changes = requested(options, known)
        config = cls.found(pretrained_model_name_or_path, request)
        config.update(changes)
        return (config, apart) if unused else config

    extra_fields: ClassVar[tuple[str, ...]] = ("num_labels",)

    @classmethod
    def found(cls, source: str | Path, request: Request) -> Self:
        """The config of a source."""
        data = request.sidecar(source, CONFIG) or {}
        written = cls.written(data)
        if written is not None:
            return written
        entry = request.published(source)
        return cls.of_weights(as_weights(entry) if entry is not None else request.weights(source))

    @classmethod
    def written(cls, data: Mapping[str, Any]) -> Self | None:
        """The config that a config.json says in full; None where it says another or none."""
        return cls.from_dict(data) if data.get("model_type") == cls.model_type else None

    @classmethod
    def of_weights(cls, weights: Weights) -> Self:
        """What the file's own config.json says, or our description of the network in their words."""
        raise NotImplementedError

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write config.json, as transformers does."""
        write_json(Path(save_directory) / CONFIG, self.to_dict())


def as_weights(entry: CatalogEntry) -> Weights:
    """What the catalogue knows of published weights, without any."""
    card: ModelCard = entry
    return Weights(card=card, labels=list(class_names(entry.labels)) if entry.labels else None)
