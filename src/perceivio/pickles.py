"""DeepMind's pickles, read without trusting them: arrays and mappings come out, nothing else.

A pickle names the functions and classes that rebuild it, and an ordinary unpickler calls whatever
is named. Here every name is looked up in one table of stand-ins, written below in plain Python;
neither NumPy, JAX nor Haiku is called, and a name that is not in the table ends the reading before
anything of it is imported or run.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .errors import PerceivioError


class PickleError(PerceivioError):
    """A pickle that is damaged, or that holds something other than arrays in mappings."""

    def __init__(self, said: str) -> None:
        """One line, whatever the names in a damaged file are."""
        super().__init__("".join(c if c.isprintable() else "?" for c in said))


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
        with path.open("rb") as file:
            tree = _Unpickler(file).load()
    except (PerceivioError, OSError):
        raise
    except Exception as error:  # whatever a damaged byte stream makes the unpickler stumble on
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
    if not all(isinstance(key, str) for key in tree):
        raise PickleError(f"{path} has keys that are not names in {wanted}")
    return list(tree.items())


def _kind(value: object) -> str:
    """What a value from the pickle is, in words; nothing of the value itself is shown."""
    names: dict[type, str] = {
        _Array: "an array", _Dtype: "a number type", _StandIn: "the name of a function",
    }  # fmt: skip
    return names.get(type(value), f"something else ({type(value).__name__})")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        known = _KNOWN.get(f"{module_name}.{global_name}")
        if known is None:
            raise PickleError(
                f"refused a pickle that wants to import {module_name}.{global_name}: "
                "only arrays and mappings are read"
            )
        return known

    def persistent_load(self, pid: Any) -> Any:
        raise PickleError("refused a pickle that refers to objects outside it")


class _StandIn:
    """What a name in a pickle stands for: callable, and closed to changes by the pickle."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, state: Any) -> None:
        raise PickleError("refused a pickle that changes what it is read with")


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

    def __setstate__(self, state: tuple[Any, ...]) -> None:
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

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.fill(data, dtype, shape, "F" if fortran else "C")

    def fill(self, data: Any, dtype: Any, shape: Any, order: str) -> _Array:
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
            raise PickleError("object arrays are not read, only arrays of numbers")
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
    array.__setstate__(state)
    return array


def _mapping(values: Any = ()) -> dict[Any, Any]:
    if not isinstance(values, Mapping):
        raise PickleError("a Haiku mapping in the pickle is not built from a mapping")
    return dict(values)


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
