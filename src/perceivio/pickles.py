"""DeepMind's pickles, read without trusting them: arrays and mappings come out, nothing else.

A pickle is a program: it names the functions and classes that rebuild it, and an ordinary
unpickler calls whatever is named. So Python's unpickler is not used. The standard library takes the
file apart into instructions without following them (pickletools), and a small machine follows the
three dozen that arrays and mappings are made of. Every name is looked up in one table of stand-ins,
written below in plain Python; neither NumPy, JAX nor Haiku is called, and an instruction or a name
that is not here ends the reading before anything is imported or run.

What it costs follows from the file's size: lengths are believed as far as there are bytes, places
in the memo cost what is put there, keys are texts (Python's unpickler overflows the stack at the
hash of tuples in tuples), and no bytes are made twice.
"""

from __future__ import annotations

import mmap
import pickletools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, ClassVar, cast

import numpy as np

from .errors import PerceivioError

MOST_STEPS = 200_000  # instructions; the published model takes some thousands


class PickleError(PerceivioError):
    """A pickle that is damaged, or that holds something other than arrays in mappings."""


def is_pickle(path: Path) -> bool:
    """Whether a file starts as a pickle of protocol 2 to 5 does."""
    with path.open("rb") as file:
        start = file.read(2)
    return len(start) == 2 and start[0] == 0x80 and 2 <= start[1] <= 5


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a pickled parameter mapping, by the path of keys that leads to each.

    Reads the mapping itself, or a dict with the keys params and state (state is dropped: this
    model keeps none). {"encoder/~/mlp": {"w": array}} comes out as {"encoder/~/mlp/w": array}.

    Raises PickleError for a damaged file, for anything in it but arrays and mappings, and naming
    the first name that it would have had to import.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            tree = _Machine(len(data)).run(cast("IO[bytes]", data))
    except (PerceivioError, OSError):
        raise
    except Exception as error:  # whatever a damaged byte stream makes the machine stumble on
        problem = " ".join(str(error).split()) or type(error).__name__
        raise PickleError(f"{path} is truncated or damaged: {problem[:200]}") from error
    if isinstance(tree, dict) and "params" in tree and set(tree) <= {"params", "state"}:
        dict(_flatten(tree.get("state", {}), path))  # read as strictly, then dropped
        tree = tree["params"]
    return dict(_flatten(tree, path))


