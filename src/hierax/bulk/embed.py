"""Embeddings of any number of images into a store, or of a few into one file."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import console
from ..data.framing import remark
from ..data.items import Item
from ..data.sources import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from ..data.stream import Source
from ..errors import InputError, brief
from ..provenance import origin, provenance
from ..schema import positive
from ..store.layout import Commits, Spec
from ..store.tables import Record
from ..store.write import ROWS_PER_PART, Writer, open_writer
from .files import FILES, FileWriter
from .progress import SOON_S, Progress

if TYPE_CHECKING:
    from ..predictor import Predictor
    from .worker import Columns

CLUSTERS = ("ray",)
_FEW = 64  # images for which a fast engine takes longer to start than it saves
_MOST_WORKERS = 1024
_SHARD = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


@dataclass(frozen=True)
class EmbedSummary:
    """What came of a run; rows and errors together are the inputs, those of earlier runs into the same store included.

    Attributes:
        rows: Inputs with vectors.
        errors: Inputs with a reason why they have none.
        parts: Files that hold them.
        seconds: That this run took.
        out: Where they are.
        max_error_rate: Errors allowed for each input.
    """

    rows: int
    errors: int
    parts: int
    seconds: float
    out: Path
    max_error_rate: float = 0.0

    @property
    def within_limit(self) -> bool:
        """Whether no more inputs failed than were allowed to."""
        return self.errors <= self.max_error_rate * (self.rows + self.errors)


def embed(  # noqa: PLR0913  the frozen public door
    source: Any,
    out: str | os.PathLike[str],
    *,
    model: Any = None,
    columns: Sequence[str] = ("embedding",),
    dtype: str = "float32",
    normalize: bool = False,
    batch_size: int | str = "auto",
    engine: str = "auto",
    device: str = "cpu",
    workers: int | None = None,
    shard: str | None = None,
    cluster: str | None = None,
    max_error_rate: float = 0.0,
    progress: bool = True,
    overwrite: bool = False,
    rows_per_part: int = ROWS_PER_PART,
    exact: bool = False,
    actors: int | None = None,
    cpus_per_actor: float | None = None,
    gpus_per_actor: float | None = None,
) -> EmbedSummary:
    """Write a row for each image of a source: its vectors, or the reason why there are none.

    A run into a store that is stopped, by whatever, goes on where it was when it is started again with the same
    arguments: every input has one row in the end.

    Args:
        source: Files, folders, globs, tar shards (also http), Parquet or Arrow tables, URLs that fsspec has a driver
            for, or "-" for a list on stdin; one or several of them.
        out: A folder, named with a slash at the end or there already, becomes a store; a name that ends with .npz,
            .csv, .jsonl or .parquet one file, which appears when it is whole.
        model: A `Predictor`, or what `hierax.load` takes.
        columns: "embedding", "stage1".."stage4" (the mean of a stage's map), "top5" (classes with scores).
        dtype: Of the vectors, "float32" or "float16".
        normalize: Scale each vector to length 1.
        batch_size: Images at a time; "auto" finds out.
        engine: As for `hierax.optimize`; "auto" leaves the network as it is for a few images, and "none" always.
        device: Where to run.
        workers: Processes that read and decode, of each actor in a cluster; None is one for each processor, 0 takes
            threads.
        shard: "2/16" takes the second of sixteen shares of the positions in the source; 0 is taken for 16, for
            schedulers that count from there. `hierax store merge` makes one store of all.
        cluster: "ray" runs on the Ray cluster that RAY_ADDRESS names, or that `ray.init` has opened; without either on
            one of this machine alone, for as long as it takes. Inputs must be readable on every node.
        max_error_rate: Errors allowed for each input; a summary says whether there were more.
        progress: Say on stderr how far it is.
        overwrite: Replace what is there; files of anybody else never are.
        rows_per_part: Rows of a store's files at most.
        exact: Decode large JPEGs whole, as `Predictor.embed` does. They are decoded at a part of their size otherwise,
            in a fifth of the time or less: vectors then have a cosine above 0.999 with the exact ones.
        actors: Copies of the model in a cluster; None is as many as it has room for.
        cpus_per_actor: Processors of each; None is 4 at most, and what a node has for each of its GPUs.
        gpus_per_actor: GPUs of each, or a part of one; None is 1 if `device` is no cpu.

    Raises:
        InputError: Nothing was found, the output is somebody else's, is being written, or was made by another model,
            or an argument is impossible.
        HieraxError: The model cannot be loaded.
    """
    from ..registry import predictor_of

    options = Options(
        columns, dtype, normalize, batch_size, engine, workers, shard, cluster, max_error_rate, overwrite,
        rows_per_part, exact, device, actors, cpus_per_actor, gpus_per_actor,
    )  # fmt: skip
    with console.progress(progress):
        return embed_with(source, out, lambda: predictor_of(model, device=options.device_here), options)


@dataclass(frozen=True)
class Options:
    """How to embed, as `embed` documents it."""

    columns: Sequence[str] = ("embedding",)
    dtype: str = "float32"
    normalize: bool = False
    batch_size: int | str = "auto"
    engine: str = "auto"
    workers: int | None = None
    shard: str | None = None
    cluster: str | None = None
    max_error_rate: float = 0.0
    overwrite: bool = False
    rows_per_part: int = ROWS_PER_PART
    exact: bool = False
    device: str = "cpu"
    actors: int | None = None
    cpus_per_actor: float | None = None
    gpus_per_actor: float | None = None

    @property
    def device_here(self) -> str:
        """Where the model is loaded: actors move it to a device of theirs."""
        return self.device if self.cluster is None else "cpu"

    def check(self) -> None:
        """Refuse what is impossible before anything is opened.

        Raises:
            InputError: An argument is impossible.
        """
        positive(rows_per_part=self.rows_per_part)
        rate, workers = self.max_error_rate, self.workers
        if not isinstance(rate, (int, float)) or not 0 <= rate <= 1:
            raise InputError(f"max_error_rate is a share from 0 to 1; got {brief(rate)}.")
        if workers is not None and (not isinstance(workers, int) or not 0 <= workers <= _MOST_WORKERS):
            raise InputError(f"workers is a whole number from 0 to {_MOST_WORKERS}; got {brief(workers)}.")
        if self.cluster is not None and self.cluster not in CLUSTERS:
            raise InputError(f"cluster is {' or '.join(CLUSTERS)}, or left out; got {brief(self.cluster)}.")
        if self.cluster is not None:
            from .ray_cluster import the_package

            the_package()
        self._check_actors()
        size = self.batch_size
        if size != "auto" and not isinstance(size, int):
            raise InputError(f"batch_size is a whole number of at least 1, or 'auto'; got {brief(size)}.")
        positive(batch_size=1 if size == "auto" else size)

    def _check_actors(self) -> None:
        asked = {"actors": self.actors, "cpus_per_actor": self.cpus_per_actor, "gpus_per_actor": self.gpus_per_actor}
        asked = {name: value for name, value in asked.items() if value is not None}
        if asked and self.cluster is None:
            raise InputError(f"{next(iter(asked))} is for a run on a cluster. Leave it out, or pass cluster='ray'.")
        for name, value in asked.items():
            least = {"actors": 1, "cpus_per_actor": 0.01, "gpus_per_actor": 0}[name]
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= _MOST_WORKERS:
                raise InputError(f"{name} is a number from {least:g} to {_MOST_WORKERS}; got {brief(value)}.")
        if self.actors is not None and self.actors != int(self.actors):
            raise InputError(f"actors is a whole number; got {brief(self.actors)}.")


def embed_with(
    source: Any, out: str | os.PathLike[str], load: Callable[[], Predictor], options: Options
) -> EmbedSummary:
    """`embed` with a predictor that is loaded once it is known that there is something to embed."""
    start = time.monotonic()
    options.check()
    share = shard_of(options.shard)
    place, is_file = place_of(out)
    with ExitStack() as held:
        held.callback(console.close)
        file = held.enter_context(FileWriter.claimed(place, overwrite=options.overwrite)) if is_file else None
        inputs = Source(source, share=share or (1, 1))
        inputs.look()  # before torch is loaded, which takes seconds
        from .worker import Columns, checked_engine, in_engine

        predictor = load()
        engine = checked_engine(options.engine, predictor, few=lambda: inputs.fewer_than(_FEW))
        if options.cluster is None:
            predictor = in_engine(predictor, engine)
        is_video = predictor.encoder.config.is_video
        inputs.only(VIDEO_EXTENSIONS if is_video else IMAGE_EXTENSIONS)
        answers = Columns(predictor, options.columns, dtype=options.dtype, normalize=options.normalize)
        spec = spec_of(predictor, answers, normalize=options.normalize, exact=options.exact, share=share)
        output: Writer | FileWriter = (
            file.begin(spec)
            if file is not None
            else held.enter_context(
                open_writer(
                    place,
                    spec,
                    overwrite=options.overwrite,
                    rows_per_part=options.rows_per_part,
                    check=_check_positions,
                )
            )
        )
        inputs.start, inputs.before = output.commits.next, bytes.fromhex(output.commits.digest)
        told = Progress(unit="clips" if is_video else "images")
        told.begin(output.commits.rows, output.commits.errors)
        if console.shows_progress():
            told.count(inputs)
        how = _on_a_cluster if options.cluster else _here
        rows = how(inputs, predictor, answers, replace(options, engine=engine), told)
        write_rows(rows, output, inputs, told)
        found = output.commits
    if inputs.other:
        takes, left = ("clips", "images") if is_video else ("images", "clips")
        console.say(f"{inputs.other} {left} were passed over: {predictor.card.name!r} takes {takes}")
    cropped = predictor.preprocess.resize == "shortest"
    if far := remark(told.sizes, predictor.encoder.config, cropped=cropped):
        console.say(far)
    widths = " and ".join(f"{size}" for size in spec.vectors.values())
    if console.shows_progress():
        what = f" of {widths} numbers" if widths else ""
        console.say(f"{place}: {found.rows} rows{what} by {predictor.card.name}")
        console.name_problems(told.failed, more=told.errors_now - len(told.failed))
    seconds = time.monotonic() - start
    rows_good = found.rows - found.errors
    return EmbedSummary(rows_good, found.errors, len(found.parts), seconds, place, float(options.max_error_rate))


def _here(
    inputs: Source, predictor: Predictor, answers: Columns, options: Options, told: Progress
) -> Iterator[tuple[Record, Item]]:
    from .local import BatchSize, local_rows
    from .pool import default_workers
    from .worker import InputMaker

    size, make = BatchSize(options.batch_size, predictor.device.type), InputMaker.of(predictor, exact=options.exact)
    workers = default_workers() if options.workers is None else options.workers
    told.workers = workers or default_workers()
    return local_rows(inputs, make, answers, batch_size=size, workers=workers, progress=told)


def _on_a_cluster(
    inputs: Source, predictor: Predictor, answers: Columns, options: Options, told: Progress
) -> Iterator[tuple[Record, Item]]:
    from .ray import ray_rows
    from .ray_actor import Job

    job = Job.of(options, folder=origin(predictor)["folder"])
    size = (options.actors, options.cpus_per_actor, options.gpus_per_actor)
    return ray_rows(inputs, job, predictor, size=size, progress=told)


def write_rows(
    rows: Iterable[tuple[Record, Item]], output: Writer | FileWriter, inputs: Source, told: Progress
) -> None:
    """Take rows in the order of the source until there are no more, and commit them part by part.

    Raises:
        InputError: The output refuses, or the source is another one than before.
    """
    last, digest, whole = output.commits.next, output.commits.digest, True
    try:
        with contextlib.closing(iter(rows)) as found:  # type: ignore[type-var]  a generator
            for record, item in found:
                whole = False  # a stop in the midst of a row, or before it is counted, would write it twice
                output.add(record)
                last, digest = item.id + 1, item.digest.hex()
                whole = True
                told.count_row(record)
                if output.due():
                    with told.timed("writing"):
                        output.commit(last, digest)
                told.show()
        with told.timed("writing"):
            output.commit(last, digest)
            output.complete(inputs.position, inputs.digest.hex())
    except BaseException:
        if whole:
            output.rescue(last, digest)
        raise
    finally:
        told.end()
        console.close()
    if isinstance(output, Writer) or told.elapsed > SOON_S:
        told.show(now=True)


def spec_of(
    predictor: Predictor,
    answers: Columns,
    *,
    normalize: bool = False,
    exact: bool = False,
    share: tuple[int, int] | None = None,
) -> Spec:
    """What all rows have in common.

    Args:
        predictor: What makes them.
        answers: Their columns.
        normalize: Whether vectors have length 1.
        exact: Whether large JPEGs are decoded whole.
        share: Of the source, where that is not all of it.
    """
    stored = {"dtype": answers.dtype, "normalize": normalize, "normalized": normalize, "exact": exact}
    about = provenance(predictor, **stored)
    return Spec(about, answers.vectors, answers.dtype, answers.top, share, origin(predictor))


def _check_positions(commits: Commits) -> None:
    if commits.edited:
        raise InputError(
            "A store to which files were added or from which they were removed is kept fresh with `hierax index`; "
            "embed into another folder."
        )


def shard_of(text: str | None) -> tuple[int, int] | None:
    """A share of a source as it is written.

    Raises:
        InputError: It is none.
    """
    if text is None:
        return None
    match = _SHARD.fullmatch(text) if isinstance(text, str) else None
    number, of = map(int, match.groups()) if match else (1, 0)
    if not 0 <= number <= of or of < 1:
        raise InputError(f"A shard is written as its number and how many there are, e.g. 2/16; got {brief(text)}.")
    return number or of, of


def place_of(out: str | os.PathLike[str]) -> tuple[Path, bool]:
    """Where rows go, and whether that is one file.

    Raises:
        InputError: Neither a file of a known kind nor a folder.
    """
    if not isinstance(out, (str, os.PathLike)) or not os.fspath(out) or "\0" in os.fspath(out):
        raise InputError(f"out is a folder or a file; got {brief(out)}.")
    text = os.fspath(out)
    path = Path(text).expanduser()
    if text.endswith(("/", os.sep)) or (not isinstance(out, str) and not path.suffix):
        return path, False
    if path.is_dir() and path.suffix.lower() not in FILES:
        return path, False
    return path, True
