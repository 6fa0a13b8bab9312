"""The published checkpoints of the family: what each is, where it lies and what its licence allows.

The facts are in `catalog.toml` beside this file. A TOML of the same format named by the environment variable
HIERAX_CATALOG adds to them or overrides them, so that a private mirror needs no code.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import ARCHITECTURES, PreprocessSpec, architecture
from ..errors import HieraxError, UnknownNameError, brief, nearest
from ..net.cache import is_sha256
from ..net.transfer import shown
from ..schema import conform, read, read_toml
from .card import ModelCard, allows_commerce

FORMATS = ("hierax", "meta", "sam2", "transformers", "timm", "birder")
_LONGEST_PATH = 1000
_SHIPPED = Path(__file__).with_name("catalog.toml")


@dataclass(frozen=True, kw_only=True, repr=False)
class CatalogEntry(ModelCard):
    """The card of one published checkpoint, or of an architecture that has none (`pretrained` is False).

    Where there are weights, they lie in exactly one of `path`, `url` and `repo`.

    Attributes:
        mirror: A second public place of the same weights, a hub id or a URL. It resolves like an alias, and
            is then where the weights come from.
        superseded: Hashes of earlier files under the same name, which caches still hold.
        labels: Which list of `hierax.weights.labels` names the classes; empty where the file does or nobody.
        catalog: The TOML file that says all this.
    """

    pretrained: bool = True
    mirror: str = ""
    superseded: tuple[str, ...] = ()
    labels: str = ""
    catalog: Path = _SHIPPED

    def at(self, place: str) -> CatalogEntry:
        """The same weights from another place, a URL or a hub id; hashes do not follow."""
        url, repo = (place, None) if "://" in place else (None, place)
        elsewhere: dict[str, Any] = {"path": None, "file": "", "revision": "", "sha256": None, "superseded": ()}
        return dataclasses.replace(self, url=url, repo=repo, **elsewhere)


def entries() -> Mapping[str, CatalogEntry]:
    """Every known checkpoint and architecture by name, in the order of the catalogue.

    Raises:
        HieraxError: HIERAX_CATALOG names a file that is missing or wrong; says which key.
    """
    return _catalog()[0]


def resolve(name: str) -> CatalogEntry:
    """The entry that a name, an alias or a mirror's hub id stands for; "name@revision" pins a hub revision.

    Raises:
        UnknownNameError: No such name; suggests the nearest.
    """
    known, index = _catalog()
    if not isinstance(name, str):
        raise UnknownNameError(f"A model is named in text; got {brief(name)}. See `hierax list` for all names.")
    base, _, revision = name.partition("@")
    target = index.get(name) or index.get(base)
    if name == "sam2_neck":
        raise UnknownNameError(
            "'sam2_neck' is a part of SAM 2, and no model: hierax.create('sam2_neck', source=...) makes it. For models "
            "see `hierax list sam2*`."
        )
    if target is None:
        raise UnknownNameError(
            f"Unknown model {shown(name)!r}. {nearest(name, index)}See `hierax list` for all names; "
            "a local file or folder needs to exist, a hub id looks like 'org/repo'."
        )
    entry = known[target]
    if base == entry.mirror:
        entry = entry.at(base)
    if not revision or name in index:
        return entry
    if not entry.repo:
        raise UnknownNameError(
            f"Only a hub repository has revisions; {base!r} comes from {entry.source or 'none'}. "
            "Leave the @revision out."
        )
    return dataclasses.replace(entry, revision=revision, sha256=None, superseded=())


def list_models(pattern: str = "*", *, pretrained: bool | None = None, commercial: bool | None = None) -> list[str]:
    """Names that match a shell pattern, in the order of the catalogue.

    Args:
        pattern: As in a shell: `*`, `?`, `[...]`; upper and lower case differ.
        pretrained: True keeps what has published weights, False what has none, None both.
        commercial: True drops weights that may not be used commercially, False keeps only those, None both.
    """
    return [
        entry.name
        for entry in entries().values()
        if fnmatch.fnmatchcase(entry.name, pattern)
        and (pretrained is None or entry.pretrained == pretrained)
        and (commercial is None or (entry.commercial is not False) == commercial)
    ]


Catalog = tuple[dict[str, CatalogEntry], dict[str, str]]
Shared = Mapping[str, dict[str, Any]]


def _catalog() -> Catalog:
    """Entries by name, and names by every name and alias."""
    private = os.environ.get("HIERAX_CATALOG", "")
    if not private:
        return _read_catalogs(None, 0)
    path = Path(os.path.expanduser(private))
    try:
        return _read_catalogs(path.absolute(), path.stat().st_mtime_ns)
    except OSError as error:
        raise HieraxError(
            f"HIERAX_CATALOG must name a readable TOML file; got {private!r} ({error.strerror}). "
            "Correct the path or unset the variable."
        ) from error


@functools.lru_cache(maxsize=4)
def _read_catalogs(private: Path | None, modified: int) -> Catalog:
    """Read the shipped file, then the private one over it; `modified` only keys the cache."""
    shared: dict[str, dict[str, Any]] = {"preprocess": {}, "group": {}, "citation": {}}
    known: dict[str, CatalogEntry] = {}
    index: dict[str, str] = {}
    for path in filter(None, (_SHIPPED, private)):
        layer = _layer(path, shared)
        known.update(layer)
        for entry in layer.values():
            # An address and a mirror mean the entry too.
            index |= dict.fromkeys((*entry.aliases, *filter(None, (entry.url, entry.mirror))), entry.name)
        index |= {name: name for name in layer}
    for name, config in ARCHITECTURES.items():
        if name not in index:
            index[name] = name
            spec = PreprocessSpec().with_size(config.input_size)
            works = ("hiera", "sam2") if config.family == "hieradet" else ("hiera",)
            cited = "\n\n".join(shared["citation"][work].strip() for work in works)
            known[name] = CatalogEntry(name=name, config=config, pretrained=False, preprocess=spec, citation=cited)
    return known, index


@dataclass(frozen=True, kw_only=True)
class _Document:
    """The tables of a catalogue file."""

    preprocess: dict[str, dict[str, Any]] = field(default_factory=dict)
    group: dict[str, dict[str, Any]] = field(default_factory=dict)
    citation: dict[str, str] = field(default_factory=dict)
    model: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        conform(self, HieraxError)


def _layer(path: Path, shared: Shared) -> dict[str, CatalogEntry]:
    """All models of one file by name; its other tables join the shared ones. A complaint names file and model."""
    found: dict[str, CatalogEntry] = {}
    taken: dict[str, str] = {}
    tables, place = read_toml(path, what="A catalogue", error=HieraxError), ""
    try:
        document = read(_Document, tables, where="It", error=HieraxError)
        for table, known in shared.items():
            known |= getattr(document, table)
        for number, model in enumerate(document.model, 1):
            place = f", model number {number}"
            name: Any = model.get("name")
            _need(name and isinstance(name, str), "name", "must be text")
            place = f", model {name!r}"
            found[name] = entry = _entry(path, model, shared)
            for word in (name, *entry.aliases):
                _need(word not in taken, "name", f"{word!r} already belongs to {taken.get(word)!r}")
                taken[word] = name
    except HieraxError as error:
        rule = "" if place else " Models are [[model]] blocks with a name, the rest [TABLE.NAME] tables."
        raise HieraxError(f"Catalogue {path}{place[:120]}: {str(error)[:500]}{rule}") from error
    return found


def _entry(path: Path, model: Mapping[str, Any], shared: Shared) -> CatalogEntry:
    """One model, its group filled in."""
    fields = {**(_lookup(shared, "group", model["group"]) if "group" in model else {}), **model}
    fields = {key: _named(value, model["name"]) for key, value in fields.items() if key != "group"}
    config = architecture(str(fields.pop("architecture", "")))
    size, rank = fields.pop("input_size", (224, 224)), len(config.input_size)
    whole = isinstance(size, (list, tuple)) and len(size) == rank and all(type(side) is int for side in size)
    _need(whole, "input_size", f"must be {rank} whole numbers; got {size!r}")
    config = config.with_input_size(tuple(size), birder=fields.get("format") == "birder")
    task, classes = fields.pop("task", None), fields.pop("num_classes", None)
    if classes is not None and config.decoder is None:
        config = config.with_num_classes(classes)
    recipe, cited = fields.pop("preprocess", {}), fields.pop("citation", ())
    recipe = _lookup(shared, "preprocess", recipe) if isinstance(recipe, str) else recipe
    _need(isinstance(recipe, dict), "preprocess", "must be a preset name or a table")
    _need(isinstance(cited, (list, tuple)), "citation", "must be a list of keys")
    fields["citation"] = "\n\n".join(_lookup(shared, "citation", key).strip() for key in cited)
    fields["preprocess"] = PreprocessSpec.from_dict({"size": config.input_size[-2:], **recipe})
    if "path" in fields:
        local = str(fields["path"])
        _need(local.isprintable() and len(local) < _LONGEST_PATH, "path", "must be a path of letters that print")
        fields["path"] = (path.parent / os.path.expanduser(local)).resolve()
    fields.setdefault("commercial", allows_commerce(str(fields.get("license", ""))) is not False)
    entry = read(CatalogEntry, {**fields, "config": config, "catalog": path}, where="A [[model]]", error=HieraxError)
    _need(task in (None, entry.task), "task", f"must be {entry.task!r} for this network; got {task!r}")
    for digest in filter(None, (entry.sha256, *entry.superseded)):
        _need(is_sha256(digest), "sha256", f"must be 64 lower-case hexadecimal digits; got {digest!r}")
    if entry.pretrained:
        _lookup({"format": dict.fromkeys(FORMATS)}, "format", entry.format)
        places = [key for key in ("path", "url", "repo") if getattr(entry, key)]
        _need(len(places) == 1, "url", f"one of path, url and repo is needed; got {places}")
    return entry


def _lookup(shared: Shared, table: str, key: Any) -> Any:
    """What stands in a shared table under the key that a model names."""
    if not isinstance(key, str) or key not in shared[table]:
        _need(False, table, f"{key!r} is unknown. {nearest(str(key), shared[table])}")
    return shared[table][key]


def _need(truth: Any, key: str, rule: str) -> None:
    """Require a rule."""
    if not truth:
        raise HieraxError(f"key {key!r}: {rule.strip()}")


def _named(value: Any, name: str) -> Any:
    """A field's value with "{name}" filled in."""
    if isinstance(value, list):
        return [_named(item, name) for item in value]
    return value.replace("{name}", name) if isinstance(value, str) else value
