"""From a catalogue entry, a hub id or a URL to files on this disk, verified and shared with huggingface_hub.

Hub files live in huggingface_hub's own cache, files of plain URLs in HF_HOME/hierax beside it. What the hub or
the catalogue knows a SHA-256 of is hashed once; a wrong file is deleted, fetched once more, and then refused.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ..errors import CheckpointError, HieraxError, IntegrityError, UnknownNameError, nearest
from ..net.download import RETRIED_STATUS, Transient, download, patiently, refusal, retry_after
from ..net.integrity import forget, is_sha256, locked, matches, say
from .catalog import CatalogEntry, entries, list_names

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
_WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_MAX_SHARDS = 1000
_announced: set[str] = set()


def fetch(entry: CatalogEntry, *, revision: str | None = None, progress: bool = True) -> Path:
    """The weights of a catalogue entry on this disk, downloaded and verified if they are not there yet.

    Args:
        entry: From `hierax.weights.catalog.resolve`.
        revision: Hub branch, tag or commit instead of the entry's; the catalogue's hash is then not demanded.
        progress: Show a bar on stderr.

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
        if not entry.path.exists():
            raise CheckpointError(f"{entry.name!r} must lie at {entry.path} ({entry.catalog} says so); it does not.")
        return entry.path
    announce_license(entry)
    if revision and not entry.repo:
        raise CheckpointError(f"Only a hub repository has revisions; {entry.name!r} comes from {entry.url}.")
    pinned = revision in (None, "", entry.revision)
    wanted = (entry.sha256,) if entry.sha256 and pinned else ()
    superseded = entry.superseded if pinned else ()
    try:
        if entry.url:
            return _from_url(entry.url, wanted, superseded, progress)
        hub = _Hub(entry.repo, revision or entry.revision, progress)
        if entry.file:
            return hub.file(entry.file, wanted, superseded)
        return hub.model(wanted, superseded)
    except HieraxError as error:
        kind = CheckpointError if isinstance(error, _Missing) else type(error)
        same = f" The same weights: {entry.mirror}" if entry.mirror and entry.mirror not in str(error) else ""
        raise kind(f"{error}{same}") from error


def fetch_repo(repo_id: str, *, revision: str | None = None, progress: bool = True) -> Path:
    """A model repository of the hub: its configuration files and one weights file, nothing else.

    Args:
        repo_id: "org/repo" or "org/repo@revision".
        revision: Branch, tag or commit; goes before the one in `repo_id`.
        progress: Show a bar on stderr.

    Returns:
        The snapshot folder; the weights file itself where it has an unusual name.

    Raises:
        CheckpointError: The repository is out of reach, or holds no weights file.
        UnknownNameError: The repository or revision does not exist.
        IntegrityError: The bytes are not the published ones, twice.
    """
    repo, _, pinned = repo_id.partition("@")
    try:
        return _Hub(repo, revision or pinned, progress).model((), ())
    except _Missing as error:
        raise CheckpointError(str(error)) from error


def fetch_url(url: str, *, sha256: str | None = None, progress: bool = True) -> Path:
    """A single file from a URL; one of the hub goes through the hub's cache and its token.

    Args:
        url: http or https address.
        sha256: Hash that the file must have.
        progress: Show a bar on stderr.

    Raises:
        CheckpointError: The file cannot be reached.
        IntegrityError: The bytes are not the published ones, twice.
    """
    if sha256 is not None and not is_sha256(sha256.lower()):
        raise CheckpointError(f"A sha256 must be 64 hexadecimal digits; got {sha256!r}.")
    try:
        return _from_url(url, (sha256.lower(),) if sha256 else (), (), progress)
    except _Missing as error:
        raise CheckpointError(str(error)) from error


def announce_license(entry: CatalogEntry) -> None:
    """Say the licence of an entry's weights on stderr, once in a process."""
    if not entry.license or entry.name in _announced:
        return
    _announced.add(entry.name)
    terms = "" if entry.commercial else ", NON-COMMERCIAL use only"
    data = f"; trained on {entry.dataset}" if entry.dataset else ""
    say(f"the weights {entry.name} are licensed {entry.license.upper()}{terms}{data}.")


