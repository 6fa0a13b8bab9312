"""The command that puts a model behind HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from .. import console
from ..errors import InputError
from . import Exit, common
from .common import Device, Dtype, InputSize, Model

_KEY = "HIERAX_SERVE_KEY"


def serve(
    model: Model = None,
    store: Annotated[str | None, arg(help="A store of embeddings, which /search asks.")] = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: Device = "cpu",
    dtype: Dtype = None,
    engine: Annotated[
        str, arg(help="A fast engine: auto, torch, compile or openvino; none is the plain network.")
    ] = "none",
    input_size: InputSize = None,
    batch_size: Annotated[int, arg(help="Most images that the model is given at a time.")] = 8,
    key_file: Path | None = None,
) -> int:
    """Answer requests over HTTP: classes, embeddings, feature maps, search.

    Args:
        host: Address to listen at; 0.0.0.0 is every one of this machine.
        port: 0 takes a free one.
        key_file: A file whose first line clients must send as `Authorization: Bearer KEY`; HIERAX_SERVE_KEY does the
            same.
    """
    from ..serve.run import serve as run
    from ..serve.settings import Settings

    settings = Settings(
        model=model,
        store=store,
        device=device,
        dtype=dtype,
        engine=engine,
        input_size=None if input_size is None else common.sides(input_size),
        batch_size=batch_size,
        key=_key(key_file),
    )
    if settings.key is None and host not in ("127.0.0.1", "::1", "localhost"):
        console.say(f"whoever reaches {host} is answered: no key is asked for (--key-file)")
    return Exit.OK if run(settings, host=host, port=port) else Exit.FAILURE


def _key(path: Path | None) -> str | None:
    if path is None:
        return os.environ.get(_KEY) or None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--key-file must be a text file; {path}: {error}.") from error
    if not lines or not lines[0].strip():
        raise InputError(f"The first line of --key-file is the key; {path} has none.")
    return lines[0].strip()
