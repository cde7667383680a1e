"""Reading of a dictionary of number arrays that `numpy.save` stored as a pickle, without executing the pickle.

`numpy.load(allow_pickle=True)` runs whatever code such a file names. Here its opcodes are walked (`pickletools`) by a
machine that knows dictionaries, tuples, lists, texts, numbers and NumPy arrays of numbers, and refuses anything else.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spectradino_core.files import errors_as, read_bytes
from spectradino_core.text import printable

_HEADER = re.compile(
    rb"\x93NUMPY(?:\x01\x00..|[\x02\x03]\x00....)\{'descr': '\|O', [^\n]*'shape': \(\), \} *\n", re.DOTALL
)
_NUMBERS = re.compile(r"[<>]?[iuf][1248]")
_ARRAY, _DTYPE, _ENCODE = "array", "dtype", "encode"
_GLOBALS = {
    ("numpy.core.multiarray", "_reconstruct"): _ARRAY,
    ("numpy._core.multiarray", "_reconstruct"): _ARRAY,
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): _DTYPE,
    ("_codecs", "encode"): _ENCODE,  # bytes in protocol 2
}
_MEMO_PUT = {"PUT", "BINPUT", "LONG_BINPUT"}
_MEMO_GET = {"GET", "BINGET", "LONG_BINGET"}
_VALUES = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class ObjectArrayError(ValueError):
    """The file is not a dictionary of number arrays stored by `numpy.save`; the message names it and the reason."""


@dataclass
class _Global:
    """A name that the pickle refers to, never imported."""

    kind: str


@dataclass
class _Made:
    """An array or a dtype while its parts are read."""

    kind: str
    dtype: str = ""
    value: Any = None


def read_array_dict(path: Path) -> dict[str, np.ndarray]:
    """Read `numpy.save(path, {"name": array, ..})`; raises ObjectArrayError for anything but number arrays by name."""
    with errors_as(ObjectArrayError):
        data = read_bytes(path, "calibration file")
    try:
        header = _HEADER.match(data)
        if header is None:
            raise ValueError("it has no header of an object")
        (content,) = _array(_walk(data[header.end() :]))
        if not isinstance(content, dict):
            raise ValueError("it holds something else")
        return {_name(key): np.array(_array(value)) for key, value in content.items()}
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, UnicodeError) as error:
        raise ObjectArrayError(f"{path}: not a dictionary of number arrays ({printable(str(error))})") from None


def _walk(data: bytes) -> Any:
    """Return the pickled object, with `_Made` for arrays."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def pop(count: int) -> list[Any]:
        found = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return found

    def pop_to_mark() -> list[Any]:
        return pop(len(stack) - marks.pop())

    steps: Iterable[tuple[Any, Any, Any]] = pickletools.genops(data)
    for opcode, argument, _ in steps:
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            return stack.pop()
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "TUPLE" or name in _TUPLES:
            stack.append(tuple(pop(_TUPLES[name]) if name in _TUPLES else pop_to_mark()))
        elif name in ("SETITEM", "SETITEMS"):
            parts = pop_to_mark() if name == "SETITEMS" else pop(2)
            stack[-1].update(zip(parts[::2], parts[1::2], strict=True))
        elif name in ("APPEND", "APPENDS"):
            parts = pop_to_mark() if name == "APPENDS" else pop(1)
            stack[-1].extend(parts)
        elif name == "MEMOIZE" or name in _MEMO_PUT:
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in _MEMO_GET:
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(_global(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            stack.append(_global(*pop(2)))
        elif name == "REDUCE":
            stack.append(_call(*pop(2)))
        elif name == "BUILD":
            state = stack.pop()
            _build(stack[-1], state)
        else:
            raise ValueError(f"the opcode {name} is not accepted")
    raise ValueError("the pickle has no end")


def _global(module: str, name: str) -> _Global:
    if (module, name) not in _GLOBALS:
        raise ValueError(f"it refers to {module}.{name}, which is not accepted")
    return _Global(_GLOBALS[module, name])


def _call(function: _Global, arguments: tuple[Any, ...]) -> Any:
    if function.kind == _ENCODE:
        text, encoding = arguments
        if encoding != "latin1":
            raise ValueError(f"bytes are encoded as {encoding!r}")
        return text.encode("latin1")
    if function.kind == _DTYPE:
        return _Made(_DTYPE, dtype=str(arguments[0]))
    if function.kind == _ARRAY:
        return _Made(_ARRAY)
    raise ValueError(f"{function.kind} is called")


def _build(made: _Made, state: tuple[Any, ...]) -> None:
    """Set the state of a dtype, (version, byte order, ..), or of an array, (version, shape, dtype, Fortran, data)."""
    if made.kind == _DTYPE:
        made.dtype = made.dtype.lstrip("<>|=") if made.dtype.startswith("O") else str(state[1]).strip("|=") + made.dtype
        return
    _, shape, dtype, fortran, content = state
    if dtype.dtype.startswith("O"):
        made.value = content
        return
    if not _NUMBERS.fullmatch(dtype.dtype):
        raise ValueError(f"it holds an array of {dtype.dtype}")
    made.value = np.frombuffer(content, dtype.dtype).reshape(shape, order="F" if fortran else "C").astype(np.float64)


def _array(made: Any) -> Any:
    if not isinstance(made, _Made) or made.kind != _ARRAY or made.value is None:
        raise ValueError("it holds something else than arrays")
    return made.value


def _name(key: Any) -> str:
    if not isinstance(key, str):
        raise ValueError("its keys are not names")
    return key
