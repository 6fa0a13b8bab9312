"""Where fetched files lie, who asks for them, and whether the network may be asked at all.

The environment says it for all; these say it for one call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class HubOptions:
    """What a caller wants otherwise than the environment.

    Attributes:
        cache: Folder of hub files instead of HF_HUB_CACHE; what belongs to them lies in its `hierax`.
        offline: Take what is cached and ask nobody, as HF_HUB_OFFLINE does.
        token: Instead of the user's own; empty sends none.
        again: Fetch what is cached already.
    """

    cache: Path | None = None
    offline: bool = False
    token: str | None = None
    again: bool = False


_CHOSEN: ContextVar[HubOptions] = ContextVar("hub_options", default=HubOptions())  # noqa: B039 - frozen


def chosen() -> HubOptions:
    """What the present call wants."""
    return _CHOSEN.get()


@contextlib.contextmanager
def hub_options(options: HubOptions) -> Iterator[None]:
    """Let everything fetched inside follow the options."""
    before = _CHOSEN.set(options)
    try:
        yield
    finally:
        _CHOSEN.reset(before)