def _flatten(tree: object, path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(module/parameter, array) of a mapping of modules, each a mapping of parameters."""
    for module, parameters in _items(tree, "a mapping of modules", path):
        for name, array in _items(parameters, f"a mapping of parameters at {module}", path):
            if not isinstance(array, _Array) or array.values is None:
                raise PickleError(f"{path} holds {_kind(array)}, not an array, at {module}/{name}")
            yield f"{module}/{name}", array.values


def _items(tree: object, wanted: str, path: Path) -> list[tuple[str, Any]]:
    if not isinstance(tree, dict):
        raise PickleError(f"{path} holds {_kind(tree)}, not {wanted}")
    return list(tree.items())


def _kind(value: object) -> str:
    """What a value from the pickle is, in words; nothing of the value itself is shown."""
    names: dict[type, str] = {
        _Array: "an array", _Dtype: "a number type", _StandIn: "the name of a function",
    }  # fmt: skip
    return names.get(type(value), f"something else ({type(value).__name__})")


class _Machine:
    """Follows the instructions of a pickle of `size` bytes; what is on the stack at its end is the
    pickled value. Items are texts, bytes, numbers, tuples, lists, dicts, stand-ins, arrays."""

    def __init__(self, size: int) -> None:
        self._bytes_left = size  # that may still be made of texts
        self._stack: list[Any] = []
        self._marks: list[int] = []  # places in the stack
        self._memo: dict[int, Any] = {}

    def run(self, data: IO[bytes]) -> Any:
        """Raises PickleError for what is refused; anything else for a damaged file."""
        argument: Any
        for step, (instruction, argument, _) in enumerate(pickletools.genops(data)):
            name = instruction.name
            if step == MOST_STEPS:
                raise PickleError("refused a pickle of more steps than arrays and mappings take")
            if name == "STOP":
                return self._stack.pop()
            if name in _PUSHED:
                self._stack.append(argument)
            elif name in _MADE:
                self._stack.append(_MADE[name]())
            elif name in _SHORT_TUPLES:
                self._stack.append(tuple(self._pop(_SHORT_TUPLES[name])))
            elif name in ("BINPUT", "LONG_BINPUT"):
                self._memo[argument] = self._stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                self._stack.append(self._memo[argument])
            elif name not in ("PROTO", "FRAME"):
                follow = self.FOLLOWED.get(name)
                if follow is None:
                    raise PickleError(
                        f"refused a pickle with the instruction {name}: only arrays and mappings"
                        " are read"
                    )
                follow(self, argument)
        raise AssertionError("pickletools ends with STOP")

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise IndexError("its stack is empty")
        items = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return items

    def _pop_to_mark(self) -> list[Any]:
        return self._pop(len(self._stack) - self._marks.pop())

    def _mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _tuple(self, _: Any) -> None:
        items = self._pop_to_mark()
        self._stack.append(tuple(items))

    def _set_item(self, _: Any) -> None:
        self._set(self._pop(2))

    def _set_items(self, _: Any) -> None:
        self._set(self._pop_to_mark())

    def _set(self, items: list[Any]) -> None:
        mapping, keys, values = self._stack[-1], items[0::2], items[1::2]
        if type(mapping) is not dict or not all(type(key) is str for key in keys):
            raise PickleError("refused a pickle with keys that are not names")
        mapping.update(zip(keys, values, strict=True))

    def _append(self, _: Any) -> None:
        self._extend(self._pop(1))

    def _append_all(self, _: Any) -> None:
        self._extend(self._pop_to_mark())

    def _extend(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise TypeError("items for what is no list")
        self._stack[-1].extend(items)

    def _global(self, argument: Any) -> None:
        self._find(*argument.split(" ", 1))

    def _stack_global(self, _: Any) -> None:
        self._find(*self._pop(2))

    def _find(self, module: str, name: str) -> None:
        known = _KNOWN.get(f"{module}.{name}")
        if known is None:
            raise PickleError(
                f"refused a pickle that wants to import {str(module)[:100]}.{str(name)[:100]}: "
                "only arrays and mappings are read"
            )
        self._stack.append(known)

    def _reduce(self, _: Any) -> None:
        call, arguments = self._pop(2)
        if not isinstance(call, _StandIn) or type(arguments) is not tuple:
            raise PickleError("refused a pickle that calls something else than a function")
        made = call(*arguments)
        if isinstance(made, bytes):
            self._bytes_left -= len(made)
            if self._bytes_left < 0:
                raise PickleError("refused a pickle that makes more bytes than it has")
        self._stack.append(made)

    def _build(self, _: Any) -> None:
        (state,) = self._pop(1)
        if not isinstance(self._stack[-1], _Array | _Dtype):
            raise PickleError("refused a pickle that changes what it is read with")
        self._stack[-1].restore(state)

    FOLLOWED: ClassVar[Mapping[str, Callable[[Any, Any], None]]] = {
        "MARK": _mark,
        "MEMOIZE": _memoize,
        "TUPLE": _tuple,
        "SETITEM": _set_item,
        "SETITEMS": _set_items,
        "APPEND": _append,
        "APPENDS": _append_all,
        "GLOBAL": _global,
        "STACK_GLOBAL": _stack_global,
        "REDUCE": _reduce,
        "BUILD": _build,
    }


_PUSHED = frozenset(
    {
        "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
        "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
        "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8",
    }
)  # fmt: skip
_MADE: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _StandIn:
    """What a name in a pickle stands for."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)


class _Dtype:
    """numpy.dtype: a number type of fixed size, with its byte order."""

    __slots__ = ("order", "type")

    # "f4" is 4-byte floating point; signs, other sizes and objects are not weights.
    TYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")

    def __init__(self, kind: Any, *_: Any) -> None:
        if kind is _bfloat16:
            raise PickleError("bfloat16 arrays are not read: convert them to float32 first")
        if not isinstance(kind, str) or kind not in self.TYPES:
            what = "object arrays" if kind in ("O", "O8") else "arrays of this type"
            raise PickleError(f"{what} are not read, only arrays of numbers")
        self.type, self.order = kind, "<"

    def restore(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        if order not in ("<", ">", "|", "="):
            raise ValueError("byte order")
        self.order = "<" if order in "|=" else order

    def numpy(self) -> np.dtype:
        return np.dtype(self.order + self.type)


class _Array:
    """numpy.ndarray, empty until its state comes: (version, shape, dtype, fortran, bytes)."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: np.ndarray | None = None

    def restore(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.fill(data, dtype, shape, "F" if fortran else "C")

    def fill(self, data: Any, dtype: Any, shape: Any, order: str) -> _Array:
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
            raise PickleError("object arrays are not read, only arrays of numbers")
        if type(shape) is not tuple or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError("shape")
        values = np.frombuffer(data, dtype.numpy())
        self.values = values.reshape(shape, order="F" if order == "F" else "C")
        return self


def _reconstruct(kind: Any, shape: Any, typecode: Any) -> _Array:
    if kind is not _ndarray:
        raise PickleError("refused a pickle that builds something else through NumPy")
    return _Array()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: str, *_: Any) -> _Array:
    return _Array().fill(data, dtype, shape, order)


def _scalar(dtype: Any, data: Any) -> _Array:
    return _Array().fill(data, dtype, (), "C")


def _jax_array(build: Any, args: tuple[Any, ...], state: tuple[Any, ...], *_: Any) -> _Array:
    """A JAX array is pickled as the three parts that NumPy reduces its values to."""
    array = build(*args) if isinstance(build, _StandIn) else None
    if not isinstance(array, _Array):
        raise PickleError("refused a pickle that builds something else through JAX")
    array.restore(state)
    return array


def _mapping(values: Any = None) -> dict[Any, Any]:
    if values is not None and type(values) is not dict:
        raise PickleError("a Haiku mapping in the pickle is not built from a mapping")
    return values or {}  # the same one: copies of one mapping could fill the memory


def _latin1(text: Any, encoding: Any = "latin1") -> bytes:
    """How protocol 2 writes bytes: as text in which every character is one byte."""
    if not isinstance(text, str) or encoding != "latin1":
        raise PickleError("refused a pickle that encodes text")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How protocol 2 writes bytes where there are none."""
    return b""


def _not_callable(*_: Any) -> Any:
    raise PickleError("refused a pickle that builds arrays in an unknown way")


_ndarray = _StandIn(_not_callable)
_bfloat16 = _StandIn(_not_callable)

# Every name that a pickle of parameters may use, over the versions of NumPy, JAX and Haiku.
_KNOWN = {
    "numpy.ndarray": _ndarray,
    "numpy.dtype": _StandIn(_Dtype),
    "numpy.core.multiarray._reconstruct": _StandIn(_reconstruct),
    "numpy._core.multiarray._reconstruct": _StandIn(_reconstruct),
    "numpy.core.multiarray.scalar": _StandIn(_scalar),
    "numpy._core.multiarray.scalar": _StandIn(_scalar),
    "numpy.core.numeric._frombuffer": _StandIn(_from_buffer),
    "numpy._core.numeric._frombuffer": _StandIn(_from_buffer),
    "_codecs.encode": _StandIn(_latin1),
    "__builtin__.bytes": _StandIn(_no_bytes),
    "ml_dtypes.bfloat16": _bfloat16,
    "jax._src.array._reconstruct_array": _StandIn(_jax_array),
    "jax._src.device_array.reconstruct_device_array": _StandIn(_jax_array),
    "jax.interpreters.xla.reconstruct_device_array": _StandIn(_jax_array),
    "haiku._src.data_structures.FlatMapping": _StandIn(_mapping),
    "haiku._src.data_structures.FlatMap": _StandIn(_mapping),
    "haiku._src.data_structures.frozendict": _StandIn(_mapping),
}