def _no_weights(entry: CatalogEntry) -> str:
    """What to say, and to offer, when an architecture has no published weights."""
    same = [e.name for e in entries().values() if e.pretrained and e.architecture == entry.architecture]
    if not same:
        known = list_names(pretrained=True)
        close = nearest(entry.name, known)
        return (
            f"{entry.name!r} is an architecture without published weights. {close}"
            f"hierax.create({entry.name!r}) builds it; `hierax list` shows what has weights."
        )
    return f"{entry.name!r} is an architecture; weights for it are published as {', '.join(same)}. Name one of them."


def _from_url(url: str, wanted: tuple[str, ...], superseded: tuple[str, ...], progress: bool) -> Path:
    """A hub address through the hub's cache, any other as it is."""
    from huggingface_hub import constants

    for endpoint in {constants.ENDPOINT.rstrip("/"), "https://huggingface.co"}:
        parts = url.removeprefix(endpoint + "/").partition("?")[0].split("/")
        if url.startswith(endpoint + "/") and len(parts) > 4 and parts[2] in ("resolve", "blob"):
            org, repo, _, revision, *file = (unquote(part) for part in parts)
            return _Hub(f"{org}/{repo}", revision, progress).file("/".join(file), wanted, superseded)
    return download(url, wanted=wanted, superseded=superseded, progress=progress)


