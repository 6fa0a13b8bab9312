"""Commands over stores of embeddings."""

from __future__ import annotations

from typing import Annotated

from tyro.conf import Positional, arg

from .. import console
from . import Exit


def merge(
    stores: Annotated[Positional[tuple[str, ...]], arg(help="Stores of one model.", help_behavior_hint="(required)")],
    output: Annotated[str, arg(aliases=["-o"], metavar="OUT")],
) -> int:
    """Join stores of embeddings, such as those of the shares of one source, into one.

    Shares (`hierax embed --shard 1/4` to 4/4) become what one run would have written; one that is missing, unfinished,
    or there twice is refused. Other stores are put one after another.

    Args:
        output: A folder that does not exist yet.
    """
    from ..store.merge import merge as merged

    store = merged(stores, output)
    console.say(f"{store.path}: {len(store)} rows, {store.errors} of them errors, of {len(stores)} stores")
    return Exit.OK
