"""Pickles of plain data and of arrays of whole numbers, read without running anything that they ask for.

A pickle is a program. The standard library's `pickletools` takes it apart, and here its instructions are carried out:
those that plain data needs, and of callables those names alone that numpy's arrays ask for, behind which stands this
module; nothing of numpy, nor of anything else that a pickle names, is called. What a file can make Python allocate is
a small multiple of its size.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from typing import Any

import numpy as np

LARGEST = 256 << 20  # bytes of a file: CIFAR-100's largest has 155 MB
MOST_STEPS = 5_000_000  # instructions: CIFAR-100's largest has some 200,000
KINDS: dict[str, np.dtype] = {"u1": np.dtype("u1"), "i4": np.dtype("<i4"), "i8": np.dtype("<i8")}
TEXTS = frozenset({"STRING", "BINSTRING", "SHORT_BINSTRING"})  # Python 2's, which may be any bytes
VALUES = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
})  # fmt: skip
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
ARRAY, TYPE, ENCODE, BUFFER = "array", "type", "encode", "buffer"
CALLABLES = {
    ("numpy", "dtype"): TYPE,
    ("numpy", "ndarray"): ARRAY,  # an argument of the next one
    ("_codecs", "encode"): ENCODE,  # how protocol 2 of Python 3 writes bytes
    **{(f"numpy.{core}.multiarray", "_reconstruct"): ARRAY for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): BUFFER for core in ("core", "_core")},
}


class Refused(ValueError):
    """Why a pickle is not read, in one line."""


def load(data: bytes) -> Any:
    """Return what a pickle holds: dict, list, tuple, int, bool, None, str, bytes (texts of Python 2 too), and arrays of
    uint8, int32 or int64 (see `array_of`). Raises Refused for all else, and for what is cut short."""
    if len(data) > LARGEST:
        raise Refused(f"is {len(data):,} bytes long, more than the limit of {LARGEST:,}")
    try:
        return _Machine().run(pickletools.genops(data))
    except Refused:
        raise
    except Exception as error:  # a program that was damaged, or written by hand, may fail in any way
        raise Refused(f"is no pickle of plain data, or one cut short ({type(error).__name__})") from None


def array_of(value: Any) -> np.ndarray | None:
    """Return an array, or a list of whole numbers as one; None for anything else."""
    if isinstance(value, _Array):
        return value.values
    if isinstance(value, list) and all(type(number) is int for number in value):
        try:
            return np.array(value, np.int64)
        except OverflowError:
            return None
    return None


class _Callable:
    """What a pickle names in order to call it, by our name for it."""

    def __init__(self, module: Any, name: Any) -> None:
        module, name = (part.decode("latin-1") if isinstance(part, bytes) else str(part) for part in (module, name))
        if (module, name) not in CALLABLES:
            asked = f"{module[:40]}.{name[:40]}"
            raise Refused(f"asks for {asked!a}, which data does not need; do not open it elsewhere")
        self.name = CALLABLES[module, name]


class _Type:
    """The type of an array's numbers."""

    def __init__(self, name: Any) -> None:
        text = name.decode("latin-1") if isinstance(name, bytes) else str(name)
        if (kind := KINDS.get(text.lstrip("|<="))) is None:
            raise Refused(f"holds an array of {text[:20]!a}; wanted: whole numbers")
        self.dtype: np.dtype = kind

    def build(self, state: tuple) -> None:
        if state[1] not in ("<", "|", "=", b"<", b"|", b"="):
            raise Refused("holds an array of the other byte order")


class _Array:
    """An array, empty until its bytes come."""

    def __init__(self) -> None:
        self.values = np.empty(0, np.uint8)

    def build(self, state: tuple) -> None:
        _, shape, kind, by_column, data = state
        self.fill(data, kind, shape, "F" if by_column else "C")

    def fill(self, data: Any, kind: Any, shape: tuple, order: Any) -> None:
        if not isinstance(kind, _Type) or not isinstance(data, bytes | bytearray):
            raise Refused("holds an array without its bytes")
        self.values = np.frombuffer(data, kind.dtype).reshape(shape, order=order)  # a view; a wrong shape is an error


