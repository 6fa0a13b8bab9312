"""Variants of inputs: of bytes, of numbers in binary fields, and of JSON and TOML as people write them."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

MOST_BYTES = 1 << 18
EDGES = (0, 1, 2, 3, 4, 7, 8, 9, 16, 31, 32, 64, 127, 128, 255, 256, 1000, 4096, 9600, 32767, 32768, 65500, 65535, 65536,
         100_000_000, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1, -1, -2, -(2**31), -(2**63))  # fmt: skip
WORDS = (
    b"\x00", b"\xff", b"\n", b"\r\n", b"\t", b",", b'"', b"'", b"=", b"=cmd()", b"..", b"../", b"/etc/passwd", b"pipe:true",
    b"http://127.0.0.1:9/x.tar", b"file:///etc/passwd", b"\x1b[31m", b"\xed\xa0\x80", b"\xc3\x28", b"\xef\xbb\xbf", b"\xf0\x9f\x92\xa5",
    b"%s%n", b"{0..99}", b"{0000..9999999999}", b"*", b"**", b"[", b"-", b"--", b"NaN", b"Infinity", b"-1", b"1e999", b"null", b"true",
)  # fmt: skip
# JSON and TOML values that a reader may not have thought of, as text.
RAW: tuple[str, ...] = (
    "null", "true", "false", "0", "-0", "-1", "1", "0.0", "1e30", "-1e30", "1e308", "1e999", "NaN", "Infinity", "9600", "1000000",
    "2147483648", "9223372036854775808", "1" * 400, "9" * 5000, '""', '" "', '"a"', '"0"', '"="', '"../../x"', '"/etc/passwd"',
    '"\\u0000"', '"\\u001b[31m"', '"\\ud800"', '"x' + "y" * 5000 + '"', "[]", "{}", "[[]]", "[{}]", "[null]", "[1, 1]", "[[1, 1]]",
    "[0, 0, 0]", "[1e30, 1e30, 1e30]", "[1, 2, 3, 4]", "[96, 96]", "[32, 100000]", '["a", "a"]', '{"a": 1}', '{"0": 5}', '{"-1": "x"}',
    "[" * 50 + "]" * 50, "[" * 3000 + "]" * 3000, '{"a":' * 3000 + "1" + "}" * 3000, "[" + "0," * 5000 + "0]",
)  # fmt: skip


def any_bytes(data: bytes, rng: random.Random) -> bytes:
    """One to eight blind changes."""
    found = bytearray(data)
    for _ in range(1 << rng.randrange(4)):
        _change(found, rng)
    return bytes(found[:MOST_BYTES])


def _change(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    length = min(1 << rng.randrange(10), len(data) - at)
    kind = rng.randrange(9)
    if kind == 0 and at < len(data):
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1 and at < len(data):
        data[at] = rng.randrange(256)
    elif kind == 2:
        del data[at : at + length]
    elif kind == 3:
        data[at:at] = data[at : at + length]
    elif kind == 4:
        data[at:at] = rng.choice(WORDS)
    elif kind == 5:
        put_number(data, at, rng)
    elif kind == 6:
        del data[at:]
    elif kind == 7 and data:
        start = rng.randrange(len(data))
        data[at : at + length] = data[start : start + length]
    else:
        data[at : at + length] = rng.randbytes(length)


def put_number(data: bytearray, at: int, rng: random.Random) -> None:
    """Overwrite a field with a number at the edge of something."""
    size, order = rng.choice((1, 2, 2, 4, 4, 8)), rng.choice("<>")
    if at + size <= len(data):
        packed = struct.pack(f"{order}q", rng.choice(EDGES) & (2**63 - 1))
        data[at : at + size] = packed[:size] if order == "<" else packed[-size:]


def one_of(*ways: Callable[[bytes, random.Random], bytes]) -> Callable[[bytes, random.Random], bytes]:
    """A mutator that takes one of several ways; one that cannot read the input leaves it to blind changes."""

    def mutate(data: bytes, rng: random.Random) -> bytes:
        try:
            found = rng.choice(ways)(data, rng)
        except Exception:  # the input is broken already, which is what mutators do
            found = data
        return any_bytes(data, rng) if found == data or len(found) > 8 * MOST_BYTES else found

    return mutate


# --- trees ----------------------------------------------------------------------------------------------------------


def json_tree(data: bytes, rng: random.Random) -> bytes:
    """JSON with a few values or keys exchanged, given twice, left out or moved."""
    tree = json.loads(data)
    raw: dict[str, str] = {}
    for _ in range(rng.choice((1, 1, 2, 4))):
        tree = _tree(tree, rng, raw)
    text = json.dumps(tree)
    for mark, value in raw.items():
        text = text.replace(json.dumps(mark), value)
    return text.encode("utf-8", "replace")


def _tree(tree: Any, rng: random.Random, raw: dict[str, str]) -> Any:
    places = list(_places(tree))
    if not places or rng.random() < 0.02:
        return _raw(rng, raw)
    holder, key = rng.choice(places)
    kind = rng.randrange(7)
    if kind < 4:
        holder[key] = _raw(rng, raw)
    elif kind == 4:
        del holder[key]
    elif kind == 5:
        other, place = rng.choice(places)
        holder[key] = json.loads(json.dumps(other[place])) if isinstance(other, dict) or place < len(other) else None
    elif isinstance(holder, dict):
        holder[rng.choice(("", "a", "__proto__", "\x1b[0m", "0", "-1", str(10**30), *map(str, holder)))] = holder.pop(
            key
        )
    return tree


def _raw(rng: random.Random, raw: dict[str, str]) -> str:
    mark = f"@{len(raw)}@"
    raw[mark] = rng.choice(RAW)
    return mark


def _places(tree: Any, depth: int = 0) -> list[tuple[Any, Any]]:
    keys: Sequence[Any] = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    found = [(tree, key) for key in keys]
    return found + [place for key in keys if depth < 20 for place in _places(tree[key], depth + 1)]


def toml_lines(data: bytes, rng: random.Random) -> bytes:
    """TOML with a few values, keys, tables or lines exchanged."""
    lines = data.decode("utf-8", "replace").splitlines()
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(lines) + 1)
        key = lines[at].partition("=")[0].strip() if at < len(lines) and "=" in lines[at] else "name"
        kind = rng.randrange(8)
        if kind < 4 and at < len(lines) and "=" in lines[at]:
            lines[at] = f"{key} = {_toml_value(rng)}"
        elif kind == 4 and at < len(lines):
            del lines[at]
        elif kind == 5 and lines:
            lines.insert(at, rng.choice(lines))
        elif kind == 6 and at < len(lines):
            lines[at] = rng.choice(
                ("[[model]]", "[a.b.c]", f"[{key}]", f"[[{key}]]", f"{key}.a.b = 1", f'"" = {key!r}', "[" * 500)
            )
        else:
            lines.insert(at, f"{rng.choice((key, 'x', 'before', 'method'))} = {_toml_value(rng)}")
    return "\n".join(lines).encode("utf-8", "replace")


def _toml_value(rng: random.Random) -> str:
    own = (
        "nan",
        "-inf",
        "inf",
        "1979-05-27",
        "07:32:00",
        "0x7fffffffffffffffff",
        "1_000",
        "''",
        '"""\n\n"""',
        "{a = {b = 1}}",
    )
    return rng.choice((*own, *RAW)).replace('": ', '" = ').replace('":', '" = ')
