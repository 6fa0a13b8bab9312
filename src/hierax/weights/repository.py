"""One model repository of the hub, through huggingface_hub's cache: patient, verified, and usable offline."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import console
from ..errors import CheckpointError, HieraxError, IntegrityError, UnknownNameError, nearest
from ..net.cache import UNKNOWN, Published, alone, disk_refused, is_sha256, offline, verified
from ..net.transfer import Transient, patiently, refused
from .catalog import entries
from .files import weight_map

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
_WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


class Missing(CheckpointError):
    """The repository is there, this file is not."""


@dataclass(frozen=True)
class Repository:
    """A repository ("org/repo") at one revision: a branch, tag or commit."""

    name: str
    revision: str = "main"

    def model(self, published: Published = UNKNOWN) -> Path:
        """The weights with the configuration files of the same commit.

        Returns:
            The snapshot folder; the weights file itself where it has an unusual name.

        Raises:
            CheckpointError: It holds no weights file, or as `file`.
            UnknownNameError: The repository or revision does not exist.
            IntegrityError: Wrong bytes, twice.
        """
        found = self._first(*_WEIGHTS, published=published) or self.file(self._unusual(), published)
        snapshot = _snapshot(found)
        name = found.relative_to(snapshot).as_posix()
        # The revision may be a branch that moves: everything else comes from the commit of the weights.
        same = replace(self, revision=snapshot.name)
        for config in ("config.json", "preprocessor_config.json", f"{name.rpartition('.')[0]}.json"):
            if config != "model.json":
                same._first(config)
        for shard in sorted(set(weight_map(found).values())) if name.endswith(".index.json") else ():
            same.file(shard)
        return found.parent if name in _WEIGHTS else found

    def file(self, name: str, published: Published = UNKNOWN) -> Path:
        """One file, verified against the published hash or else the hub's own.

        Raises:
            CheckpointError: It is not there (`Missing`) or out of reach.
            UnknownNameError: The repository or revision does not exist.
            IntegrityError: Wrong bytes, twice.
        """
        place = f"{self.name}/{name}"

        def obtain(again: bool) -> tuple[Path, Published]:
            path, tag = self._obtain(name, again)
            return path, replace(published, wanted=published.wanted or ((tag,) if is_sha256(tag) else ()))

        with alone(place):
            return verified(place, obtain)

    def _first(self, *names: str, published: Published = UNKNOWN) -> Path | None:
        """The first of these files that the repository has."""
        for name in names:
            with contextlib.suppress(Missing):
                return self.file(name, published)
        return None

    def _unusual(self) -> str:
        """Name of the weights file of a repository that has none of the usual ones."""
        from huggingface_hub import HfApi, snapshot_download

        names: list[str] = []
        with contextlib.suppress(*(Missing,) if offline() else ()), self._translated():
            if offline():
                names = os.listdir(snapshot_download(self.name, revision=self.revision, local_files_only=True))
            else:
                names = list(HfApi().list_repo_files(self.name, revision=self.revision))
        for suffix in _WEIGHT_SUFFIXES:
            same = sorted(name for name in names if name.endswith(suffix) and "/" not in name)
            if len(same) > 1:
                raise CheckpointError(
                    f"A repository must hold one weights file; {self.name} has {', '.join(same[:8])}. Give the "
                    f"address of one: https://huggingface.co/{self.name}/resolve/{self.revision}/{same[0]}"
                )
            if same:
                return same[0]
        raise CheckpointError(
            f"{self.name} at {self.revision!r} holds no weights file (looked for {', '.join(_WEIGHTS)} and "
            f"{', '.join('*' + s for s in _WEIGHT_SUFFIXES)}){' in the cache' if offline() else ''}."
        )

    def _obtain(self, name: str, again: bool) -> tuple[Path, str]:
        """Path in the cache and the hub's tag of the content, from the cache unless the hub has something newer."""
        from huggingface_hub import hf_hub_download, try_to_load_from_cache

        with self._translated(name):
            kept = None if again else try_to_load_from_cache(self.name, name, revision=self.revision)
        cached = Path(kept) if isinstance(kept, str) and Path(kept).is_file() else None
        if offline():
            if cached is None:
                raise Missing(
                    f"Offline mode (HF_HUB_OFFLINE) allows only what is cached; {self.name}/{name} at "
                    f"{self.revision!r} is not. Unset HF_HUB_OFFLINE once to download it."
                )
            return cached, _tag(cached)
        try:
            latest = patiently(lambda: self._metadata(name))
        except CheckpointError as error:
            if cached is None or isinstance(error, Missing):
                raise
            console.say(f"using the cached {self.name}/{name}: {error}")
            return cached, _tag(cached)
        if cached is not None and _snapshot(cached).name == latest.commit_hash:
            return cached, latest.etag or _tag(cached)

        def transfer() -> str:
            with self._translated(name, transferring=True), _bars():
                return hf_hub_download(self.name, name, revision=self.revision, force_download=again)

        return Path(patiently(transfer, attempts=3)), latest.etag or ""

    def _metadata(self, name: str) -> Any:
        """Commit and tag of the file as the hub has it now."""
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

        with self._translated(name):
            url = hf_hub_url(self.name, name, revision=self.revision)
            latest = get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        if not latest.commit_hash or not latest.etag:
            raise CheckpointError(
                f"{constants.ENDPOINT} must speak the hub's protocol; its answer for {self.name}/{name} has no commit "
                "or no tag. Check HF_ENDPOINT, and that no proxy page is in the way."
            )
        return latest

    @contextlib.contextmanager
    def _translated(self, name: str = "", transferring: bool = False) -> Iterator[None]:
        """Turn what huggingface_hub raises into our errors, or into `Transient` where waiting may help."""
        try:
            yield
        except (HieraxError, Transient):
            raise
        except Exception as error:
            raise self._meaning(error, name, transferring) from error

    def _meaning(self, error: Exception, name: str, transferring: bool) -> Exception:
        """Our error for one of huggingface_hub's, whose client repeats some requests of a transfer itself."""
        from huggingface_hub import constants, errors

        repo, place = repr(self.name), f"{constants.ENDPOINT}/{self.name}/{name}".rstrip("/")
        if isinstance(error, errors.HFValidationError):
            return UnknownNameError(f"A hub id looks like 'org/repo'; got {repo}. See `hierax list`.")
        if isinstance(error, errors.GatedRepoError):
            return CheckpointError(
                f"{place} is gated: accept its conditions in a browser, then set HF_TOKEN to a token of that account."
            )
        if isinstance(error, errors.RepositoryNotFoundError):
            return UnknownNameError(
                f"The hub has no repository {repo}, or it is private. {nearest(self.name, entries())}Check the "
                "spelling; for a private one set HF_TOKEN."
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return UnknownNameError(f"{repo} has no revision {self.revision!r}. Use a branch, tag or commit of it.")
        if isinstance(error, (errors.EntryNotFoundError, errors.LocalEntryNotFoundError)):
            return Missing(f"{repo} at {self.revision!r} has no file {name!r}. Check the name.")
        if isinstance(error, errors.HfHubHTTPError):
            status = error.response.status_code
            failure = refused(place, status, error.response.headers)
            if status == 404:
                return Missing(str(failure))
            repeated = transferring and status in (408, 429)
            return failure.final if repeated and isinstance(failure, Transient) else failure
        if isinstance(error, OSError) and not isinstance(error, (ConnectionError, TimeoutError)) and error.errno:
            return disk_refused(place, error)
        # huggingface_hub has changed its transport library twice: its errors are told by their nature, not type.
        text = (str(error) or type(error).__name__).splitlines()[0]
        if "onsistency check" in text or "IncompleteRead" in text:  # older clients do not repeat the latter
            return Transient(IntegrityError(f"{place} must arrive whole; it stopped short. Try again later."))
        if "edirect" in text or "Redirect" in type(error).__name__ or isinstance(error, RecursionError):
            return refused(place, 302)
        final = CheckpointError(
            f"{place} must be reachable; got: {type(error).__name__}: {text}. Check the network, the proxy and "
            "HF_ENDPOINT, or name a local copy of the file."
        )
        return final if transferring else Transient(final)


@contextlib.contextmanager
def _bars() -> Iterator[None]:
    """Silence huggingface_hub's progress bars for a while, where no progress is wanted."""
    from huggingface_hub import utils

    with contextlib.ExitStack() as after:
        if not console.shows_progress() and not utils.are_progress_bars_disabled():
            utils.disable_progress_bars()
            after.callback(utils.enable_progress_bars)
        yield


def _snapshot(path: Path) -> Path:
    """The snapshot folder of a cached file; its name is the commit."""
    parts = path.parts
    return Path(*parts[: len(parts) - parts[::-1].index("snapshots") + 1])


def _tag(path: Path) -> str:
    """The hub's tag of a cached file: the name of the blob that its link points at."""
    return path.resolve().name if path.is_symlink() else ""
