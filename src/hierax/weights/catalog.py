"""The published checkpoints of the family: what each is, where it lies and what its licence allows.

The facts are in `catalog.toml` beside this file. A TOML of the same format named by the environment variable
HIERAX_CATALOG adds to them or overrides them, so that a private mirror needs no code.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from ..config import ARCHITECTURES, ModelConfig, PreprocessSpec
from ..errors import HieraxError, UnknownNameError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FORMATS = ("hierax", "meta", "sam2", "transformers", "timm", "birder")
_TABLES = ("preprocess", "group", "citation", "model")
TASKS = ("classification", "embedding", "mae")
_SHIPPED = Path(__file__).with_name("catalog.toml")


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """One published checkpoint, or an architecture that has none (`pretrained` is False).

    The weights lie in exactly one of `path`, `url` and `repo`. A field that its origin does not publish keeps
    its default: empty, or None.

    Attributes:
        name: The name that `hierax list` shows.
        aliases: Other names that mean the same weights.
        architecture: Key of `hierax.config.ARCHITECTURES`.
        format: Which of `FORMATS` the file is in; empty without weights.
        pretrained: Whether weights exist.
        path: A file or folder on this machine: the embedded model, or one of a private catalogue.
        url: Address of a single file.
        repo: Hub repository, "org/repo".
        file: The weights file in that repository; empty means that its standard files make one folder.
        revision: Branch, tag or commit of the repository; empty is its default branch.
        mirror: A second public place of the same weights, a hub id or a URL. It resolves like an alias, and
            is then where the weights come from.
        sha256: Hash of the published file, 64 hexadecimal digits.
        superseded: Hashes of earlier files under the same name, which caches still hold.
        license: SPDX identifier in lower case.
        commercial: Whether the licence allows commercial use.
        dataset: What the weights were trained on.
        task: "classification", "embedding" or "mae".
        input_size: Pixels, (height, width) or (frames, height, width).
        num_classes: Classes of the head, 0 without one, None where only the file says.
        labels: Which list of `hierax.weights.labels` names the classes; empty where the file does or nobody.
        preprocess: The origin's own recipe; what a file carries goes before it.
        frame_stride: For video, how many source frames one input frame stands for.
        top1: Accuracy in percent that the origin reports on its own dataset.
        citation: Keys of the works to cite.
        note: One sentence a user should know before choosing it.
        catalog: The TOML file that says all this.
    """

    name: str
    architecture: str
    aliases: tuple[str, ...] = ()
    format: str = ""
    pretrained: bool = True
    path: Path | None = None
    url: str = ""
    repo: str = ""
    file: str = ""
    revision: str = ""
    mirror: str = ""
    sha256: str = ""
    superseded: tuple[str, ...] = ()
    license: str = ""
    commercial: bool = True
    dataset: str = ""
    task: str = "embedding"
    input_size: tuple[int, ...] = (224, 224)
    num_classes: int | None = None
    labels: str = ""
    preprocess: PreprocessSpec = field(default_factory=PreprocessSpec)
    frame_stride: int | None = None
    top1: float | None = None
    citation: tuple[str, ...] = ()
    note: str = ""
    catalog: Path = _SHIPPED

    @property
    def config(self) -> ModelConfig:
        """The architecture, still at its own default input size and number of classes."""
        return ARCHITECTURES[self.architecture]

    @property
    def source(self) -> str:
        """Where the weights come from, in one string for people."""
        if self.repo:
            revision = f"@{self.revision}" if self.revision else ""
            return f"{self.repo}{revision}" + (f"/{self.file}" if self.file else "")
        return self.url or (str(self.path) if self.path else "")

    def at(self, place: str, revision: str = "") -> CatalogEntry:
        """The same weights from another place, a URL or a hub id; hashes do not follow."""
        elsewhere: dict[str, Any] = {"path": None, "file": "", "sha256": "", "superseded": ()}
        if "://" in place:
            return dataclasses.replace(self, url=place, repo="", revision="", **elsewhere)
        return dataclasses.replace(self, repo=place, url="", revision=revision, **elsewhere)


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
    known, index, _ = _catalog()
    base, _, revision = name.partition("@")
    target = index.get(name) or index.get(base)
    if target is None:
        raise UnknownNameError(
            f"Unknown model {name!r}. {nearest(name, index)}See `hierax list` for all names; "
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
    return dataclasses.replace(entry, revision=revision, sha256="", superseded=())


def list_names(pattern: str = "*", *, pretrained: bool | None = None, commercial: bool | None = None) -> list[str]:
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
        and (commercial is None or entry.commercial == commercial)
    ]


def citation(entry: CatalogEntry) -> str:
    """BibTeX of the works behind an entry, one after the other; empty where none is known."""
    texts = _catalog()[2]
    return "\n\n".join(texts[key] for key in entry.citation)


Catalog = tuple[dict[str, CatalogEntry], dict[str, str], dict[str, str]]


def _catalog() -> Catalog:
    """Entries by name, names by every name and alias, and BibTeX by key."""
    private = os.environ.get("HIERAX_CATALOG", "")
    if not private:
        return _read_catalogs(None, 0)
    path = Path(private).expanduser()
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
    for path in (_SHIPPED, private):
        if path is None:
            continue
        document = _read_toml(path)
        for table in shared:
            shared[table] |= document.get(table, {})
        layer = _Reader(path, shared).entries(document)
        known.update(layer)
        for entry in layer.values():
            index |= dict.fromkeys(_other_names(entry), entry.name)
        index |= {name: name for name in layer}
    for name, config in ARCHITECTURES.items():
        if name not in index:
            known[name] = _untrained(config)
            index[name] = name
    return known, index, {key: text.strip() for key, text in shared["citation"].items()}


def _other_names(entry: CatalogEntry) -> tuple[str, ...]:
    """What means an entry besides its name: its aliases, its address and its mirror."""
    return (*entry.aliases, *filter(None, (entry.url, entry.mirror)))


def _untrained(config: ModelConfig) -> CatalogEntry:
    """An architecture that nobody published weights for."""
    task = "mae" if config.decoder else "classification" if config.num_classes else "embedding"
    return CatalogEntry(
        name=config.name,
        architecture=config.name,
        pretrained=False,
        task=task,
        input_size=config.input_size,
        num_classes=config.num_classes,
        preprocess=PreprocessSpec(size=_height_width(config.input_size)),
        citation=("hiera", "sam2") if config.family == "hieradet" else ("hiera",),
    )


def _height_width(size: tuple[int, ...]) -> tuple[int, int]:
    return size[-2], size[-1]


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise HieraxError(f"A catalogue must be valid TOML; {path}: {error}.") from error
    for key, value in document.items():
        if key not in _TABLES:
            raise HieraxError(
                f"A catalogue has only the tables {', '.join(_TABLES)}; {path} has {key!r}. {nearest(key, _TABLES)}"
            )
        if not isinstance(value, list if key == "model" else dict):
            shape = "[[model]] blocks" if key == "model" else f"a [{key}.NAME] table"
            raise HieraxError(f"{key!r} must be written as {shape}; {path}.")
    return document


class _Reader:
    """Turns the `[[model]]` tables of one file into entries; every complaint names file, model and key."""

    def __init__(self, path: Path, shared: Mapping[str, Mapping[str, Any]]) -> None:
        self.path, self.shared = path, shared

    def entries(self, document: Mapping[str, Any]) -> dict[str, CatalogEntry]:
        """All models of the document by name."""
        found: dict[str, CatalogEntry] = {}
        taken: dict[str, str] = {}
        for key, text in document.get("citation", {}).items():
            self.need(isinstance(text, str), "citation", key, "must be BibTeX text")
        for number, table in enumerate(document.get("model", []), 1):
            name = table.get("name") if isinstance(table, dict) else None
            where = f"model number {number}"
            if not isinstance(name, str) or not name:
                self.fail(where, "name", "must be a name")
            entry = self.entry(name, table)
            for word in (name, *entry.aliases):
                self.need(word not in taken, name, "name", f"{word!r} already belongs to {taken.get(word)!r}")
                taken[word] = name
            found[name] = entry
        return found

    def entry(self, name: str, table: Mapping[str, Any]) -> CatalogEntry:
        """One model, its group filled in, checked field by field."""
        fields = dict(self.lookup("group", table["group"], name)) if "group" in table else {}
        fields |= {key: value for key, value in table.items() if key != "group"}
        preset = fields.pop("preprocess", {})
        known = {item.name: item for item in dataclasses.fields(CatalogEntry)}
        for key, value in fields.items():
            if key not in known or key == "catalog":
                self.fail(name, key, f"is not a field. {nearest(key, known)}")
            fields[key] = self.value(name, key, value, str(known[key].type))
        fields.setdefault("architecture", "")
        size = fields.setdefault("input_size", (224, 224))
        self.check(name, fields)
        recipe = self.recipe(name, preset, size)
        return CatalogEntry(**{**fields, "preprocess": recipe, "catalog": self.path})

    def value(self, name: str, key: str, value: Any, kind: str) -> Any:
        """One TOML value as the field's type."""
        if isinstance(value, str):
            self.need("str" in kind or "Path" in kind, name, key, f"must be {kind}, not text")
            self.need(not kind.startswith("tuple"), name, key, "must be a list")
            text = value.replace("{name}", name)
            return (self.path.parent / Path(text).expanduser()).resolve() if key == "path" else text
        if isinstance(value, list):
            item = int if "int" in kind else str
            right = kind.startswith("tuple") and all(type(v) is item for v in value)
            self.need(right, name, key, f"must be {kind}")
            return tuple(v.replace("{name}", name) if item is str else v for v in value)
        if isinstance(value, bool):
            self.need(kind == "bool", name, key, f"must be {kind}, not true or false")
        elif isinstance(value, (int, float)):
            right = "float" in kind or (kind.startswith("int") and isinstance(value, int))
            self.need(right and value >= 0, name, key, f"must be {kind}; got {value}")
        else:
            self.fail(name, key, f"must be {kind}")
        return value

    def check(self, name: str, fields: Mapping[str, Any]) -> None:
        """Rules between fields."""
        self.among(name, "architecture", fields["architecture"], ARCHITECTURES)
        self.among(name, "task", fields.get("task", "embedding"), TASKS)
        for key in fields.get("citation", ()):
            self.among(name, "citation", key, self.shared["citation"])
        for digest in (fields.get("sha256", ""), *fields.get("superseded", ())):
            digits = len(digest) in (0, 64) and set(digest) <= set("0123456789abcdef")
            self.need(digits, name, "sha256", f"must be 64 lower-case hexadecimal digits; got {digest!r}")
        rank = len(ARCHITECTURES[fields["architecture"]].input_size)
        self.need(len(fields["input_size"]) == rank, name, "input_size", f"must have {rank} numbers")
        if fields.get("pretrained", True):
            self.among(name, "format", fields.get("format", ""), FORMATS)
            places = [key for key in ("path", "url", "repo") if fields.get(key)]
            self.need(len(places) == 1, name, "url", f"one of path, url and repo is needed; got {places}")

    def recipe(self, name: str, preset: Any, size: tuple[int, ...]) -> PreprocessSpec:
        """The preset of that name, or an inline table, at the model's size."""
        options = self.lookup("preprocess", preset, name) if isinstance(preset, str) else preset
        if not isinstance(options, dict):
            self.fail(name, "preprocess", "must be a preset name or a table")
        try:
            return PreprocessSpec.from_dict({"size": _height_width(size), **options})
        except (HieraxError, TypeError) as error:
            self.fail(name, "preprocess", str(error))

    def lookup(self, table: str, key: Any, name: str) -> Mapping[str, Any]:
        """A shared table that a model refers to."""
        self.among(name, table, key, self.shared[table])
        found = self.shared[table][key]
        self.need(isinstance(found, dict), name, table, f"{key!r} must be a table")
        return found

    def among(self, name: str, key: str, value: Any, known: Iterable[str]) -> None:
        """Require one of the known words."""
        if not isinstance(value, str) or value not in known:
            self.fail(name, key, f"{value!r} is unknown. {nearest(str(value), known)}")

    def need(self, truth: bool, name: str, key: str, rule: str) -> None:
        """Require a rule."""
        if not truth:
            self.fail(name, key, rule)

    def fail(self, name: str, key: str, rule: str) -> NoReturn:
        """Refuse the file."""
        raise HieraxError(f"Catalogue {self.path}, model {name!r}, key {key!r}: {rule.strip()}")
