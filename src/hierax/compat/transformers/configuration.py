"""`HieraConfig`: transformers' description of a Hiera network, to and from ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from ...errors import CheckpointError, InputError, UnknownNameError, brief, nearest
from ...schema import Between, as_field, pick
from ...weights.card import Weights
from ...weights.formats.transformers_config import HieraFields, hiera_defaults, hiera_json, hiera_obstacle
from .configuration_base import OUTPUTS, PreTrainedConfig

if TYPE_CHECKING:
    from typing_extensions import Self

_Count = Annotated[int, Between(least=0, most=1 << 20)]
_DEFAULTS: dict[str, Any] = {**hiera_defaults(), **OUTPUTS, "problem_type": None, "dtype": None}
_TWINS = {"out_indices": "out_features", "out_features": "out_indices", "id2label": "label2id"}  # may contradict


@dataclass(frozen=True, kw_only=True)
class _Others:
    """Fields that say nothing of the network, and may contradict each other."""

    num_labels: _Count | None = None
    id2label: dict[str, str] | None = None
    label2id: dict[str, int | str] | None = None  # as text in transformers' own guides
    out_features: str | tuple[str, ...] | None = None
    out_indices: tuple[int, ...] | None = None


class HieraConfig(PreTrainedConfig):
    """Architecture, class names and default outputs of a Hiera model, with transformers' fields and defaults.

    Attributes:
        id2label: Class names by index; two placeholders by default, as there.
        out_features: Which stages a backbone returns.
        out_indices: The same as positions in `stage_names`.
    """

    model_type = "hiera"
    derived: ClassVar[tuple[str, ...]] = ("hidden_size", "stage_names", "model_type")

    def __init__(self, **options: Any) -> None:
        """Take any of transformers' fields by name; others are kept as attributes, as there.

        Raises:
            InputError: out_features and out_indices disagree, or are not in the order of the stages.
            UnknownNameError: A stage that does not exist.
        """
        options = {key: value for key, value in options.items() if key not in self.derived}
        pick(HieraFields, options, where="HieraConfig")
        said = pick(_Others, options, where="HieraConfig")
        for name in vars(said):
            options.pop(name, None)
        if "torch_dtype" in options:
            options.setdefault("dtype", options.pop("torch_dtype"))
        for name, value in {**_DEFAULTS, **options}.items():
            setattr(self, name, value)
        if isinstance(self.image_size, int):
            self.image_size = [self.image_size, self.image_size]
        self._set_labels(said.num_labels, said.id2label, said.label2id)
        self._set_stages(said.out_features, said.out_indices)

    @property
    def hidden_size(self) -> int:
        """Channels of the last stage."""
        return int(self.embed_dim * self.embed_dim_multiplier ** (len(self.depths) - 1))

    @property
    def stage_names(self) -> list[str]:
        """The patch embedding and each stage, "stem", "stage1", ..."""
        return ["stem", *(f"stage{number}" for number in range(1, len(self.depths) + 1))]

    @property
    def num_labels(self) -> int:
        """Classes of the head."""
        return len(self.id2label)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a field, and what says the same in other words."""
        if name == "num_labels":
            self._set_labels(as_field(_Others, name, value, where=name), None, None)
        elif name == "out_features":
            self._set_stages(value, None)
        elif name == "out_indices":
            self._set_stages(None, value)
        else:
            self.__dict__[name] = list(value) if isinstance(value, tuple) else value

    def _set_labels(self, count: int | None, names: Mapping[Any, str] | None, ids: Mapping[str, Any] | None) -> None:
        if names is None or (count is not None and count != len(names)):
            names = {index: f"LABEL_{index}" for index in range(2 if count is None else count)}
            ids = None
        if wrong := [index for index in names if not (str(index).isdecimal() and len(str(index)) < 10)]:
            raise InputError(f"id2label must number the classes from 0; got {brief(wrong[0])}.")
        if wrong := [index for index in (ids or {}).values() if not str(index).isdecimal()]:
            raise InputError(f"label2id must give the number of each class; got {brief(wrong[0])}.")
        self.id2label = {int(index): str(name) for index, name in names.items()}
        reverse = ids or {name: index for index, name in self.id2label.items()}
        self.label2id = {str(name): int(index) for name, index in reverse.items()}

    def _set_stages(self, names: Sequence[str] | None, places: Sequence[int] | None) -> None:
        stages = self.stage_names
        if places is not None:
            if any(not -len(stages) <= place < len(stages) for place in places):
                raise InputError(f"out_indices must be positions in {stages}; got {list(places)}.")
            from_places = [stages[place] for place in places]
            if names is not None and list(names) != from_places:
                raise InputError(f"out_features {list(names)} and out_indices {list(places)} name different stages.")
            names = from_places
        names = [stages[-1]] if names is None else [names] if isinstance(names, str) else list(names)
        for name in names:
            if name not in stages:
                raise UnknownNameError(f"out_features must be among {stages}; got {name!r}. {nearest(name, stages)}")
        ordered = [stage for stage in stages if stage in names]
        if names != ordered:
            raise InputError(f"out_features must be in the order of the stages, each once: {ordered}; got {names}.")
        self.__dict__.update(out_features=names, out_indices=[stages.index(name) for name in names])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data; `from_dict` inverts it."""
        return {**super().to_dict(), "id2label": {str(index): name for index, name in self.id2label.items()}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], **changes: Any) -> Self:
        """Read what `to_dict` or transformers wrote, with changes on top."""
        stale = {twin: None for name, twin in _TWINS.items() if name in changes}
        return cls(**{**data, **stale, **changes})

    @classmethod
    def of_weights(cls, weights: Weights) -> Self:
        """What the file's own config.json says, or our description of the network in their words.

        The licence and what else is known of the weights goes along in a field `hierax`, which any copy keeps.
        """
        written, facts = weights.raw.config if weights.raw is not None else {}, weights.card.facts
        if written.get("model_type") == cls.model_type and "embed_dim" in written:
            return cls.from_dict({**written, "hierax": facts})
        config = weights.config
        if problem := hiera_obstacle(config):
            raise CheckpointError(
                f"transformers' Hiera classes hold plain Hiera only; {config.name!r} is none: {problem}. "
                "Use hierax.load for it."
            )
        names = dict(enumerate(weights.labels)) if weights.labels else None
        return cls(**hiera_json(config), num_labels=config.num_classes or None, id2label=names, hierax=facts)
