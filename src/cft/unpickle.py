"""Pickles of arrays, read without trust and kept as .npz files.

A pickle is a program: it names functions and calls them. This reader knows the few names under which NumPy writes
arrays of numbers and text, and answers each with a function of its own that turns bytes into an array. Any other name
is refused. NumPy's own functions for this are not called: they believe what a pickle says of an array's memory.
"""

import hashlib
import io
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cft import CftError
from cft.provenance import replacing

KINDS = "biufcU"  # truth values, numbers, text: all that an .npz file holds without a pickle inside


class _Dtype:
    """Stands for numpy.dtype while a pickle is read: code and byte order count, what else it says is ignored."""

    def __init__(self, code: str, align: bool = False, copy: bool = False):
        if not isinstance(code, str) or np.dtype(code).kind not in KINDS:
            raise pickle.UnpicklingError(f"it holds an array of {code}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands for an array that a pickle first makes and then fills (protocols up to 4)."""

    content: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, columns_first, content = state
        self.content = _array(content, dtype, shape, "F" if columns_first else "C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.content is None:
            raise pickle.UnpicklingError("it holds an array without content")
        return self.content


def _array(content: bytes, dtype: _Dtype, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    """An array of `shape` from its bytes; NumPy's _frombuffer, by which protocol 5 makes arrays."""
    flat = np.frombuffer(content, dtype.dtype)
    return flat.reshape(shape).transpose(axes) if order == "K" else flat.reshape(shape, order=order)


def _scalar(dtype: _Dtype, content: bytes) -> Any:
    return np.frombuffer(content, dtype.dtype).reshape(())[()]


def _empty_array(_kind: Any, _shape: Any, _code: Any) -> _Array:
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it holds bytes as {encoding}")
    return text.encode(encoding)


KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,  # only ever an argument of _reconstruct
    ("_codecs", "encode"): _encode,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
}
for _core in ("numpy.core", "numpy._core"):  # NumPy 1 and 2
    KNOWN[f"{_core}.multiarray", "_reconstruct"] = _empty_array
    KNOWN[f"{_core}.multiarray", "scalar"] = _scalar
    KNOWN[f"{_core}.numeric", "_frombuffer"] = _array


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return KNOWN[module, name]


def read_pickle(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a pickled dict, each under its keys joined by "/" ("%2F" for one in a key, "%25" for "%").

    A number or text becomes an array without axes, a list, tuple or set (sorted) of equal things one with axes, an
    empty dict an empty array under a name that ends in "/". Raises CftError for anything else, naming it.
    """
    source = path.read_bytes()
    try:
        content = _Reader(io.BytesIO(source)).load()
        if not isinstance(content, dict):
            raise pickle.UnpicklingError(f"it holds a {type(content).__name__}, not a dict")
        return dict(_flatten(content, ""))
    except Exception as error:  # a broken pickle may raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CftError(f"{path}: not a pickle of plain arrays ({reason}); it is not read further")


def _flatten(value: Any, place: str) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(value, dict):
        if not value:
            yield f"{place}/", np.empty(0)
        for key, item in value.items():
            if not isinstance(key, str) or not key:
                raise pickle.UnpicklingError(f"a key of {place or 'the dict'} is {key!r}, not a name")
            name = key.replace("%", "%25").replace("/", "%2F")
            yield from _flatten(item, f"{place}/{name}" if place else name)
        return
    array = np.asarray(sorted(value) if isinstance(value, set) else value)
    # NumPy makes text of numbers that stand beside text.
    mixed = array.dtype.kind == "U" and isinstance(value, list | tuple) and not all(isinstance(x, str) for x in value)
    if array.dtype.kind not in KINDS or mixed:
        raise pickle.UnpicklingError(f"{place} is neither numbers nor text")
    yield place, array


def _nest(flat: dict[str, np.ndarray]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for place, array in flat.items():
        *parents, last = [part.replace("%2F", "/").replace("%25", "%") for part in place.split("/")]
        inner = nested
        for key in parents:
            inner = inner.setdefault(key, {})
        if last:
            inner[last] = array if array.ndim else array.item()
    return nested


def read_arrays(path: Path, kept: Path) -> dict[str, Any]:
    """What the pickled dict at `path` holds: nested dicts of arrays, numbers and text; a list comes as an array.

    It is converted once to `kept`, an .npz file that also records the pickle's sha256, and read from there. Raises
    CftError when the pickle holds anything else.
    """
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    found = _load(kept, checksum)
    if found is None:
        found = read_pickle(path)
        # The prefix keeps the names apart from the record's and from those of savez's arguments.
        named: dict[str, Any] = {f"data/{name}": array for name, array in found.items()}
        with replacing(kept) as temporary, temporary.open("wb") as file:
            np.savez(file, sha256=np.array(checksum), **named)
    return _nest(found)


def _load(kept: Path, checksum: str) -> dict[str, np.ndarray] | None:
    """The arrays of an .npz file; None when it is missing, damaged or made from another pickle."""
    try:
        with np.load(kept, allow_pickle=False) as file:
            if str(file["sha256"]) != checksum:
                return None
            return {name.removeprefix("data/"): file[name] for name in file.files if name != "sha256"}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
