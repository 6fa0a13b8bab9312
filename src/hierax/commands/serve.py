"""The command that puts a model behind HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from .. import console
from ..errors import InputError
from ..serve.settings import Limits
from . import Exit, common
from .common import Device, Dtype, InputSize, Model


def serve(
    model: Model = None,
    store: Annotated[str | None, arg(help="A store of embeddings, which /search asks.")] = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: Device = "cpu",
    dtype: Dtype = None,
    engine: Annotated[str, arg(help="auto, torch, compile or openvino; none is the plain network.")] = "none",
    input_size: InputSize = None,
    batch_size: Annotated[int, arg(help="Most images that the model is given at a time.")] = 8,
    key_file: Path | None = None,
    allow_host: Annotated[tuple[str, ...], arg(metavar="NAME [NAME ...]")] = (),
    max_bytes: int = Limits.body_bytes,
    max_pixels: int = Limits.pixels,
    max_items: int = Limits.items,
    max_requests: int = Limits.requests,
    queue: int = Limits.queue,
    timeout: float = Limits.receive_s,
    notice: float = 0.0,
    drain: float = 30.0,
    ray: bool = False,
    replicas: int = 1,
    gpus: float = 0.0,
) -> int:
    """Answer requests over HTTP: classes, embeddings, feature maps, search.

    SIGTERM or Ctrl-C: not ready at once, then no new work, then what was accepted is answered; a second one ends the
    server at once.

    Args:
        host: Address to listen at; 0.0.0.0 is every one of this machine.
        port: 0 takes a free one.
        key_file: A file whose first line clients must send as `Authorization: Bearer KEY`; HIERAX_SERVE_KEY does the
            same.
        allow_host: Names under which a proxy sends others here; "*" is any. Without a key, a server that listens on
            this machine alone answers only under names of this machine, such as localhost.
        max_bytes: Of one request.
        max_pixels: Of one image.
        max_items: Images in one request.
        max_requests: Requests under way at a time; more are answered 429.
        queue: Images that wait for the model; more are answered 429.
        timeout: Seconds for a client to send a request.
        notice: Seconds from "not ready" to refusing new work, for a balancer to take notice.
        drain: Seconds for what was accepted to be answered once the server was asked to stop.
        ray: Serve from a Ray cluster (extra ray): this command deploys, watches, and takes it down again.
        replicas: Copies of the model on the cluster.
        gpus: Share of a GPU of each copy.
    """
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
        hosts=allow_host or None,
        notice_s=notice,
        drain_s=drain,
        limits=Limits(
            body_bytes=max_bytes,
            pixels=max_pixels,
            items=max_items,
            requests=max_requests,
            queue=queue,
            receive_s=timeout,
        ),
    )
    if not 0 <= port <= 65535:
        raise InputError(f"--port is a number from 0 to 65535; got {port}.")
    if ray and not port:
        raise InputError("On a Ray cluster --port must be a number of its own; got 0. Write e.g. 8000.")
    if ray and replicas < 1:
        raise InputError(f"--replicas is a number of at least 1; got {replicas}.")
    if not ray and (replicas != 1 or gpus):
        raise InputError("--replicas and --gpus are of a Ray cluster: pass --ray too.")
    if settings.key is None and host not in ("127.0.0.1", "::1", "localhost"):
        console.say(f"whoever reaches {host} is answered: no key is asked for (--key-file)")
    if ray:
        from ..serve.cluster import serve as deploy

        return Exit.OK if deploy(settings, host=host, port=port, replicas=replicas, gpus=gpus) else Exit.FAILURE
    from ..serve.run import serve as run

    return Exit.OK if run(settings, host=host, port=port) else Exit.FAILURE


def _key(path: Path | None) -> str | None:
    from ..serve.settings import KEY_VARIABLE

    if path is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--key-file must be a text file; {path}: {error}.") from error
    if not lines or not lines[0].strip():
        raise InputError(f"The first line of --key-file is the key; {path} has none.")
    return lines[0].strip()
