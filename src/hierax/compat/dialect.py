"""State dicts under the names of the package that a module stands in for, in both directions."""

from __future__ import annotations

import contextlib
from typing import Any, ClassVar

from torch import nn

from ..errors import CheckpointError
from ..weights.rename import flat_name, to_ours, to_theirs


class ForeignNames(nn.Module):
    """A module whose `state_dict()` and `load_state_dict` use another package's names and layouts.

    Attributes:
        inner: Name of the submodule that holds our network.
        encoder: Our encoder, whose present config says how position tables are laid out.
    """

    inner: ClassVar[str]
    encoder: Any

    def __init__(self) -> None:
        super().__init__()
        self.register_state_dict_post_hook(_on_save)

    def spell(self, name: str) -> str:
        """Their name of one of our parameters."""
        raise NotImplementedError

    # A hook would hold on to the module that it was made for, which a shallow copy is not.
    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **options: Any) -> None:
        for name in getattr(self, self.inner).state_dict():
            theirs = prefix + self.spell(name)
            if theirs in state_dict:
                tensor = state_dict.pop(theirs)
                with contextlib.suppress(CheckpointError):  # what does not fit is left for torch to report
                    tensor = to_ours(flat_name(name), tensor, self.encoder.config)
                state_dict[f"{prefix}{self.inner}.{name}"] = tensor
        super()._load_from_state_dict(state_dict, prefix, *args, **options)


def _on_save(module: Any, state: dict[str, Any], prefix: str, _: Any) -> None:
    ours = f"{prefix}{module.inner}."
    for key in [key for key in state if key.startswith(ours)]:
        name = key.removeprefix(ours)
        state[prefix + module.spell(name)] = to_theirs(flat_name(name), state.pop(key), module.encoder.config)
