"""A Ray cluster to run on: one that is there (RAY_ADDRESS, or a session that is open), or one of this machine's own."""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import HieraxError, MissingExtraError

_CHECKED_S, _ASKED_S = 5.0, 15.0  # how often it is looked at, and asked what its nodes are
_ANSWER_S = 30.0  # within which it says so, also on a machine that is busy; together less than the minute of `check`
_REACH_S, _CONNECT_S = 10.0, 45.0  # within which its port opens, and it lets a run in
_CLOSING_S, _LOST_S = 20.0, 4.0  # for its end, in order and else
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


class Cluster:
    """A cluster that this process is connected to.

    Attributes:
        ray: The package.
        own: Whether it was begun for this run.
    """

    def __init__(self, ray: Any, *, own: bool) -> None:
        self.ray, self.own = ray, own
        self._places: list[tuple[str, int]] = []
        self._checked = self._answered = time.monotonic()

    def nodes(self) -> list[Node]:
        """The machines that are alive.

        Raises:
            HieraxError: The cluster does not answer.
        """
        found = in_time(self.ray.nodes, _ANSWER_S)
        self._answered = time.monotonic()
        alive = [each for each in found if each.get("Alive")]
        if not self._places:  # two processes without which Ray ends this one, and says nothing
            context = self.ray.get_runtime_context()
            host, _, port = context.gcs_address.rpartition(":")
            here = [each for each in alive if each.get("NodeID") == context.get_node_id()]
            self._places = [(each["NodeManagerAddress"], int(each["NodeManagerPort"])) for each in here]
            self._places.append((host.strip("[]"), int(port)))
        sizes = [each.get("Resources", {}) for each in alive]
        return [Node(float(each.get("CPU", 0)), float(each.get("GPU", 0))) for each in sizes]

    def check(self, *, now: bool = False) -> None:
        """Notice that the cluster is gone before Ray ends the process for it, which it does within a minute.

        Args:
            now: Also if it was checked a moment ago.

        Raises:
            HieraxError: It is.
        """
        moment = time.monotonic()
        if not now and moment - self._checked < _CHECKED_S:
            return
        self._checked = moment
        for place in self._places:
            in_time(functools.partial(_knock, place), _REACH_S)
        if moment - self._answered > _ASKED_S:
            self.nodes()


def _knock(place: tuple[str, int]) -> None:
    socket.create_connection(place, timeout=_REACH_S).close()


@contextmanager
def connected(store_bytes: int) -> Iterator[Cluster]:
    """A cluster; what was begun here is ended here.

    Args:
        store_bytes: Of what all actors are given.

    Raises:
        MissingExtraError: Ray is not installed.
        HieraxError: The cluster does not answer, or refuses.
    """
    with _quietly():
        ray = the_package()
        if ray.is_initialized():
            yield Cluster(ray, own=False)
            return
        address = os.environ.get("RAY_ADDRESS", "")
        folder = None if address else tempfile.mkdtemp(prefix="hierax-ray-")
        leave = functools.partial(in_time, ray.shutdown, _CLOSING_S)
        try:
            _begin(ray, address, folder, store_bytes)
            yield Cluster(ray, own=folder is not None)
        except LostError:
            leave = functools.partial(_leave_lost, ray)
            raise
        finally:
            with contextlib.suppress(HieraxError):
                leave()
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)


def _leave_lost(ray: Any) -> None:
    """End the connection to a cluster that is gone; if that waits for it, Python's end will not."""
    left = threading.Event()

    def run() -> None:
        with contextlib.suppress(Exception):
            ray.shutdown()
        left.set()

    atexit.unregister(ray.shutdown)
    threading.Thread(target=run, daemon=True, name="ray_leave").start()
    if not left.wait(_LOST_S):
        atexit.register(_end_without, left)


def _end_without(left: threading.Event) -> None:
    """Ray's threads, which still wait for the cluster, would crash when the process is taken down around them."""
    if not left.is_set():
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(1)


def _begin(ray: Any, address: str, folder: str | None, store_bytes: int) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    try:
        if folder is None:
            _reach(address)
            _bounded(functools.partial(ray.init, address=address, **options), _CONNECT_S)
            return
        # Else Ray keeps a token in the home directory, and clusters that are started later ask everybody for it.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        options |= {"address": "local", "_node_ip_address": "127.0.0.1", "include_dashboard": False}
        options |= {"_temp_dir": folder, "object_store_memory": _STORE + 2 * store_bytes}
        with _handlers_kept():
            ray.init(**options)
    except HieraxError:
        raise
    except Exception as error:  # ConnectionError, RuntimeError, ValueError, and what its services raise
        what = f"the one at {address!r} (RAY_ADDRESS)" if address else "one of this machine's own"
        remedy = "Unset RAY_ADDRESS, or see `ray status`; a cluster that asks for a token needs RAY_AUTH_MODE=token"
        remedy = remedy if address else "Start one with `ray start --head`, and name it in RAY_ADDRESS"
        raise HieraxError(f"A Ray cluster must let a run in; {what} did not: {first_line(error)}. {remedy}.") from error


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
    if cpus is None and gpus:  # no GPU is to be idle for want of processors
        shares = [node.cpus // max(node.gpus // gpus, 1) for node in found if node.gpus >= gpus]
        cpus = max(1.0, min([_CPUS_PER_GPU, *shares])) if shares else 1.0
    elif cpus is None:
        cpus = max(1.0, min(_CPUS_PER_ACTOR, max((node.cpus for node in found), default=1.0)))
    return Size(actors or max(1, sum(node.holds(cpus, gpus) for node in found)), float(cpus), gpus)


def needs(found: list[Node], size: Size) -> str:
    """What to say where actors find no place."""
    have = ", ".join(f"{node.cpus:g} CPUs and {node.gpus:g} GPUs" for node in found[:5]) or "none"
    return (
        f"An actor needs {size.cpus:g} CPUs and {size.gpus:g} GPUs of one node; the nodes of the cluster have {have}. "
        "Lower --cpus-per-actor or --gpus-per-actor, or wait until other jobs are done."
    )


class LostError(HieraxError):
    """A cluster that is gone."""


def in_time(call: Callable[[], T], seconds: float) -> T:
    """What a call to the cluster gives, which may never come back.

    Raises:
        LostError: It did not come back, or failed.
    """
    try:
        return _bounded(call, seconds)
    except Exception as error:
        raise LostError(
            f"The Ray cluster must stay up while it is used; {first_line(error)}. What was committed stays: start the "
            "same command again when the cluster is back."
        ) from error


def _bounded(call: Callable[[], T], seconds: float) -> T:
    """What a call gives, or raises; TimeoutError where it does not come back."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True, name="ray_call").start()
    try:
        return done.result(seconds)
    except (TimeoutError, FutureTimeout) as error:  # two classes before Python 3.11
        raise TimeoutError(str(error) or f"it did not answer for {seconds:.0f} seconds") from error


def first_line(error: BaseException) -> str:
    """What an exception of Ray says, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300].rstrip(".")