class _Hub:
    """One repository at one revision, through huggingface_hub's cache."""

    def __init__(self, repo: str, revision: str | None, progress: bool) -> None:
        self.repo, self.revision, self.progress = repo, revision or "main", progress

    def model(self, wanted: tuple[str, ...], superseded: tuple[str, ...]) -> Path:
        """The weights with the configuration files of the same commit."""
        found = self.first(_WEIGHTS, wanted, superseded)
        if found is None:
            found = self.file(self.unusual(), wanted, superseded)
        name = found.relative_to(_snapshot(found)).as_posix()
        # The revision may be a branch that moves: everything else comes from the commit of the weights.
        same = _Hub(self.repo, _snapshot(found).name, self.progress)
        for config in ("config.json", "preprocessor_config.json", f"{name.rpartition('.')[0]}.json"):
            if config != "model.json":
                same.first((config,))
        if name.endswith(".index.json"):
            for shard in _shards(found):
                same.file(shard)
        return found.parent if name in _WEIGHTS else found

    def first(
        self, names: tuple[str, ...], wanted: tuple[str, ...] = (), superseded: tuple[str, ...] = ()
    ) -> Path | None:
        """The first of these files that the repository has."""
        for name in names:
            with contextlib.suppress(_Missing):
                return self.file(name, wanted, superseded)
        return None

    def unusual(self) -> str:
        """Name of the weights file of a repository that has none of the usual ones."""
        from huggingface_hub import HfApi

        if _offline():
            names = self.cached_names()
        else:
            with _translated(self.repo, self.revision):
                names = list(HfApi().list_repo_files(self.repo, revision=self.revision))
        for suffix in _WEIGHT_SUFFIXES:
            same = sorted(name for name in names if name.endswith(suffix) and "/" not in name)
            if len(same) > 1:
                raise CheckpointError(
                    f"A repository must hold one weights file; {self.repo} has {', '.join(same[:8])}. Give the "
                    f"address of one: https://huggingface.co/{self.repo}/resolve/{self.revision}/{same[0]}"
                )
            if same:
                return same[0]
        raise CheckpointError(
            f"{self.repo} at {self.revision!r} holds no weights file (looked for {', '.join(_WEIGHTS)} and "
            f"{', '.join('*' + s for s in _WEIGHT_SUFFIXES)}){' in the cache' if _offline() else ''}."
        )

    def cached_names(self) -> list[str]:
        """Files of the cached snapshot of this revision."""
        from huggingface_hub import constants

        root = Path(constants.HF_HUB_CACHE) / f"models--{self.repo.replace('/', '--')}"
        with contextlib.suppress(OSError):
            reference = root / "refs" / self.revision
            commit = reference.read_text("utf-8").strip() if reference.is_file() else self.revision
            return [item.name for item in (root / "snapshots" / commit).iterdir()]
        return []

    def file(self, name: str, wanted: tuple[str, ...] = (), superseded: tuple[str, ...] = ()) -> Path:
        """One file, verified against the catalogue's hash or else the hub's own.

        Raises:
            CheckpointError: It is not there (`_Missing`) or out of reach.
            IntegrityError: Wrong bytes, twice.
        """
        known: tuple[str, ...] = ()
        try:
            with locked(f"{self.repo}/{name}"):
                for attempt in range(2):
                    path, etag = self.obtain(name, again=attempt > 0)
                    known = wanted or tuple(digest for digest in (etag,) if is_sha256(digest))
                    if not known or matches(path, known, superseded):
                        return path
                    forget(path)
                    say(f"{self.repo}/{name} has not the published bytes; deleted.")
                    if _offline():
                        break
        except OSError as error:
            if isinstance(error, HieraxError):
                raise
            raise _cache_trouble(f"{self.repo}/{name}", error) from error
        raise IntegrityError(
            f"{self.repo}/{name} must have sha256 {' or '.join(known)}; the bytes that came have another. "
            + (
                "The cached file was corrupted: unset HF_HUB_OFFLINE once to download it again."
                if _offline()
                else "The file at the origin was changed or something on the way alters it. Try another network; "
                f"revision={self.revision!r} given explicitly accepts what the repository holds now."
            )
        )

    def obtain(self, name: str, again: bool) -> tuple[Path, str]:
        """Path in the cache and the hub's tag of the content, from the cache unless the hub has something newer."""
        from huggingface_hub import hf_hub_download

        cached = None if again else self.cached(name)
        if _offline():
            if cached is None:
                raise _Missing(
                    f"Offline mode (HF_HUB_OFFLINE) allows only what is cached; {self.repo}/{name} at "
                    f"{self.revision!r} is not. Unset HF_HUB_OFFLINE once to download it."
                )
            return cached, _tag(cached)
        try:
            latest = patiently(lambda: self.metadata(name))
        except (_Missing, UnknownNameError):
            raise
        except CheckpointError as error:
            if cached is None:
                raise
            say(f"using the cached {self.repo}/{name}: {error}")
            return cached, _tag(cached)
        if cached is not None and _snapshot(cached).name == latest.commit_hash:
            return cached, latest.etag or _tag(cached)

        def transfer() -> str:
            with _translated(self.repo, self.revision, name, transferring=True), _bars(self.progress):
                return hf_hub_download(self.repo, name, revision=self.revision, force_download=again)

        return Path(patiently(transfer, attempts=3)), latest.etag or ""

    def cached(self, name: str) -> Path | None:
        """The file in the cache, as of the last time this revision was asked for."""
        from huggingface_hub import try_to_load_from_cache

        with _translated(self.repo, self.revision, name):
            path = try_to_load_from_cache(self.repo, name, revision=self.revision)
        return Path(path) if isinstance(path, str) and Path(path).is_file() else None

    def metadata(self, name: str) -> Any:
        """Commit and tag of the file as the hub has it now.

        Raises:
            Transient: The hub is busy or out of reach.
            CheckpointError: The hub refuses, or has no such file (`_Missing`).
        """
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

        with _translated(self.repo, self.revision, name):
            url = hf_hub_url(self.repo, name, revision=self.revision)
            latest = get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        if not latest.commit_hash or not latest.etag:
            raise CheckpointError(
                f"{constants.ENDPOINT} must speak the hub's protocol; its answer for {self.repo}/{name} has no commit "
                "or no tag. Check HF_ENDPOINT, and that no proxy page is in the way."
            )
        return latest


class _Missing(CheckpointError):
    """The repository is there, this file is not; inside this file only."""


