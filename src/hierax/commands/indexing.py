"""`hierax index`: what is new in a folder, embedded as `hierax embed` does, into a store that is kept fresh."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .. import console
from ..data.sources import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, find_images
from ..errors import InputError
from ..search import Store, open_store
from ..search.fresh import Round, apply, look, plan
from ..store.layout import Spec, is_store
from ..store.tables import Record
from ..store.write import open_writer
from .common import load

if TYPE_CHECKING:
    from ..predictor import Predictor


@dataclass
class Indexing:
    """One folder and its store, looked at any number of times; the model is loaded when there is something for it.

    Attributes:
        photos: As it was named.
        store: Its place.
        model: As it was named.
        device: For the model.
        columns: Of a new store.
        normalize: Of a new store.
        batch_size: Of the model.
        workers: Processes that prepare.
        checksum: Compare content where names, sizes or times differ.
    """

    photos: str
    store: Path
    model: str | None = None
    device: str = "cpu"
    columns: Sequence[str] | None = None
    normalize: bool = False
    batch_size: int | str = "auto"
    workers: int | None = None
    checksum: bool = False
    _predictor: Predictor | None = None

    def round(self) -> Round:
        """Look at the folder, and bring the store up to date.

        Raises:
            InputError: Nothing is there to look at, the store is somebody else's or is being written, or the system
                refuses.
            HieraxError: The model cannot be loaded, or did not make the store.
        """
        before = open_store(self.store) if is_store(self.store) else None
        found = find_images(self.photos, extensions=IMAGE_EXTENSIONS)
        if before is None or self.model is not None:
            self._load(before)
        if self._predictor is not None and self._predictor.encoder.config.is_video:
            found = find_images(self.photos, extensions=VIDEO_EXTENSIONS)
        spec = self._new_spec() if before is None else before.spec
        if before is not None and (self.columns is not None or self.normalize):
            self._check(spec)
        with open_writer(self.store, spec) as writer:
            store = Store(self.store)  # as it is now that nobody else writes it
            own = os.path.abspath(self.store) + os.sep
            states = look(path for path in found if not os.path.abspath(path).startswith(own))
            todo = plan(
                store,
                states,
                [os.path.abspath(self.photos)] if os.path.isdir(self.photos) else list(states),
                [os.path.abspath(folder) for folder in found.unreadable],
                content=self.checksum,
            )
            if todo.empty and not self.checksum:
                return Round(kept=todo.kept)
            if todo.new or todo.changed:
                self._load(store)
            return apply(writer, todo, lambda files, first: self._embed(writer.spec, files, first))

    def _load(self, store: Store | None) -> None:
        if self._predictor is not None:
            return
        if store is not None:
            from ..search.queries import stored_model

            self._predictor = stored_model(store, self.model, device=self.device)
        else:
            self._predictor = load(self.model, device=self.device)

    def _new_spec(self) -> Spec:
        from ..bulk.embed import spec_of
        from ..bulk.worker import Columns

        if self._predictor is None:
            raise InputError("A new store needs a model.")
        answers = Columns(self._predictor, self.columns or ["embedding"], normalize=self.normalize)
        return spec_of(self._predictor, answers, normalize=self.normalize)

    def _check(self, spec: Spec) -> None:
        """Refuse what a store that is there does not have."""
        have = [*spec.vectors, *([spec.top] if spec.top else [])]
        if self.columns is not None and sorted(self.columns) != sorted(have):
            raise InputError(f"This store has the columns {', '.join(have)}; got {', '.join(self.columns)}.")
        if self.normalize and not spec.provenance.get("normalized"):
            raise InputError("This store holds vectors as they are; --normalize is for a new one. Leave it out.")

    def _embed(self, spec: Spec, files: Sequence[str], first: int) -> Iterator[Record]:
        from ..bulk.local import BatchSize, local_rows
        from ..bulk.pool import default_workers
        from ..bulk.progress import Progress
        from ..bulk.worker import Columns, InputMaker
        from ..data.items import Item

        predictor = self._predictor
        if predictor is None:
            raise InputError("A model is needed.")
        columns = Columns(
            predictor,
            [*spec.vectors, *([spec.top] if spec.top else [])],
            dtype=spec.dtype,
            normalize=bool(spec.provenance.get("normalized")),
        )
        workers = default_workers() if self.workers is None else self.workers
        told = Progress(workers=workers or default_workers(), total=len(files))
        told.begin(0, 0)
        items = (Item(name=file, place=file, id=number) for number, file in enumerate(files, first))
        size = BatchSize(self.batch_size, predictor.device.type)
        try:
            for record, _ in local_rows(
                items, InputMaker.of(predictor), columns, batch_size=size, workers=workers, progress=told
            ):
                told.count_row(record)
                told.show()
                yield record
        finally:
            console.close()
        console.name_problems(told.failed, more=told.errors_now - len(told.failed))
