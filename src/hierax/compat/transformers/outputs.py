"""What the models return: fields by attribute, by name and by position, as transformers' outputs have them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, ClassVar


class ModelOutput(OrderedDict[str, Any]):
    """Named results; a field that is None is an attribute, but no key and no position."""

    fields: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, fields: tuple[str, ...]) -> None:
        cls.fields = fields

    def __init__(self, *pairs: Any, **values: Any) -> None:
        given = {**dict(*pairs), **values}
        known = {name: given.get(name) for name in (*self.fields, *given)}
        super().__init__({name: value for name, value in known.items() if value is not None})

    def __getitem__(self, key: Any) -> Any:
        """By name, position or slice."""
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return super().__getitem__(name)
        if name in type(self).fields:
            return None
        raise AttributeError(f"{type(self).__name__} has no field {name!r}; it has {', '.join(type(self).fields)}.")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in type(self).fields and value is not None:
            self[name] = value
        else:
            super().__setattr__(name, value)

    def to_tuple(self) -> tuple[Any, ...]:
        """The values that are not None, in the order of the fields."""
        return tuple(self.values())


_STATES = ("hidden_states", "attentions", "reshaped_hidden_states")


class HieraModelOutput(
    ModelOutput, fields=("last_hidden_state", "pooler_output", "bool_masked_pos", "ids_restore", *_STATES)
):
    """Of `HieraModel`."""


class HieraForImageClassificationOutput(ModelOutput, fields=("loss", "logits", *_STATES)):
    """Of `HieraForImageClassification`."""


class HieraForPreTrainingOutput(ModelOutput, fields=("loss", "logits", "bool_masked_pos", "ids_restore", *_STATES)):
    """Of `HieraForPreTraining`."""


class BackboneOutput(ModelOutput, fields=("feature_maps", "hidden_states", "attentions")):
    """Of `HieraBackbone`."""


class Sam2HieraDetModelOutput(
    ModelOutput, fields=("last_hidden_state", "intermediate_hidden_states", "hidden_states", "attentions")
):
    """Of `Sam2HieraDetModel`."""


class Sam2VisionEncoderOutput(
    ModelOutput,
    fields=(
        *("last_hidden_state", "pooler_output", "hidden_states", "attentions"),
        *("fpn_hidden_states", "fpn_position_encoding"),
    ),
):
    """Of `Sam2VisionModel`."""