@contextlib.contextmanager
def _translated(repo: str, revision: str, name: str = "", transferring: bool = False) -> Iterator[None]:
    """Turn what huggingface_hub raises into our errors, or into `Transient` where waiting may help."""
    from huggingface_hub import constants, errors

    place = f"{constants.ENDPOINT}/{repo}" + (f"/{name}" if name else "")
    try:
        yield
    except (HieraxError, Transient):
        raise
    except errors.HFValidationError as error:
        raise UnknownNameError(f"A hub id looks like 'org/repo'; got {repo!r}. See `hierax list`.") from error
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{place} is gated: accept its conditions in a browser, then set HF_TOKEN to a token of that account."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UnknownNameError(
            f"The hub has no repository {repo!r}, or it is private. {nearest(repo, entries())}"
            "Check the spelling; for a private one set HF_TOKEN."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UnknownNameError(f"{repo!r} has no revision {revision!r}. Use a branch, tag or commit of it.") from error
    except (errors.EntryNotFoundError, errors.LocalEntryNotFoundError) as error:
        raise _Missing(f"{repo!r} at {revision!r} has no file {name!r}. Check the name.") from error
    except errors.HfHubHTTPError as error:
        raise _for_status(error, place, transferring) from error
    except OSError as error:
        if error.errno is not None and not isinstance(error, (ConnectionError, TimeoutError)):
            raise _cache_trouble(place, error) from error
        raise _for_transport(error, place, transferring) from error
    except Exception as error:
        # huggingface_hub has changed its transport library twice: its errors are told by their nature, not type.
        raise _for_transport(error, place, transferring) from error


def _cache_trouble(place: str, error: OSError) -> CheckpointError:
    """The error for a disk that refuses."""
    return CheckpointError(
        f"The cache must be readable and writable to fetch {place}; {error}. "
        "Free some space, or point HF_HOME to another folder."
    )


def _for_status(error: Any, place: str, transferring: bool) -> Exception:
    """The error for an HTTP answer; a transfer has already been repeated on 408 and 429 by the hub's client."""
    status = int(getattr(error.response, "status_code", 0))
    if status == 404:
        return _Missing(str(refusal(place, status)))
    final = refusal(place, status)
    retried = status in RETRIED_STATUS and not (transferring and status in (408, 429))
    return Transient(final, retry_after(error.response.headers)) if retried else final


def _for_transport(error: Exception, place: str, transferring: bool) -> Exception:
    """The error for a connection that broke; a transfer has already been repeated by the hub's client."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "onsistency check" in text:
        return IntegrityError(f"{place} must arrive whole; it stopped short, also when repeated. Try again later.")
    if "edirect" in text or "Redirect" in type(error).__name__:
        return refusal(place, 302)
    final = CheckpointError(
        f"{place} must be reachable; got: {type(error).__name__}: {text}. Check the network, the proxy and "
        "HF_ENDPOINT, or name a local copy of the file."
    )
    return final if transferring else Transient(final)


@contextlib.contextmanager
def _bars(progress: bool) -> Iterator[None]:
    """Silence huggingface_hub's progress bars for a while."""
    from huggingface_hub import utils

    if progress or utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _snapshot(path: Path) -> Path:
    """The snapshot folder of a cached file; its name is the commit."""
    parts = path.parts
    return Path(*parts[: len(parts) - parts[::-1].index("snapshots") + 1])


def _tag(path: Path) -> str:
    """The hub's tag of a cached file: the name of the blob that its link points at."""
    return path.resolve().name if path.is_symlink() else ""


def _shards(index: Path) -> list[str]:
    """Files that an index of sharded weights names.

    Raises:
        CheckpointError: The index is not one, or names files outside its repository.
    """
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index.name} must map tensor names to files; it does not. Download it again."
        ) from error
    if len(names) > _MAX_SHARDS or not all(isinstance(n, str) and "/" not in n and ".." not in n for n in names):
        raise CheckpointError(f"{index.name} must name at most {_MAX_SHARDS} files beside it; it does not.")
    return names
