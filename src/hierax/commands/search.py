"""Commands over a store of embeddings: search, duplicates, cluster, index."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from .. import console
from ..data.files import name_bytes, name_text
from ..errors import InputError
from ..outputs import OutputFile
from ..schema import positive
from . import Exit, common
from .common import Device, Model

if TYPE_CHECKING:
    from ..search import Hit, Store

_QUERIES = "Images, .npy files of vectors, row:NUMBER, or paths that the store has."
_MANY = "QUERY [QUERY ...]"
StorePath = Annotated[Positional[Path], arg(metavar="STORE", help="A folder that embed or index wrote.")]
Queries = Annotated[
    Positional[tuple[str, ...]], arg(metavar="QUERY [QUERY ...]", help=_QUERIES, help_behavior_hint="(required)")
]
Column = Annotated[str, arg(help="Which vectors of the store.")]
Exact = Annotated[bool, arg(help="Look at every row, also of more than a million.")]
Ann = Annotated[bool, arg(help="Ask an index (extra ann), also for few rows; it is built beside the store.")]
Sheet = Annotated[Path | None, arg(metavar="PNG", help="Show what was found as a picture.")]
Null = Annotated[bool, arg(aliases=["-0"], help="End paths with a zero byte, for xargs -0.")]
_GROUPS = 60  # on a sheet of duplicates
_COPIES = 16  # of a group on it


def search(
    store: StorePath,
    queries: Queries = (),
    top_k: int = 10,
    crop: str | None = None,
    others: bool = False,
    model: Model = None,
    device: Device = "cpu",
    column: Column = "embedding",
    exact: Exact = False,
    ann: Ann = False,
    contact_sheet: Sheet = None,
    overwrite: bool = False,
    format: Literal["table", "jsonl", "paths"] = "table",
    null: Null = False,
) -> int:
    """Find the images of a store that are most similar to others.

    Similarity is the cosine of the vectors. An image is embedded by the model that made the store; a path that the
    store has is answered by its row.

    Args:
        top_k: How many, for each query.
        crop: Ask with a part of the images: x,y,width,height in pixels.
        others: Leave the query itself out of what it finds.
        overwrite: Replace an existing picture.
        format: How to print; paths prints what was found alone.
    """
    from ..search import open_store
    from ..search.queries import resolve

    positive(top_k=top_k)
    if not queries:
        raise InputError(f"Name at least one query. {_QUERIES}")
    box = None if crop is None else _box(crop)
    with common.picture(contact_sheet, overwrite) as picture:
        found = open_store(store)
        asked = resolve(found, queries, column=column, crop=box, model=model, device=device)
        import numpy as np

        vectors = np.stack([query.vector for query in asked])
        rows, cosines = found.nearest(vectors, k=top_k + others, column=column, engine=_engine(exact, ann))
        answers = []
        for query, own, scores in zip(asked, rows, cosines, strict=True):
            keep = (own != query.row if others and query.row is not None else own >= 0).nonzero()[0][:top_k]
            answers.append(found.hits(own[keep], scores[keep]))
        _print_hits([query.name for query in asked], answers, format, null)
        if picture is not None:
            _draw_hits(found, asked, answers, picture, box)
    return Exit.OK


def duplicates(
    store: StorePath,
    threshold: float = 0.95,
    column: Column = "embedding",
    exact: Exact = False,
    ann: Ann = False,
    contact_sheet: Sheet = None,
    overwrite: bool = False,
    format: Literal["table", "jsonl", "paths"] = "table",
    null: Null = False,
) -> int:
    """Find images of a store that are almost the same, in groups, the largest file first; deletes nothing.

    What a threshold means depends on the model: look at some groups before you act on them.

    Args:
        threshold: Cosine from which two images count as the same, above 0 and up to 1; others may link them.
        overwrite: Replace an existing picture.
        format: How to print; paths prints all files of each group but the first, which a tool may delete.
    """
    from ..search import open_store

    with common.picture(contact_sheet, overwrite) as picture:
        found = open_store(store)
        groups = found.duplicates(threshold, column=column, engine=_engine(exact, ann), progress=True)
        _print_groups(groups, found, format, null)
        if picture is not None:
            _draw_groups(found, groups, picture)
    count = sum(len(group) - 1 for group in groups)
    console.say(f"{len(groups)} groups; {count} files are almost the same as a larger one")
    return Exit.OK


def _engine(exact: bool, ann: bool) -> Any:
    if exact and ann:
        raise InputError("--exact and --ann are two ways to search; pass one of them.")
    return "exact" if exact else "ann" if ann else "auto"


def _box(text: str) -> tuple[int, ...]:
    """A crop as it is typed."""
    sides = [side.strip() for side in text.split(",")]
    if len(sides) != 4 or not all(side.isascii() and side.isdecimal() and len(side) < 10 for side in sides):
        raise InputError(f"--crop is x,y,width,height in pixels; got {text!r}. Write e.g. 10,20,200,100.")
    return tuple(map(int, sides))


def _print_hits(names: Sequence[str], answers: Sequence[Sequence[Hit]], format: str, null: bool) -> None:
    _check_null(format, null)
    several = len(names) > 1
    if format == "paths":
        _print_paths((hit.path for hits in answers for hit in hits), null)
    elif format == "jsonl":
        for name, hits in zip(names, answers, strict=True):
            for rank, hit in enumerate(hits, start=1):
                _print_json({"query": name, "rank": rank, **hit.to_dict()})
    else:
        rows = [
            {
                **({"query": name_text(name)} if several else {}),
                "score": f"{hit.score:.4f}",
                "path": name_text(hit.path),
            }
            for name, hits in zip(names, answers, strict=True)
            for hit in hits
        ]
        common.table(rows) if rows else console.say("nothing was found")


def _print_groups(groups: Sequence[Sequence[Hit]], store: Store, format: str, null: bool) -> None:
    _check_null(format, null)
    if format == "paths":
        _print_paths(_deletable(groups, store), null)
        return
    rows = [(number, rank, hit) for number, group in enumerate(groups, start=1) for rank, hit in enumerate(group)]
    if format == "jsonl":
        for number, rank, hit in rows:
            _print_json({"group": number, "keep": rank == 0, **hit.to_dict()})
    elif rows:
        shown = [(n, "keep" if not rank else f"{hit.score:.4f}", name_text(hit.path)) for n, rank, hit in rows]
        common.table([{"group": n, "score": score, "path": path} for n, score, path in shown])


def _deletable(groups: Sequence[Sequence[Hit]], store: Store) -> Iterator[str]:
    """Paths of what a larger file stands for, as they are from here; what lies in a tar or a table is no file."""
    inside = 0
    for group in groups:
        for hit in group[1:]:
            place = os.fspath(store.place(hit.path))
            if os.path.lexists(place):
                yield place
            else:
                inside += 1
    if inside:
        console.say(f"{inside} duplicates lie in shards or tables and are no files; --format jsonl names them")


def _print_paths(paths: Iterable[str], null: bool) -> None:
    """Paths byte for byte, for other programs; on a terminal, what could steer it is shown as its escape."""
    for path in paths:
        if not null and "\n" in path:
            raise InputError("A path holds a line break, which ends a path without --null (-0). Pass --null.")
        raw = getattr(sys.stdout, "buffer", None)
        if raw is None or sys.stdout.isatty():
            console.emit(name_text(path), end="\0" if null else "\n")
            continue
        try:
            raw.write(name_bytes(path) + (b"\0" if null else b"\n"))
        except OSError as error:
            raise console.Unheard from error


def _check_null(format: str, null: bool) -> None:
    if null and format != "paths":
        raise InputError(f"--null is for --format paths; got --format {format}.")


def _print_json(record: dict[str, Any]) -> None:
    """One line; bytes of a name that are no UTF-8 are escaped as half characters, as `os.fsencode` takes them."""
    console.emit(json.dumps(record), as_json=True)


def _draw_hits(
    store: Store, asked: Sequence[Any], answers: Sequence[Sequence[Hit]], out: OutputFile, box: Sequence[int] | None
) -> None:
    from ..search.pictures import MOST, hits_sheet
    from ..search.queries import cropped
    from ..visualize.sheets import stack_sheets

    sheets, count = [], 0
    for query, hits in zip(asked, answers, strict=True):
        count += len(hits) + 1
        if count > MOST:
            console.say(f"the picture shows the first {len(sheets)} of {len(asked)} queries")
            break
        image = query.image
        if image is None and query.row is not None:
            image = store.place(store.names([query.row])[0])
        elif box is not None:
            image = cropped(image, box, query.name)
        if image is not None or hits:
            sheets.append(hits_sheet(store, image, query.name, hits, columns=None if len(asked) == 1 else 8))
    if sheets:
        _write_picture(stack_sheets(sheets), out)


def _draw_groups(store: Store, groups: Sequence[Sequence[Hit]], out: OutputFile) -> None:
    from ..search.pictures import group_sheet

    if not groups:
        return
    drawn = [(f"keep (1 of {len(group)})", group[:_COPIES]) for group in groups[:_GROUPS]]
    left = f"{_GROUPS} of {len(groups)} groups, " if len(groups) > _GROUPS else ""
    note = f"{left}the file to keep first; beside each other one its cosine with that."
    _write_picture(group_sheet(store, drawn, note=note), out)


def _write_picture(picture: Any, out: OutputFile) -> None:
    from PIL import Image

    from ..errors import writing

    with writing(out.path):
        Image.fromarray(picture).save(out.partial, format="PNG")


def index(
    photos: Positional[str],
    store: StorePath,
    model: Model = None,
    device: Device = "cpu",
    columns: str | None = None,
    normalize: bool = False,
    batch_size: Annotated[str, arg(metavar="INT", help="Images at a time; auto finds out.")] = "auto",
    workers: int | None = None,
    checksum: bool = False,
    watch: bool = False,
    interval: float = 30.0,
) -> int:
    """Keep a store fresh: embed new and changed files of a folder, and let those that were deleted leave.

    Creates the store where there is none. The files themselves are only read. Ctrl-C ends --watch; what was done until
    then stays.

    Args:
        photos: A folder, a glob or a file.
        store: The store's folder.
        model: For a new store; another one than made the store is refused.
        columns: Of a new store, as for embed; embedding without it.
        normalize: Scale each vector of a new store to length 1.
        workers: Processes that read and decode; one for each processor without it, 0 for threads.
        checksum: Compare content where a name, a size or a time differs: a file that was touched is not embedded
            again, and one that was moved keeps its row. Every file is read once more when it is embedded.
        watch: Look again and again.
        interval: Seconds from one look to the next.
    """
    from ..search.fresh import watch as watched
    from .indexing import Indexing

    size = int(batch_size) if batch_size.isascii() and batch_size.lstrip("-").isdecimal() else batch_size
    names = None if columns is None else [name.strip() for name in columns.split(",") if name.strip()]
    work = Indexing(photos, store, model, device, names, normalize, size, workers, checksum)
    if watch:
        watched(work.round, interval)
        return Exit.OK
    found = work.round()
    console.say(str(found))
    return Exit.PARTIAL if found.errors else Exit.OK


def cluster(
    store: StorePath,
    k: Annotated[int, arg(aliases=["-k"], metavar="INT")] = 10,
    column: Column = "embedding",
    seed: int = 0,
    contact_sheet: Sheet = None,
    overwrite: bool = False,
    format: Literal["table", "jsonl", "csv"] = "table",
) -> int:
    """Split the images of a store into groups that look alike.

    Args:
        k: How many groups.
        seed: Another one may give other groups; the same gives the same.
        overwrite: Replace an existing picture.
        format: How to print; the table has a line for each group, jsonl and csv one for each image.
    """
    from ..bulk.csv_text import as_path, csv_line
    from ..search import open_store
    from ..search.clusters import find_clusters, members, representatives

    with common.picture(contact_sheet, overwrite) as picture:
        opened = open_store(store)
        found = find_clusters(opened, k, column=column, seed=seed)
        heads = representatives(opened, found)
        if format == "table":
            pairs = zip(found.sizes.tolist(), heads, strict=True)
            common.table(
                [
                    {"cluster": n, "images": size, "nearest to its centre": name_text(hit.path)}
                    for n, (size, hit) in enumerate(pairs)
                ]
            )
        else:
            if format == "csv":
                console.emit("path,cluster,distance,representative")
            for member in members(opened, found):
                if format == "jsonl":
                    _print_json(member.to_dict())
                else:
                    cells = (as_path(name_text(member.path)), member.cluster, member.distance, member.representative)
                    console.emit(csv_line(cells))
        if picture is not None:
            from ..search.pictures import MOST, representatives_sheet

            if len(heads) > MOST:
                console.say(f"the picture shows {MOST} of {len(heads)} clusters")
            _write_picture(representatives_sheet(opened, heads[:MOST], found.sizes[:MOST].tolist()), picture)
    if len(heads) < k:
        console.say(f"{len(heads)} clusters: no more vectors differ")
    return Exit.OK
