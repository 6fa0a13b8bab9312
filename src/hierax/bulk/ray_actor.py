"""What runs on the nodes of a Ray cluster: an actor that makes rows of items, by the pipeline of one machine."""

from __future__ import annotations

import contextlib
import os
import platform
import queue
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..data.items import Item, is_there
from ..net.address import is_address
from ..store.tables import Record
from .progress import Progress

if TYPE_CHECKING:
    from ..predictor import Predictor
    from .embed import Options


@dataclass(frozen=True)
class Job:
    """What every actor of a run has to know, beside the model.

    Attributes:
        columns: As for `hierax.embed`, like all of these.
        dtype: Of the vectors.
        normalize: Whether vectors have length 1.
        exact: Whether large JPEGs are decoded whole.
        engine: Fast engine, "none" for the network as it is.
        device: Where an actor runs the model.
        batch_size: Images at a time.
        workers: Processes of each actor that read and decode; 0 for threads, None for one on each of its processors.
        folder: Where relative paths begin.
        environment: Variables that the run heeds.
    """

    columns: tuple[str, ...]
    dtype: str
    normalize: bool
    exact: bool
    engine: str
    device: str
    batch_size: int | str
    workers: int | None
    folder: str
    environment: Mapping[str, str]

    @classmethod
    def of(cls, options: Options, *, folder: str) -> Job:
        """What the options of a run ask for."""
        same = ("dtype", "normalize", "exact", "engine", "device", "batch_size", "workers")
        environment = {name: value for name, value in os.environ.items() if name.startswith("HIERAX_")}
        chosen = {name: getattr(options, name) for name in same}
        columns = (options.columns,) if isinstance(options.columns, str) else tuple(options.columns)
        return cls(columns, folder=folder, environment=environment, **chosen)


@dataclass(frozen=True)
class Greeting:
    """What an actor says once it is ready.

    Attributes:
        node: The machine it is on.
        process: Its number there.
        version: Of hierax there.
    """

    node: str
    process: int
    version: str


@dataclass
class Rows:
    """What became of a chunk.

    Attributes:
        records: One for each item, in order.
        missing: Positions in the chunk of files that are not there.
        seconds: By part of the work, as `Progress` counts them.
    """

    records: list[Record] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


class _Chunk:
    """Items that are asked for together, and where their rows are awaited."""

    def __init__(self, items: list[Item]) -> None:
        self.items, self.rows = items, Rows()
        self.done: Future[Rows] = Future()


class _Feed:
    """The items of the chunks that have come; it ends where there are no more, and goes on when there are."""

    def __init__(self, waiting: queue.SimpleQueue[_Chunk], first: _Chunk) -> None:
        self._waiting, self._items = waiting, deque(first.items)
        self.under_way = deque([first])

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        if not self._items:
            with contextlib.suppress(queue.Empty):
                self.under_way.append(self._waiting.get_nowait())
                self._items.extend(self.under_way[-1].items)
        if not self._items:
            raise StopIteration
        return self._items.popleft()

    def ends(self, item: Item) -> bool:
        """Whether a chunk ends with an item: its batches are then those of a run without chunks."""
        return item is self.under_way[0].items[-1]


class Embedder:
    """The model, and the processes that prepare its inputs, on one node.

    Chunks may be asked for before others are answered: their items are prepared while the model works.

    Args:
        job: What to do.
        predictor: What makes vectors, on the processor.
    """

    def __init__(self, job: Job, predictor: Predictor) -> None:
        self._job, self._predictor = job, predictor
        self._waiting: queue.SimpleQueue[_Chunk] = queue.SimpleQueue()

    def begin(self) -> Greeting:
        """Make ready what rows need.

        Raises:
            HieraxError: The device, or the engine, is not there.
        """
        from .. import __version__
        from ..registry import usable_device
        from .worker import in_engine

        job = self._job
        os.environ.update(job.environment)
        with contextlib.suppress(OSError):  # where the folder is not there, its files are not: `missing` tells
            os.chdir(job.folder)
        predictor, device = self._predictor, usable_device(job.device)
        if predictor.device.type != device.type:
            predictor = predictor.with_model(predictor.model.to(device))
        self._predictor = in_engine(predictor, job.engine)
        threading.Thread(target=self._work, daemon=True, name="hierax-embed").start()
        return Greeting(platform.node(), os.getpid(), __version__)

    def rows(self, items: list[Item]) -> Rows:
        """The rows of a chunk.

        Raises:
            HieraxError: The device's memory holds no image with the model.
        """
        chunk = _Chunk(items)
        self._waiting.put(chunk)
        return chunk.done.result()

    def _work(self) -> None:
        """Answer chunk by chunk, without a pause as long as others wait."""
        from .local import BatchSize, local_rows
        from .worker import Columns, InputMaker

        job, predictor = self._job, self._predictor
        make = InputMaker.of(predictor, exact=job.exact)
        columns = Columns(predictor, job.columns, dtype=job.dtype, normalize=job.normalize)
        size, told = BatchSize(job.batch_size, predictor.device.type), Progress()
        while True:
            feed = _Feed(self._waiting, self._waiting.get())
            how: dict[str, Any] = {"batch_size": size, "workers": job.workers or 0, "progress": told, "ends": feed.ends}
            try:
                for record, item in local_rows(feed, make, columns, **how):
                    _take(feed.under_way, record, item, told)
            except Exception as error:
                for chunk in feed.under_way:
                    chunk.done.set_exception(error)


def _take(under_way: deque[_Chunk], record: Record, item: Item, told: Progress) -> None:
    """Add a row to its chunk, and hand the chunk over when it is whole."""
    chunk = under_way[0]
    if record.error is not None and _not_there(item):
        chunk.rows.missing.append(len(chunk.rows.records))
    chunk.rows.records.append(record)
    if len(chunk.rows.records) == len(chunk.items):
        under_way.popleft()
        chunk.rows.seconds = dict(told.seconds)
        told.seconds.update(dict.fromkeys(told.seconds, 0.0))
        chunk.done.set_result(chunk.rows)


def _not_there(item: Item) -> bool:
    local = item.data is None and item.error is None and not is_address(item.place)
    return local and not is_there(item.place)
