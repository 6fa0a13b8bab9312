"""One model repository of the hub, through huggingface_hub's cache: patient, verified, and usable offline."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from .. import console
from ..errors import CheckpointError, UnknownNameError, nearest
from ..net.address import inner, shown
from ..net.cache import UNKNOWN, Published, alone, is_sha256, offline, way_online
from ..net.hub import Refused, Remote, Shelf, endpoint, listing, remote
from ..net.options import chosen
from ..net.transfer import Kind, patiently, refused
from ..net.trust import changed, trusted, verified
from ..schema import MOST_BYTES
from .catalog import entries
from .files import weight_map

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
_WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_WEIGHTS_FILE = Kind("a weights file", CheckpointError, "", 1 << 36, lambda _: "")
_SIDECAR = Kind("a configuration file", CheckpointError, "", MOST_BYTES, lambda _: "")


class Missing(CheckpointError):
    """The repository is there, this file is not."""


@dataclass(frozen=True)
class Repository:
    """A repository ("org/repo") at one revision: a branch, tag or commit."""

    name: str
    revision: str = "main"

    def __post_init__(self) -> None:
        from huggingface_hub.utils import HFValidationError, validate_repo_id

        try:
            validate_repo_id(self.name)
        except HFValidationError:
            raise UnknownNameError(
                f"A hub id looks like 'org/repo'; got {shown(self.name)!r}. See `hierax list`."
            ) from None
        if not inner(self.revision):
            raise UnknownNameError(
                f"A revision must be a branch, tag or commit; got {self.revision[:80]!r}. Leave it out for the default."
            )

    @property
    def _shelf(self) -> Shelf:
        return Shelf(self.name)

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
        from huggingface_hub.utils import are_progress_bars_disabled

        place = f"{self.name}/{name}"
        if not inner(name):
            raise CheckpointError(f"A file of a repository must lie inside of it; {self.name} has {name[:80]!r}.")

        where = f"{published.place}/{name}" if published.place else ""
        known = trusted(replace(published, place=where))

        def obtain(again: bool) -> tuple[Path, Published]:
            path, tag = self._obtain(name, again, known)
            return path, replace(known, wanted=known.wanted or ((tag,) if is_sha256(tag) else ()))

        wanted = not are_progress_bars_disabled()
        with contextlib.closing(console), alone(place), console.progress(wanted):
            return verified(place, obtain)

    def _first(self, *names: str, published: Published = UNKNOWN) -> Path | None:
        """The first of these files that the repository has."""
        for name in names:
            with contextlib.suppress(Missing):
                return self.file(name, published)
        return None

    def _unusual(self) -> str:
        """Name of the weights file of a repository that has none of the usual ones."""
        if offline():
            snapshot = self._shelf.snapshot(self.revision)
            names = [] if snapshot is None else os.listdir(snapshot)
        else:
            names = listing(self.name, self.revision)
        for suffix in _WEIGHT_SUFFIXES:
            same = sorted(name for name in names if name.endswith(suffix) and inner(name) and "/" not in name)
            if len(same) > 1:
                raise CheckpointError(
                    f"A repository must hold one weights file; {self.name} has {', '.join(same[:8])}. Give the "
                    f"address of one: https://huggingface.co/{self.name}/resolve/{self.revision}/{same[0]}"
                )
            if same:
                return same[0]
        forbids, remedy = way_online()
        only = f" in the cache, beside which {forbids} allows nothing. {remedy} once" if offline() else ""
        raise CheckpointError(
            f"{self.name} at {self.revision!r} holds no weights file (looked for {', '.join(_WEIGHTS)} and "
            f"{', '.join('*' + s for s in _WEIGHT_SUFFIXES)}){only}."
        )

    def _obtain(self, name: str, again: bool, known: Published) -> tuple[Path, str]:
        """Path in the cache and the hub's tag of the content, from the cache unless the hub has something newer."""
        again = again or (chosen().again and not offline())
        cached = None if again else self._shelf.find(self.revision, name)
        if offline():
            if cached is None:
                forbids, remedy = way_online()
                raise Missing(
                    f"Offline mode ({forbids}) allows only what is cached; {self.name}/{name} at "
                    f"{self.revision!r} is not. {remedy} once to download it."
                )
            return cached, _tag(cached)
        try:
            latest = patiently(lambda: self._remote(name))
        except CheckpointError as error:
            if cached is None or isinstance(error, Missing):
                raise
            console.say(f"using the cached {self.name}/{name}: {error}")
            return cached, _tag(cached)
        if cached is not None and _snapshot(cached).name == latest.commit:
            return cached, latest.tag
        if known.since and is_sha256(latest.tag) and latest.tag not in known.wanted:
            if cached is None:
                raise changed(f"{self.name}/{name}", known, latest.tag)
            console.say(f"the hub has another {self.name}/{name} than at its first download; the cached one is used.")
            return cached, _tag(cached)
        kind = _WEIGHTS_FILE if name.endswith(_WEIGHT_SUFFIXES) else _SIDECAR
        return self._shelf.bring(self.revision, name, latest, kind, again=again), latest.tag

    def _remote(self, name: str) -> Remote:
        """Commit and tag of the file as the hub has it now."""
        try:
            return remote(self.name, self.revision, name)
        except Refused as refusal:
            failure = self._meaning(refusal, name)
        raise failure

    def _meaning(self, refusal: Refused, name: str) -> Exception:
        """Our error for the hub's, which are statuses with a code in a header."""
        status, headers = refusal.status, refusal.headers
        code, repo, place = headers.get("X-Error-Code"), repr(self.name), f"{shown(endpoint())}/{self.name}/{name}"
        if code == "GatedRepo":
            return CheckpointError(
                f"{place} is gated: accept its conditions in a browser, then set HF_TOKEN to a token of that account."
            )
        # The hub answers 401 for repositories that are private or do not exist.
        if code == "RepoNotFound" or (status == 401 and "credentials" not in (headers.get("X-Error-Message") or "")):
            return UnknownNameError(
                f"The hub has no repository {repo}, or it is private. {nearest(self.name, entries())}Check the "
                "spelling; for a private one set HF_TOKEN."
            )
        if code == "RevisionNotFound":
            return UnknownNameError(f"{repo} has no revision {self.revision!r}. Use a branch, tag or commit of it.")
        if code == "EntryNotFound" or status == 404:
            return Missing(f"{repo} at {self.revision!r} has no file {name!r}. Check the name.")
        return refused(place, status, headers)


def _snapshot(path: Path) -> Path:
    """The snapshot folder of a cached file; its name is the commit."""
    parts = path.parts
    return Path(*parts[: len(parts) - parts[::-1].index("snapshots") + 1])


def _tag(path: Path) -> str:
    """The hub's tag of a cached file: the name of the blob that its link points at."""
    return path.resolve().name if path.is_symlink() else ""