class _Machine:
    """Carries out instructions; any failure is an exception."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.places: dict[int, Any] = {}

    def run(self, steps: Iterator[tuple[Any, Any, int | None]]) -> Any:
        for number, (step, argument, at) in enumerate(steps):
            if number > MOST_STEPS:
                raise Refused(f"holds more than {MOST_STEPS:,} instructions")
            name = step.name
            if name in TEXTS:
                self.stack.append(argument.encode("latin-1"))
            elif name in VALUES:
                self.stack.append(argument)
            elif name in CONSTANTS:
                self.stack.append(CONSTANTS[name])
            elif name in TUPLES:
                self.stack.append(tuple(self._cut(len(self.stack) - TUPLES[name])))
            elif (method := getattr(self, f"_{name.lower()}", None)) is not None:
                method(argument)
            elif name not in ("PROTO", "FRAME", "STOP"):
                raise Refused(f"holds the instruction {name} at byte {at:,}, which plain data does not need")
        (value,) = self.stack
        return value

    def _cut(self, at: int) -> list[Any]:
        """Return what lies on the stack from a place on, taken off it."""
        items = self.stack[at:]
        del self.stack[at:]
        return items

    def _mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def _empty_list(self, _: Any) -> None:
        self.stack.append([])

    def _empty_dict(self, _: Any) -> None:
        self.stack.append({})

    def _list(self, _: Any) -> None:
        self.stack.append(self._cut(self.marks.pop()))

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._cut(self.marks.pop())))

    def _dict(self, _: Any) -> None:
        items = self._cut(self.marks.pop())
        self.stack.append({})
        self._set(items)

    def _append(self, _: Any) -> None:
        self._extend([self.stack.pop()])

    def _appends(self, _: Any) -> None:
        self._extend(self._cut(self.marks.pop()))

    def _extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise Refused("appends to what is no list")
        self.stack[-1].extend(items)

    def _setitem(self, _: Any) -> None:
        self._set(self._cut(len(self.stack) - 2))

    def _setitems(self, _: Any) -> None:
        self._set(self._cut(self.marks.pop()))

    def _set(self, items: list[Any]) -> None:
        keys, values = items[::2], items[1::2]
        if type(self.stack[-1]) is not dict or any(type(key) not in (str, bytes, int) for key in keys):
            raise Refused("holds a mapping whose keys are no texts")  # hashing nested tuples may take for ever
        self.stack[-1].update(zip(keys, values, strict=True))

    def _put(self, place: int) -> None:
        self.places[place] = self.stack[-1]

    _binput = _long_binput = _put

    def _memoize(self, _: Any) -> None:
        self.places[len(self.places)] = self.stack[-1]

    def _get(self, place: int) -> None:
        self.stack.append(self.places[place])

    _binget = _long_binget = _get

    def _global(self, names: str) -> None:
        module, _, name = names.partition(" ")
        self.stack.append(_Callable(module, name))

    def _stack_global(self, _: Any) -> None:
        module, name = self._cut(len(self.stack) - 2)
        self.stack.append(_Callable(module, name))

    def _reduce(self, _: Any) -> None:
        asked, arguments = self._cut(len(self.stack) - 2)
        if not isinstance(asked, _Callable) or type(arguments) is not tuple:
            raise Refused("calls what is no callable")
        self.stack.append(_called(asked.name, arguments))

    def _build(self, _: Any) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _Type | _Array) or type(state) is not tuple:
            raise Refused("sets the state of an object that data does not need")
        self.stack[-1].build(state)


def _called(name: str, arguments: tuple) -> Any:
    if name == TYPE:
        return _Type(arguments[0])
    if name == ENCODE:
        text, codec = arguments
        if codec not in ("latin1", b"latin1") or type(text) is not str:
            raise Refused("holds a text in an odd encoding")
        return text.encode("latin-1")
    array = _Array()  # _reconstruct's arguments say nothing but that it is one
    if name == BUFFER:
        array.fill(*arguments)
    return array
