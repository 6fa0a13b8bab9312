"""Reads the pickle inside a torch file as data: a small machine that builds plain values and never calls anything.

It knows the two dozen instructions that state dicts are written in; what globals stand for is a table in `described`.
Only strings and numbers are hashed, memory stays in proportion to the pickle, and what was built is checked to be a
tree of bounded depth and size before anybody walks it.

Source: https://docs.python.org/3/library/pickletools.html; docs/decisions/0009-own-torch-reader.md.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from .described import GLOBALS, Characters, Function, Namespace, NumberType, Storage, StorageType, natural, refuse

MAX_STEPS = 250_000  # a checkpoint of the largest member with its optimizer needs a fifth
MAX_DEPTH = 100
MAX_UNFOLDED = 32_000_000  # entries and characters, as often as they would be printed


def read_pickle(data: bytes, start: int, storages: dict[str, Storage]) -> tuple[Any, int]:
    """What the pickle at `start` describes, and where it ends.

    Args:
        data: The pickle, and whatever follows it.
        start: Where it begins.
        storages: The storages that it names are entered here by key.

    Raises:
        Damaged: Cut short, made of what no state dict needs, or too large.
    """
    machine = _Machine(data, start, storages)
    value = machine.run()
    _bound(value)
    return value, machine.position


class _Machine:
    """A stack, the places of its marks, and a memo."""

    def __init__(self, data: bytes, start: int, storages: dict[str, Storage]) -> None:
        self.data, self.position, self.storages = data, start, storages
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.steps = 0

    def run(self) -> Any:
        while (code := self.take(1)) != b".":
            self.count(1)
            step = _STEPS.get(code)
            if step is None:
                refuse(f"a pickle instruction ({code!r}) that torch.save does not write")
            step(self)
        value = self.pop()
        return value if not self.stack and not self.marks else refuse("a pickle that leaves values over")

    def count(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MAX_STEPS:
            refuse(f"a pickle of over {MAX_STEPS} steps, which no checkpoint needs")

    def take(self, count: int) -> bytes:
        start, self.position = self.position, self.position + count
        return self.data[start : self.position] if self.position <= len(self.data) else refuse("a pickle cut short")

    def number(self, code: str) -> Any:
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def text(self, length: int) -> str:
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            refuse("text that is no UTF-8")

    def line(self) -> str:
        # No module or class has a longer name; without a bound, a search without a hit is the rest of the file long.
        end = self.data.find(b"\n", self.position, self.position + 200)
        found = self.text(end - self.position) if end >= 0 else refuse("a global without a name")
        self.position += 1
        return found

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            refuse("a pickle that takes what is not there")
        return self.stack.pop()

    def top(self, *kinds: type) -> Any:
        value = self.pop()
        self.stack.append(value)
        return value if type(value) in kinds else refuse("a pickle that fills what is no container")

    def since_mark(self) -> list[Any]:
        start = self.marks.pop() if self.marks else refuse("a pickle without a mark")
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def push_tuple(self, count: int) -> None:
        self.stack.append(tuple(reversed([self.pop() for _ in range(count)])))

    def fill(self, items: list[Any]) -> None:
        target = self.top(dict, OrderedDict)
        if len(items) % 2:
            refuse("a dictionary with a key but no value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Hashing a tuple can take for ever, and large integers can be made to collide.
            if type(key) not in (str, int, float, bool, type(None)) or (type(key) is int and key.bit_length() > 64):
                refuse("a dictionary by other keys than strings and numbers")
            target[key] = value

    def find(self) -> None:
        module, name = self.line(), self.line()
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        self.stack.append(GLOBALS[full] if full in GLOBALS else refuse(f"{full!r}, which no state dict needs"))

    def call(self) -> None:
        args, function = self.pop(), self.pop()
        if not isinstance(function, Function) or type(args) is not tuple:
            refuse("a call of what is no function")
        self.stack.append(function.describe(args))

    def build(self) -> None:
        """Give an object its attributes: those of a namespace count, those of a state dict say only versions."""
        state, target = self.pop(), self.top(OrderedDict, Namespace, NumberType)
        if isinstance(target, NumberType):
            order = state[1] if type(state) is tuple and len(state) > 1 else None
            target.order = order if order in ("<", ">") else "<" if order == "|" else refuse("a damaged numpy type")
        elif type(state) is not dict:
            refuse("attributes that are no dictionary")
        elif isinstance(target, Namespace):
            self.count(len(state))
            target.update(state)

    def locate(self) -> None:
        """Push the storage that a persistent id names: "storage", type, key, device, count, no view."""
        found = self.pop()
        if type(found) is not tuple or len(found) not in (5, 6) or found[0] != "storage" or any(found[5:]):
            refuse("a reference to what is no storage")
        kind, key, count = found[1], found[2], found[4]
        if not isinstance(kind, StorageType) or type(key) is not str or not natural(count):
            refuse("a storage without type, key or size")
        storage = self.storages.setdefault(key, Storage(key, kind.dtype, count))
        if (storage.dtype, storage.count) != (kind.dtype, count):
            refuse(f"storage {key[:80]!r} in two sizes")
        self.stack.append(storage)

    def recall(self, index: int) -> None:
        self.stack.append(self.memo[index] if index in self.memo else refuse("a reference to what was not built"))

    def remember(self, index: int) -> None:
        value = self.pop()
        self.stack.append(value)
        self.memo[index] = value


def _push(make: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(make(machine))


_STEPS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": lambda machine: None if machine.take(1) <= b"\x05" else refuse("a pickle of an unknown protocol"),
    b"(": lambda machine: machine.marks.append(len(machine.stack)),
    b"N": _push(lambda _: None),
    b"\x88": _push(lambda _: True),
    b"\x89": _push(lambda _: False),
    b"K": _push(lambda machine: machine.number("<B")),
    b"M": _push(lambda machine: machine.number("<H")),
    b"J": _push(lambda machine: machine.number("<i")),
    b"\x8a": _push(lambda machine: int.from_bytes(machine.take(machine.number("<B")), "little", signed=True)),
    b"G": _push(lambda machine: machine.number(">d")),
    b"X": _push(lambda machine: machine.text(machine.number("<I"))),
    b"U": _push(lambda machine: machine.text(machine.number("<B"))),
    b"]": _push(lambda _: []),
    b"}": _push(lambda _: {}),
    b")": _push(lambda _: ()),
    b"t": _push(lambda machine: tuple(machine.since_mark())),
    b"\x85": lambda machine: machine.push_tuple(1),
    b"\x86": lambda machine: machine.push_tuple(2),
    b"\x87": lambda machine: machine.push_tuple(3),
    b"a": lambda machine: _append(machine, [machine.pop()]),
    b"e": lambda machine: _append(machine, machine.since_mark()),
    b"s": lambda machine: machine.fill([machine.pop(), machine.pop()][::-1]),
    b"u": lambda machine: machine.fill(machine.since_mark()),
    b"q": lambda machine: machine.remember(machine.number("<B")),
    b"r": lambda machine: machine.remember(machine.number("<I")),
    b"h": lambda machine: machine.recall(machine.number("<B")),
    b"j": lambda machine: machine.recall(machine.number("<I")),
    b"c": _Machine.find,
    b"R": _Machine.call,
    b"\x81": _Machine.call,
    b"b": _Machine.build,
    b"Q": _Machine.locate,
}


def _append(machine: _Machine, items: list[Any]) -> None:
    machine.top(list).extend(items)


def _bound(root: Any) -> None:
    """Refuse what holds itself, is nested deep, or would unfold to far more than the file: one visit to each value."""
    sizes: dict[int, tuple[int, int]] = {}  # depth and unfolded size of the containers that are done
    path: list[tuple[Any, Iterator[Any], list[int]]] = []
    on_path: set[int] = set()

    def enter(value: Any) -> tuple[int, int] | None:
        """Depth and size of a value; None if it has to be walked first."""
        if not isinstance(value, (dict, list, tuple)):
            return 0, 1 + _length(value)
        if id(value) in on_path:
            refuse("a container that holds itself")
        if id(value) not in sizes:
            inner = (part for item in value.items() for part in item) if isinstance(value, dict) else iter(value)
            path.append((value, inner, [0, 1]))
            on_path.add(id(value))
            if len(path) > MAX_DEPTH:
                refuse(f"containers nested over {MAX_DEPTH} deep")
        return sizes.get(id(value))

    enter(root)
    while path:
        value, inner, total = path[-1]
        for part in inner:
            found = enter(part)
            if found is None:
                break
            total[:] = max(total[0], found[0]), total[1] + found[1]
        else:
            path.pop()
            on_path.discard(id(value))
            depth, size = total[0] + 1, total[1]
            if depth > MAX_DEPTH or size > MAX_UNFOLDED:
                refuse(f"containers nested over {MAX_DEPTH} deep, or shared so that they unfold to {size} entries")
            sizes[id(value)] = depth, size
            if path:
                above = path[-1][2]
                above[:] = max(above[0], depth), above[1] + size


def _length(value: Any) -> int:
    """Characters of a text, a number's digits beyond any that is common."""
    if isinstance(value, (str, Characters)):
        return len(value.text if isinstance(value, Characters) else value)
    return value.bit_length() // 3 if type(value) is int else 0
