"""From a catalogue name, a hub id or an address to files on this disk, verified and shared with huggingface_hub.

Hub files live in huggingface_hub's own cache, files of plain URLs in HF_HOME/hierax beside it. What the hub or
the catalogue knows a SHA-256 of is hashed once; a wrong file is deleted, fetched once more, and then refused.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

from .. import console
from ..errors import CheckpointError, HieraxError, UnknownNameError, nearest
from ..net.address import is_address, shown
from ..net.cache import UNKNOWN, Published
from ..net.download import download
from ..net.transfer import Kind
from .catalog import CatalogEntry, entries, list_models, resolve
from .repository import Missing, Repository

_announced: set[str] = set()


def fetch(entry: CatalogEntry, *, revision: str | None = None, progress: bool = True) -> Path:
    """The weights of a catalogue entry on this disk, downloaded and verified if they are not there yet.

    Args:
        entry: From `hierax.weights.catalog.resolve`.
        revision: Hub branch, tag or commit instead of the entry's; the catalogue's hash is then not demanded.
        progress: Show on stderr how far it is.

    Returns:
        A weights file, or the folder of a hub snapshot that holds config.json beside model.safetensors.

    Raises:
        CheckpointError: No weights were published, or they cannot be reached.
        UnknownNameError: The repository or revision does not exist.
        IntegrityError: The bytes are not the published ones, twice.
    """
    if not entry.pretrained:
        raise CheckpointError(_no_weights(entry))
    if entry.path is not None:
        if not os.path.exists(entry.path):
            raise CheckpointError(f"{entry.name!r} must lie at {entry.path} ({entry.catalog} says so); it does not.")
        return entry.path
    announce_license(entry)
    if revision and not entry.repo:
        raise CheckpointError(f"Only a hub repository has revisions; {entry.name!r} comes from {entry.url}.")
    published = UNKNOWN
    if not revision or revision == entry.revision:
        place = entry.url or f"{entry.repo}@{entry.revision or 'main'}"
        published = Published((entry.sha256,) if entry.sha256 else (), entry.superseded, place)
    with console.progress(progress), _told(entry.mirror):
        if entry.url:
            return _from_url(entry.url, published)
        repository = Repository(entry.repo or "", revision or entry.revision or "main")
        return repository.file(entry.file, published) if entry.file else repository.model(published)


def fetch_source(source: str, *, revision: str | None = None) -> tuple[Path, CatalogEntry | None]:
    """The weights that a name stands for, and what the catalogue knows of them.

    Args:
        source: Catalogue name, "org/repo" or "org/repo@revision", or an http(s) address.
        revision: Branch, tag or commit of the hub; goes before the one in `source`.

    Raises:
        UnknownNameError: No such name, repository or revision.
        HieraxError: As `fetch`.
    """
    at_address = is_address(source)
    name, _, pinned = (source, "", "") if at_address else source.partition("@")
    revision = revision or pinned or None
    try:
        entry = resolve(name)
    except UnknownNameError:
        if not at_address and name.count("/") != 1:
            raise
        if at_address and revision:
            raise CheckpointError(f"Only a hub repository has revisions; {shown(source)} is an address.") from None
        with _told():
            return _from_url(source) if at_address else Repository(name, revision or "main").model(), None
    return fetch(entry, revision=revision), entry


def fetch_sidecar(repo: str, names: Sequence[str], *, revision: str | None = None) -> Path:
    """One configuration file of a hub repository, whose weights stay where they are.

    Args:
        repo: "org/repo".
        names: Files, of which the first that it has counts.
        revision: Branch, tag or commit.

    Raises:
        CheckpointError: It has none of them, or is out of reach.
        UnknownNameError: The repository or revision does not exist.
    """
    with _told():
        repository = Repository(repo, revision or "main")
        for name in names[:-1]:
            with contextlib.suppress(Missing):
                return repository.file(name)
        return repository.file(names[-1])


def announce_license(entry: CatalogEntry) -> None:
    """Say the licence of an entry's weights on stderr, once in a process."""
    if not entry.license or entry.name in _announced:
        return
    _announced.add(entry.name)
    terms = "" if entry.commercial else ", NON-COMMERCIAL use only"
    data = f"; trained on {entry.dataset}" if entry.dataset else ""
    console.say(f"the weights {entry.name} are licensed {entry.license.upper()}{terms}{data}.")


def _no_weights(entry: CatalogEntry) -> str:
    same = [e.name for e in entries().values() if e.pretrained and e.architecture == entry.architecture]
    name = entry.name
    if same:
        return f"{name!r} is an architecture; weights for it are published as {', '.join(same)}. Name one of them."
    return (
        f"{name!r} is an architecture without published weights. {nearest(name, list_models(pretrained=True))}"
        f"hierax.create({name!r}) builds it; `hierax list` shows what has weights."
    )


def _from_url(url: str, published: Published = UNKNOWN) -> Path:
    """A hub address through the hub's cache, any other as it is; of what no catalogue names, only the latter stays."""
    from huggingface_hub import constants

    for endpoint in {constants.ENDPOINT.rstrip("/"), "https://huggingface.co"}:
        parts = url.removeprefix(endpoint + "/").partition("?")[0].split("/")
        if url.startswith(endpoint + "/") and len(parts) > 4 and parts[2] in ("resolve", "blob"):
            org, repo, _, revision, *file = (unquote(part) for part in parts)
            return Repository(f"{org}/{repo}", revision).file("/".join(file), published)
    return download(
        url,
        Kind("a weights file", CheckpointError, "urls", 1 << 36, _trouble),
        Published(place=url) if published is UNKNOWN else published,
    )


def _trouble(path: Path) -> str:
    """Why a file can hold no weights: it begins neither as torch's archives and pickles do nor as safetensors does."""
    with path.open("rb") as stream:
        head = stream.read(9)
    return "" if head.startswith((b"PK\x03\x04", b"\x80")) or head[8:] == b"{" else f"begins with {head[:8]!r}"


@contextlib.contextmanager
def _told(mirror: str = "") -> Iterator[None]:
    """Errors as callers know them, with the address of the same weights elsewhere."""
    try:
        yield
    except HieraxError as error:
        kind = CheckpointError if isinstance(error, Missing) else type(error)
        same = f" The same weights: {mirror}" if mirror and mirror not in str(error) else ""
        raise kind(f"{error}{same}") from error
