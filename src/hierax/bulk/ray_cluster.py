"""A Ray cluster to run on: one that is there (RAY_ADDRESS, or a session that is open), or one of this machine's own."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import HieraxError, MissingExtraError

ANSWER_S = 30.0  # within which a cluster says what its nodes are
_REACH_S = 10.0  # within which its port opens
_CLOSING_S = 20.0
_STORE = 128 << 20  # bytes of shared memory beside the model
_CPUS_PER_ACTOR, _CPUS_PER_GPU = 4, 16  # at most, where nobody says
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Size:
    """How many actors, and what each of them has.

    Attributes:
        actors: How many.
        cpus: Logical processors of each.
        gpus: GPUs of each, or a part of one.
    """

    actors: int
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Node:
    """A machine of a cluster, as far as it matters here."""

    cpus: float
    gpus: float

    def holds(self, cpus: float, gpus: float) -> int:
        """How many actors of a size fit."""
        counts = [have // need for have, need in ((self.cpus, cpus), (self.gpus, gpus)) if need > 0]
        return int(min(counts, default=0))


def the_package() -> Any:
    """Ray, which takes a second to import.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray", "ray") from error
    return ray


@contextmanager
def connected(store_bytes: int) -> Iterator[tuple[Any, bool]]:
    """The package `ray` with a cluster behind it, and whether that is this run's own; then it is ended here.

    Args:
        store_bytes: Of what all actors are given.

    Raises:
        MissingExtraError: Ray is not installed.
        HieraxError: The cluster does not answer, or refuses.
    """
    with _quietly():
        ray = the_package()
        if ray.is_initialized():
            yield ray, False
            return
        address = os.environ.get("RAY_ADDRESS", "")
        folder = None if address else tempfile.mkdtemp(prefix="hierax-ray-")
        try:
            _begin(ray, address, folder, store_bytes)
            yield ray, folder is not None
        finally:
            with contextlib.suppress(HieraxError):
                in_time(ray.shutdown, _CLOSING_S)
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)


def _begin(ray: Any, address: str, folder: str | None, store_bytes: int) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if folder is None:
        _reach(address)
        options["address"] = address
    else:
        options |= {
            "address": "local",
            "include_dashboard": False,
            "_temp_dir": folder,
            "_node_ip_address": "127.0.0.1",
        }
        options["object_store_memory"] = _STORE + 2 * store_bytes
    try:
        with _handlers_kept():
            ray.init(**options)
    except Exception as error:  # ConnectionError, RuntimeError, ValueError, and what its services raise
        what = f"the one at {address!r} (RAY_ADDRESS)" if address else "one of this machine's own"
        remedy = "Start it with `ray start --head`, or unset RAY_ADDRESS" if address else "See `ray status`"
        raise HieraxError(
            f"A Ray cluster must let this run in; {what} did not: {first_line(error)}. {remedy}."
        ) from error


def _reach(address: str) -> None:
    """Refuse an address at which nobody listens, for which Ray would wait a minute."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_S).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise HieraxError(
            f"A Ray cluster must be reachable; nobody answers at {address!r} (RAY_ADDRESS): {error}. Start it with "
            "`ray start --head`, or unset RAY_ADDRESS to use this machine alone."
        ) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """No reports to anybody, and no talk but of errors; Ray's variables are as they were after the block."""
    before = {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
    os.environ.update({**_QUIET, **before})
    log = logging.getLogger("ray")
    level = log.level
    log.setLevel(max(level, logging.ERROR))
    try:
        with contextlib.redirect_stdout(_NotOfRay(sys.stdout)):
            yield
    finally:
        log.setLevel(level)
        for name in [name for name in os.environ if name.startswith("RAY_") and name not in before]:
            del os.environ[name]


class _NotOfRay:
    """stdout, but for what Ray's threads print there: it is no data, and is told with -v."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def flush(self) -> None:
        """As a stream does."""
        self._stream.flush()

    def write(self, text: str) -> int:
        """As a stream does."""
        if not threading.current_thread().name.startswith("ray_"):
            return int(self._stream.write(text))
        _log.debug("%s", text.strip())
        return len(text)


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself; who runs this has said already what it means."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


def nodes(ray: Any) -> list[Node]:
    """The machines of the cluster that are alive.

    Raises:
        HieraxError: The cluster does not answer.
    """
    found = in_time(ray.nodes, ANSWER_S)
    alive = [each.get("Resources", {}) for each in found if each.get("Alive")]
    return [Node(float(each.get("CPU", 0)), float(each.get("GPU", 0))) for each in alive]


def size_of(found: list[Node], actors: int | None, cpus: float | None, gpus: float | None, *, on_gpu: bool) -> Size:
    """The size of a run: what was asked for, and for the rest as much as the cluster has.

    Args:
        found: The cluster's machines.
        actors: As for `hierax.embed`, like the next two.
        cpus: Likewise.
        gpus: Likewise.
        on_gpu: Whether actors run the model on a GPU.
    """
    gpus = (1.0 if on_gpu else 0.0) if gpus is None else float(gpus)
    if cpus is None:
        able = [node for node in found if node.gpus >= gpus and node.cpus >= 1]
        shares = [node.cpus // max(node.gpus // gpus, 1) if gpus else node.cpus for node in able]
        most = _CPUS_PER_GPU if gpus else _CPUS_PER_ACTOR
        cpus = max(1.0, min([most, *shares]))
    return Size(actors or max(1, sum(node.holds(cpus, gpus) for node in found)), float(cpus), gpus)


def needs(found: list[Node], size: Size) -> str:
    """What to say where actors find no place."""
    have = ", ".join(f"{node.cpus:g} CPUs and {node.gpus:g} GPUs" for node in found[:5]) or "none"
    return (
        f"An actor needs {size.cpus:g} CPUs and {size.gpus:g} GPUs of one node; the nodes of the cluster have {have}. "
        "Lower --cpus-per-actor or --gpus-per-actor, or wait until other jobs are done."
    )


def in_time(call: Callable[[], T], seconds: float) -> T:
    """What a call to the cluster gives, which may never come back.

    Raises:
        HieraxError: It did not come back, or failed.
    """
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(call())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True, name="hierax-ray")
    thread.start()
    thread.join(seconds)
    if found:
        return found[0]
    why = first_line(failed[0]) if failed else f"it did not answer for {seconds:.0f} seconds"
    raise HieraxError(
        f"The Ray cluster must stay up while it is used; {why}. What was committed stays: start the same command again "
        "when the cluster is back."
    )


def first_line(error: BaseException) -> str:
    """What an exception of Ray says, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300].rstrip(".")
