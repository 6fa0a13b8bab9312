"""Rows of a source from the actors of a Ray cluster, in order; an actor that dies costs what it was at a second go.

The source stays here: chunks of its items go to actors, a few at a time, and come back as rows (decision 0015).
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from .. import __version__, console
from ..data.items import Item, is_there
from ..errors import HieraxError, InputError
from ..store.tables import Record
from .local import BatchSize
from .progress import Progress
from .ray_actor import Embedder, Greeting, Job, Rows
from .ray_cluster import Cluster, Size, connected, first_line, in_time, needs, size_of
from .worker import Made, record_of

if TYPE_CHECKING:
    from ..predictor import Predictor

_CHUNK_BYTES = 16 << 20  # of images that travel with their items
_IN_FLIGHT = 3  # chunks that an actor has: one at work, one being prepared, one on its way
_AHEAD = 64  # chunks that may be done before one that is not
_POLL_S, _TELL_S, _CLOSING_S = 5.0, 30.0, 4.0
_START_S = 600.0  # until the first actor is ready
_STUCK_S = 600.0  # after which an actor that answers nothing is ended
_DEATHS = 5  # actors, and two for each there is, that may die before any chunk is done
_ALONE = 2  # deaths of the actor that had nothing but a chunk, after which it is the chunk's fault


@dataclass(eq=False)
class _Chunk:
    """Items in order, and their rows once these are there."""

    items: list[Item]
    deaths: int = 0
    rows: Rows | None = None


@dataclass(eq=False)
class _Actor:
    """An actor, what it was asked, and since when it has answered nothing."""

    handle: Any
    asked: dict[Any, _Chunk | None] = field(default_factory=dict)  # None: to begin
    greeting: Greeting | None = None
    since: float = field(default_factory=time.monotonic)

    @property
    def ready(self) -> bool:
        return self.greeting is not None

    @property
    def node(self) -> str:
        return "a node" if self.greeting is None else self.greeting.node

    @property
    def suspects(self) -> bool:
        """Whether it has a chunk that others died of."""
        return any(chunk is not None and chunk.deaths for chunk in self.asked.values())


def ray_rows(
    items: Iterable[Item],
    job: Job,
    predictor: Predictor,
    *,
    size: tuple[int | None, float | None, float | None],
    progress: Progress,
) -> Iterator[tuple[Record, Item]]:
    """A row for each item, in order, with the item.

    Args:
        items: Of a source; drawn from only as far ahead as is needed.
        job: What actors do.
        predictor: The model, which is sent to them.
        size: How many actors, CPUs and GPUs of each; None for as many as the cluster has.
        progress: Told how long each part takes.

    Raises:
        MissingExtraError: Ray is not installed.
        HieraxError: The cluster cannot be used, or is lost.
    """
    if predictor.device.type != "cpu":
        job = replace(job, device=predictor.device.type)
        predictor = predictor.with_model(copy.deepcopy(predictor.model).cpu())
    weights = sum(each.numel() * each.element_size() for each in predictor.model.state_dict().values())
    with connected(weights) as cluster:
        found = cluster.nodes()
        wanted = size_of(found, *size, on_gpu=not job.device.startswith("cpu"))
        if cluster.own and not any(node.holds(wanted.cpus, wanted.gpus) for node in found):  # another cluster may grow
            raise InputError(needs(found, wanted))
        workers = max(1, int(wanted.cpus)) if job.workers is None else job.workers
        job, progress.workers = replace(job, workers=workers), max(1, workers)
        fleet = _Fleet(cluster, job, predictor, wanted, progress)
        with contextlib.closing(fleet):
            yield from fleet.run(items)


class _Fleet:
    def __init__(self, cluster: Cluster, job: Job, predictor: Predictor, size: Size, progress: Progress) -> None:
        self._cluster, self._ray = cluster, cluster.ray
        self._job, self._size, self._told = job, size, progress
        self._predictor = self._ray.put(predictor)
        self._class = self._ray.remote(Embedder).options(
            num_cpus=size.cpus, num_gpus=size.gpus, max_restarts=0, max_task_retries=0, max_concurrency=_IN_FLIGHT + 1
        )
        self._chunk = BatchSize(job.batch_size, job.device.partition(":")[0]).together
        self._order: list[_Chunk] = []
        self._again: list[_Chunk] = []
        self._deaths, self._heard, self._told_at = 0, time.monotonic(), 0.0
        self._actors = [self._started() for _ in range(size.actors)]

    def close(self) -> None:
        """End the actors."""
        with contextlib.suppress(HieraxError):
            in_time(lambda: [self._ray.kill(actor.handle) for actor in self._actors], _CLOSING_S)
        self._actors.clear()

    def run(self, items: Iterable[Item]) -> Iterator[tuple[Record, Item]]:
        chunks, more = _chunks(items, self._chunk), True
        while True:
            while actor := self._idle():
                chunk = self._again.pop(0) if self._again else None
                if chunk is None and more and len(self._order) < _AHEAD + _IN_FLIGHT * len(self._actors):
                    chunk = next(chunks, None)
                    more = chunk is not None
                    self._order.extend([chunk] if chunk is not None else [])
                if chunk is None:
                    break
                self._give(actor, chunk)
            if not (self._order or more):
                return
            if not self._order or (done := self._order[0].rows) is None:
                self._collect()
                continue
            yield from zip(done.records, self._order.pop(0).items, strict=True)

    def _started(self) -> _Actor:
        actor = _Actor(self._class.remote(self._job, self._predictor))
        actor.asked[actor.handle.begin.remote()] = None
        return actor

    def _idle(self) -> _Actor | None:
        """An actor that takes one more chunk; one that others died of it has for itself."""
        ready = [actor for actor in self._actors if actor.ready and not actor.suspects]
        most = 1 if self._again and self._again[0].deaths else _IN_FLIGHT
        actor = min(ready, key=lambda actor: len(actor.asked), default=None)
        return actor if actor is not None and len(actor.asked) < most else None

    def _give(self, actor: _Actor, chunk: _Chunk) -> None:
        if not actor.asked:
            actor.since = time.monotonic()
        actor.asked[actor.handle.rows.remote(chunk.items)] = chunk

    def _collect(self) -> None:
        """Wait until something comes, and take it in."""
        asked = {ref: actor for actor in self._actors for ref in actor.asked}
        ready, _ = self._ray.wait(list(asked), num_returns=1, timeout=_POLL_S)
        self._told.show()
        self._cluster.check()
        for ref in ready:
            self._heard = asked[ref].since = time.monotonic()
            self._take(asked[ref], ref)
        if not ready:
            self._look()

    def _take(self, actor: _Actor, ref: Any) -> None:
        errors = self._ray.exceptions
        try:
            answer = self._ray.get(ref, timeout=_STUCK_S)
        except errors.RayTaskError as error:
            if isinstance(error.cause, HieraxError):
                raise error.cause from None
            why = f"{type(error.cause).__name__}: {first_line(error.cause)}"
            if actor.asked[ref] is None:
                raise HieraxError(
                    f"An actor must start; it could not: {why}. hierax must be installed on every node."
                ) from error
            self._lost(actor, f"{actor.node}: {why}")
        except errors.RayError as error:
            self._lost(actor, first_line(error))
        else:
            chunk = actor.asked.pop(ref)
            if chunk is None:
                self._greet(actor, answer)
            else:
                self._deaths = 0
                self._check_reach(actor, chunk, answer)
                chunk.rows = answer
                for part, seconds in answer.seconds.items():
                    self._told.seconds[part] += seconds / len(self._actors)

    def _greet(self, actor: _Actor, greeting: Greeting) -> None:
        if greeting.version != __version__:
            raise HieraxError(
                f"All nodes must have the same version of hierax; this one has {__version__}, {greeting.node} has "
                f"{greeting.version}. Install one version everywhere."
            )
        actor.greeting = greeting

    def _check_reach(self, actor: _Actor, chunk: _Chunk, rows: Rows) -> None:
        for item in (chunk.items[index] for index in rows.missing):
            if is_there(item.place):
                raise InputError(
                    f"Inputs must be where every node can read them; {item.name!r} is on this machine, and not on "
                    f"{actor.node}. Name a shared disk by the same path everywhere, tar shards on the web, or a place "
                    "that fsspec has a driver for."
                )

    def _lost(self, actor: _Actor, why: str) -> None:
        """Put another actor in the place of one; what that was at is tried again, or given up."""
        self._cluster.check(now=True)
        with contextlib.suppress(Exception):
            self._ray.kill(actor.handle)
        self._actors.remove(actor)
        self._deaths += 1
        if self._deaths > _DEATHS + 2 * self._size.actors:
            raise HieraxError(
                f"The actors of a run must stay alive; {self._deaths} died before any gave an answer, the last one: "
                f"{why}. `ray logs` says more; give each more memory, or start fewer (--actors)."
            )
        for chunk in filter(None, actor.asked.values()):
            alone = chunk.deaths > 0
            chunk.deaths += 1
            if alone and len(chunk.items) > 1:
                parts = [_Chunk([item], deaths=1) for item in chunk.items]
                at = self._order.index(chunk)
                self._order[at : at + 1] = parts
                self._again += parts
            elif chunk.deaths > _ALONE:
                rule = "An image must be embedded in the memory that there is"
                reason = f"{rule}; the actor that had {chunk.items[0].name!r} ended: {why}."
                chunk.rows, self._deaths = Rows([record_of(chunk.items[0], Made(error=reason), None)]), 0
            else:
                self._again.append(chunk)
        self._again.sort(key=lambda chunk: (bool(chunk.deaths), chunk.items[0].id))
        self._actors.append(self._started())

    def _look(self) -> None:
        """Nothing came for a while: find out why, and do not wait for ever."""
        now = time.monotonic()
        found = self._cluster.nodes()
        if not any(actor.ready for actor in self._actors):
            if now - self._heard > _START_S:
                raise HieraxError(needs(found, self._size))
            if now - max(self._heard, self._told_at) > _TELL_S:
                self._told_at = now
                console.say(f"waiting for actors. {needs(found, self._size)}")
        for actor in list(self._actors):
            if actor.ready and actor.asked and now - actor.since > _STUCK_S:
                self._lost(actor, f"it answered nothing for {_STUCK_S:.0f} seconds")


def _chunks(items: Iterable[Item], count: int) -> Iterator[_Chunk]:
    """Items by the chunk, fewer where their bytes travel with them."""
    found: list[Item] = []
    held = 0
    for item in chain(items):
        found.append(item)
        held += item.weight
        if len(found) >= count or held >= _CHUNK_BYTES:
            yield _Chunk(found)
            found, held = [], 0
    if found:
        yield _Chunk(found)
