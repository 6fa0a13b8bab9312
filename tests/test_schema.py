"""Strict dataclasses: what is wrong is named, what is right comes back equal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierax import schema
from hierax.errors import HieraxError, InputError, RecipeError, UnknownNameError


@dataclass(frozen=True, kw_only=True)
class Inner:
    depth: schema.Positive = 1
    note: str | None = None

    def __post_init__(self) -> None:
        schema.conform(self, RecipeError)


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str = "x"
    steps: schema.Positive | None = None
    share: schema.Share = 0.5
    kind: Literal["a", "b"] = "a"
    windows: tuple[tuple[int, ...] | int | None, ...] = ()
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    table: dict[str, int] | None = None
    inner: Inner | None = None
    on: bool = False

    def __post_init__(self) -> None:
        schema.conform(self, RecipeError)


@dataclass(frozen=True, kw_only=True)
class Needy:
    must: int

    def __post_init__(self) -> None:
        schema.conform(self)


def read(data: Any) -> Outer:
    return schema.read(Outer, data, where="A recipe", error=RecipeError, elsewhere={"iterations": "steps"})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"stepz": 1}, r"A recipe has the unknown key 'stepz'. Did you mean 'steps'\?"),
        ({"iterations": 1}, r"unknown key 'iterations'. Did you mean 'steps'\?"),
        ({1: 2}, "unknown key 1"),
        ({"steps": 0}, "steps must be at least 1; got 0"),
        ({"steps": True}, "steps must be a whole number or left out; got True"),
        ({"steps": 2.0}, "steps must be a whole number or left out; got 2.0"),
        ({"share": 1.5}, "share must be at least 0 and at most 1; got 1.5"),
        ({"share": float("nan")}, "share must be a number; got nan"),
        ({"share": 10**400}, "share must be a number"),
        ({"kind": "c"}, "kind must be one of a, b; got 'c'"),
        ({"kind": 1}, "kind must be 'a' or 'b'; got 1"),
        ({"windows": "12"}, "windows must be a list; got '12'"),
        ({"windows": [["a"]]}, "windows must be a whole number; got 'a'"),
        ({"mean": [1, 2]}, "mean must have 3 values"),
        ({"mean": [1, 2, "3"]}, "mean must be a number; got '3'"),
        ({"table": {"a": "b"}}, "table must be a whole number; got 'b'"),
        ({"inner": {"width": 1}}, "inner has the unknown key 'width'"),
        ({"inner": {"depth": -1}}, "depth must be at least 1; got -1"),
        ({"inner": 3}, "inner must be a table or left out; got 3"),
        ({"on": 1}, "on must be true or false; got 1"),
        ([1], "A recipe must be a table"),
        (None, "A recipe must be a table"),
    ],
)
def test_read__names_rule_and_value(data, said):
    """A reader that coerces would train with steps=True or mean=(1, 2)."""
    with pytest.raises(RecipeError, match=said):
        read(data)


def test_read__converts_what_json_and_toml_cannot_say():
    """Lists stay lists in a lazy reader, and a frozen config that holds one cannot be hashed."""
    found = read({"windows": [[8, 8], -2, None], "mean": [0, 1, 2], "inner": {"depth": 3}, "table": {"a": 1}})
    assert found.windows == ((8, 8), -2, None)
    assert found.mean == (0.0, 1.0, 2.0)
    assert all(type(number) is float for number in found.mean)
    assert found.inner == Inner(depth=3)


def test_conform__constructor_is_as_strict_as_the_reader():
    """Checking only in the reader lets Python callers through."""
    with pytest.raises(RecipeError, match="kind must be one of"):
        Outer(kind="bogus")  # type: ignore[arg-type]


def test_read__missing_and_unknown_kinds():
    """A missing key as TypeError, or one error type for all, would reach users as an internal error."""
    with pytest.raises(InputError, match="A sidecar must have the key 'must'"):
        schema.read(Needy, {}, where="A sidecar")
    with pytest.raises(UnknownNameError, match="'may'"):
        schema.read(Needy, {"may": 1}, where="A sidecar", unknown=UnknownNameError)


def test_messages_stay_short():
    """A value of a megabyte printed whole would hide the rule."""
    with pytest.raises(RecipeError) as caught:
        read({"steps": "9" * 10**6})
    assert len(str(caught.value)) < 300


outers = st.builds(
    Outer,
    name=st.text(max_size=20),
    steps=st.none() | st.integers(1, 10**9),
    share=st.floats(0, 1),
    windows=st.lists(st.none() | st.integers(-9, 9) | st.lists(st.integers(-9, 9), max_size=3), max_size=4),
    table=st.none() | st.dictionaries(st.text(min_size=1, max_size=5), st.integers(-9, 9), max_size=3),
    inner=st.none() | st.builds(Inner, note=st.none() | st.text(max_size=9)),
    on=st.booleans(),
)


@given(outers)
def test_plain__read_inverts_it(outer):
    """A value lost on the way out is a setting that a resumed run silently changes."""
    assert read(json.loads(json.dumps(schema.plain(outer)))) == outer


@given(
    st.builds(
        Outer,
        name=st.text(max_size=20),
        steps=st.none() | st.integers(1, 10**9),
        inner=st.none() | st.builds(Inner, note=st.text(max_size=9)),
    )
)
def test_to_toml__read_inverts_it(tmp_path_factory, outer):
    """Quotes, newlines and backslashes in text must survive TOML."""
    path = tmp_path_factory.mktemp("toml") / "recipe.toml"
    path.write_text(schema.to_toml(schema.plain(outer)), "utf-8")
    assert read(schema.read_toml(path, what="A recipe")) == outer


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
KEYS = ("name", "steps", "share", "kind", "windows", "mean", "table", "inner", "on")


@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=6), junk, max_size=6) | junk)
def test_read__any_data_is_read_or_refused(data):
    """A raw TypeError or KeyError from a sidecar is an internal error to whoever downloaded it."""
    try:
        found = read(data)
    except HieraxError:
        return
    assert isinstance(found, Outer)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a = [", "must be valid TOML"),
        (b"\xff\xfe", "must be UTF-8 text"),
        (b"a = " + b"[" * 5000 + b"]" * 5000, "must be valid TOML"),
        (b"a = " + b"9" * 6000, "must be valid TOML"),
    ],
)
def test_read_toml__refuses(tmp_path, content, said):
    """Deep nesting and long numbers raise RecursionError and ValueError inside the parser."""
    path = tmp_path / "r.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=said):
        schema.read_toml(path, what="A recipe", error=RecipeError)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"{", "valid JSON"), (b"[" * 200_000, "valid JSON"), (b"9" * 6000, "valid JSON"), (b"\xff", "UTF-8")],
)
def test_read_json__refuses(tmp_path, content, said):
    """As for TOML."""
    path = tmp_path / "c.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        schema.read_json(path, what="A config")


def test_files__missing_and_too_large(tmp_path, monkeypatch):
    """A folder, a missing file and 400 MB of JSON are refused before anything is parsed."""
    with pytest.raises(InputError, match="must be readable"):
        schema.read_json(tmp_path / "none.json", what="A config")
    with pytest.raises(InputError, match="must be a regular file.*folder"):
        schema.read_toml(tmp_path, what="A recipe")
    monkeypatch.setattr(schema, "MOST_BYTES", 4)
    (tmp_path / "big.json").write_text("[1, 2]")
    with pytest.raises(InputError, match="must be smaller"):
        schema.read_json(tmp_path / "big.json", what="A config")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("0.5", 0.5), ("true", True), ("[1, 2]", [1, 2]), ("cosine", "cosine"), ("'a b'", "a b"), ("", "")],
)
def test_toml_value(text, value):
    """`--set schedule=cosine` must not need quotes."""
    assert schema.toml_value(text) == value


def test_paths_become_text_where_text_is_declared():
    """A Path in a recipe cannot be written to JSON."""
    assert Outer(name=Path("a/b")).name == "a/b"  # type: ignore[arg-type]


def test_positive__takes_whole_numbers_of_numpy():
    """`k=len(found)` is an int, `k=array.max()` is not, and means the same."""
    import numpy as np

    schema.positive(k=np.int64(5), n=np.uint8(1))
    for wrong in (np.int64(0), np.float64(5), True, np.bool_(True)):
        with pytest.raises(InputError, match="k must be"):
            schema.positive(k=wrong)
