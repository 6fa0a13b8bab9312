"""What the hub says of a file, and where huggingface_hub's cache keeps it.

huggingface_hub makes paths of the tags and commits that a server sends, and asks for them a second time while it
downloads, so that what was checked is not what it uses; it also waits for ever on a server that drips. Hence we send
the few requests that files need, and keep the layout of its cache (blobs, snapshots, refs), which both then share:
docs/decisions/0007-hub-files.md.
"""

from __future__ import annotations

import contextlib
import os
import urllib.error
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..atomic import atomic_file
from ..errors import CheckpointError
from ..schema import read_json
from .address import plain, shown
from .cache import alone, below_cache, hub_cache
from .connection import open_url
from .options import chosen
from .transfer import HEADERS, Kind, Transfer, patiently, translated

_REF_BYTES = 256
_LISTING_BYTES = 4 << 20


@dataclass(frozen=True)
class Remote:
    """The state of a file at the hub: its commit, and the tag of its content."""

    commit: str
    tag: str


class Refused(Exception):
    """A status that is not success, with its headers."""

    def __init__(self, status: int, headers: Any) -> None:
        super().__init__(f"HTTP {status}")
        self.status, self.headers = status, headers


def endpoint() -> str:
    """The hub's address; HF_ENDPOINT names another."""
    from huggingface_hub import constants

    return constants.ENDPOINT.rstrip("/")


def token() -> str:
    """The caller's token or the user's, empty where there is none or it shall not be sent unasked."""
    from huggingface_hub import constants, get_token

    if (given := chosen().token) is not None:
        return given
    return "" if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token() or ""


def file_url(repo: str, revision: str, name: str) -> str:
    """The address of a file."""
    return f"{endpoint()}/{repo}/resolve/{quote(revision, safe='')}/{quote(name)}"


def remote(repo: str, revision: str, name: str) -> Remote:
    """The state of a file at the hub now; every word of it may become a part of a path.

    Raises:
        Refused: The hub says no.
        Transient: Worth another attempt.
        CheckpointError: No address, or an answer that is not the hub's.
    """
    from huggingface_hub import constants

    place, refusal, headers = f"{shown(endpoint())}/{repo}/{name}", None, None
    with translated(place, CheckpointError):
        try:
            response, _ = open_url(
                file_url(repo, revision, name),
                HEADERS,
                timeout_s=float(constants.HF_HUB_ETAG_TIMEOUT),
                token=token(),
                method="HEAD",
                within=True,
            )
            with response:
                headers = response.headers
        except urllib.error.HTTPError as error:
            error.close()
            # Weights lie elsewhere: the redirect itself is the answer.
            headers = error.headers if error.code < 400 and "X-Repo-Commit" in error.headers else None
            refusal = None if headers is not None else Refused(error.code, error.headers)
    if refusal is not None:
        raise refusal
    said = headers or {}
    commit, tag = said.get("X-Repo-Commit"), _tag(said.get("X-Linked-ETag") or said.get("ETag"))
    if not plain(commit) or not plain(tag):
        raise CheckpointError(
            f"{shown(endpoint())} must speak the hub's protocol; its answer for {repo}/{name} has no commit or no tag "
            f"that can be a name (commit {str(commit)[:80]!r}, tag {tag[:80]!r}); nothing was written. Check "
            "HF_ENDPOINT, and that no proxy page is in the way."
        )
    return Remote(str(commit), tag)


def listing(repo: str, revision: str) -> list[str]:
    """Names of the files of a repository.

    Raises:
        CheckpointError: The hub says no, is out of reach, or sends no list.
        OSError: The cache cannot be written.
    """
    url = f"{endpoint()}/api/models/{repo}/revision/{quote(revision, safe='')}"
    kind = Kind("a list of files", CheckpointError, "listings", _LISTING_BYTES, lambda _: "")
    transfer = Transfer(url, kind, token=token())
    with alone(transfer.place):
        transfer.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            patiently(transfer.attempt)
            found = read_json(transfer.part, what=f"The list of files of {repo}", error=CheckpointError)
        finally:
            transfer.drop()
    files = found.get("siblings") if isinstance(found, dict) else None
    names = [file.get("rfilename") for file in files if isinstance(file, dict)] if isinstance(files, list) else []
    return [name for name in names if isinstance(name, str)]


def _tag(header: str | None) -> str:
    return (header or "").strip().removeprefix("W/").strip('"')


@dataclass(frozen=True)
class Shelf:
    """The files of one repository in the cache: `blobs` by tag, `snapshots` by commit with links to them, `refs`."""

    repo: str

    @property
    def folder(self) -> Path:
        """Where all of it lies."""
        return hub_cache() / f"models--{self.repo.replace('/', '--')}"

    def snapshot(self, revision: str) -> Path | None:
        """The folder of the commit that a revision was when it was last fetched."""
        commit = revision
        reference = self.folder / "refs" / revision
        with contextlib.suppress(OSError, UnicodeDecodeError), reference.open("rb") as stream:
            commit = stream.read(_REF_BYTES).decode().strip()
        path = self.folder / "snapshots" / commit
        return path if plain(commit) and path.is_dir() else None

    def find(self, revision: str, name: str) -> Path | None:
        """A file of that commit; None where the cache has none."""
        snapshot = self.snapshot(revision)
        path = None if snapshot is None else snapshot / name
        return path if path is not None and path.is_file() else None

    def bring(self, revision: str, name: str, state: Remote, kind: Kind, *, again: bool = False) -> Path:
        """A file in the state that the hub has it in, downloaded where the cache has no such content.

        Raises:
            HieraxError: Of the kind's type; it cannot be fetched.
            OSError: The cache cannot be written.
        """
        blob, pointer = self.folder / "blobs" / state.tag, self.folder / "snapshots" / state.commit / name
        with alone(f"{self.repo}/{state.tag}", kind.error):
            for path in (blob, pointer):
                path.parent.mkdir(parents=True, exist_ok=True)
                _stay_below(path.parent)
            if again or not pointer.is_file():
                if again or not blob.is_file():
                    transfer = Transfer(file_url(self.repo, revision, name), kind, path=blob, token=token())
                    patiently(transfer.attempt)
                    transfer.settle()
                _link(blob, pointer)
        if revision != state.commit:
            with contextlib.suppress(OSError):  # the next one asks again
                reference = self.folder / "refs" / revision
                reference.parent.mkdir(parents=True, exist_ok=True)
                _stay_below(reference.parent)
                with atomic_file(reference) as partial:
                    partial.write_text(state.commit, "utf-8")
        return pointer


def _link(blob: Path, pointer: Path) -> None:
    """Let a snapshot's file be a link to its content; where there are no links, the content itself."""
    from huggingface_hub import constants

    temporary = pointer.with_name(f".{pointer.name}.hierax")  # one at a time: whoever links holds the lock
    temporary.unlink(missing_ok=True)
    try:
        if getattr(constants, "HF_HUB_DISABLE_SYMLINKS", False):
            raise NotImplementedError
        temporary.symlink_to(os.path.relpath(blob, pointer.parent))
        temporary.replace(pointer)
    except (OSError, NotImplementedError):
        blob.replace(pointer)


def _stay_below(folder: Path) -> None:
    """Refuse a folder that a link leads out of the cache."""
    if not below_cache(folder):
        raise CheckpointError(
            f"The cache must hold its own folders; {folder} leads to {folder.resolve()}. Nothing was written. "
            "Remove the link."
        )
