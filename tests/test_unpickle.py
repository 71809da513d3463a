"""Which pickles are read, what comes out, and that nothing in them runs."""

import io
import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from types import FunctionType
from typing import ClassVar

import numpy as np
import pytest

from cft import CftError
from cft.unpickle import read_arrays, read_pickle

CONTENT = {
    "lb": {
        "seen": [3, 1, 2],
        "weights": {"arc": np.linspace(0, 1, 7, dtype=np.float32)},
        "irt": {"A": np.arange(24.0).reshape(1, 4, 6), "F": np.asfortranarray(np.arange(6).reshape(2, 3))},
        "lambda": np.float64(0.25),
        "share of 100%/all": 0.5,
    },
    "views": np.arange(16).reshape(4, 4)[::2, ::2],
    "swapped axes": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "big-endian": np.arange(3, dtype=">i4"),
    "truth": np.array([True, False]),
    "file": ("é", "names"),
    "allow_pickle": {"b", "a"},
    "steps": [np.arange(2), np.arange(2)],
    "sha256": {},
    "name": "α",
    "count": 3,
}


def stored(folder: Path, content, protocol: int = 5) -> Path:
    path = folder / "data.pkl"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


def same(found, expected) -> None:
    """Equal as far as .npz files go: sequences are arrays, scalars are Python's."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, item in expected.items():
            same(found[key], item)
    elif np.ndim(expected) or isinstance(expected, set):
        wanted = np.asarray(sorted(expected) if isinstance(expected, set) else expected)
        assert found.dtype == wanted.dtype
        assert np.array_equal(found, wanted)
    else:
        assert type(found) in (bool, int, float, str)
        assert found == expected


class Old(pickle._Pickler):
    """Writes names as NumPy 1 did."""

    def save_global(self, obj, name=None):
        module = obj.__module__
        if not module.startswith("numpy._core"):
            return super().save_global(obj, name)
        self.write(b"c" + f"{module.replace('_core', 'core')}\n{obj.__qualname__}\n".encode())
        self.memoize(obj)

    dispatch: ClassVar = {**pickle._Pickler.dispatch, FunctionType: save_global}


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_every_protocol_and_numpy(tmp_path, protocol):
    same(read_arrays(stored(tmp_path, CONTENT, protocol), tmp_path / "new.npz"), CONTENT)
    file = io.BytesIO()
    Old(file, protocol).dump(CONTENT)
    assert b"numpy.core" in file.getvalue() and b"numpy._core" not in file.getvalue()
    same(read_arrays(stored(tmp_path, file.getvalue()), tmp_path / "old.npz"), CONTENT)


def test_empty_arrays(tmp_path):
    same(read_arrays(stored(tmp_path, {"none": np.empty((0, 3))}), tmp_path / "kept.npz"), {"none": np.empty((0, 3))})


def test_keys_are_joined(tmp_path):
    found = read_pickle(stored(tmp_path, {"a": {"b/c": 1, "100%": [2]}, "e": {}}))
    assert {name: array.tolist() for name, array in found.items()} == {"a/b%2Fc": 1, "a/100%25": [2], "e/": []}


def test_it_is_converted_once(tmp_path, monkeypatch):
    path, kept = stored(tmp_path, {"a": np.arange(3)}), tmp_path / "cache" / "data.npz"
    read_arrays(path, kept)
    with np.load(kept, allow_pickle=False) as file:
        assert file.files == ["sha256", "data/a"]
    with monkeypatch.context() as patch:
        patch.delattr("cft.unpickle.read_pickle")
        same(read_arrays(path, kept), {"a": np.arange(3)})
    same(read_arrays(stored(tmp_path, {"a": 1}), kept), {"a": 1})  # another pickle
    assert [file.name for file in kept.parent.iterdir()] == ["data.npz"]


@pytest.mark.parametrize("damage", [lambda content: content[:-30], lambda _: b"", lambda _: pickle.dumps({"a": 2})])
def test_a_damaged_conversion_is_made_again(tmp_path, damage):
    path, kept = stored(tmp_path, {"a": np.arange(300)}), tmp_path / "data.npz"
    read_arrays(path, kept)
    kept.write_bytes(damage(kept.read_bytes()))
    same(read_arrays(path, kept), {"a": np.arange(300)})


def test_a_flipped_bit_in_the_conversion_is_seen(tmp_path):
    path, kept = stored(tmp_path, {"a": np.arange(300)}), tmp_path / "data.npz"
    read_arrays(path, kept)
    content = bytearray(kept.read_bytes())
    content[content.index(np.arange(300).tobytes()) + 8] ^= 1
    kept.write_bytes(content)
    same(read_arrays(path, kept), {"a": np.arange(300)})


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    ("function", "argument", "name"),
    [
        (os.system, "touch {}", "posix.system|nt.system"),
        (eval, "open({!r}, 'w')", "(builtins|__builtin__).eval"),
        (np.load, "{}", "numpy.load"),
        (getattr, "{}", "(builtins|__builtin__).getattr"),
        (OrderedDict, (), "collections.OrderedDict"),
    ],
)
def test_any_other_name_is_refused_and_does_not_run(tmp_path, protocol, function, argument, name):
    trace = tmp_path / "trace"
    argument = argument.format(str(trace)) if isinstance(argument, str) else argument
    path = stored(tmp_path, {"a": Calls(function, argument)}, protocol)
    with pytest.raises(CftError, match=rf"data\.pkl: not a pickle of plain arrays \(it asks for ({name})\)") as caught:
        read_arrays(path, tmp_path / "kept.npz")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["data.pkl"]


def crafted(dtype: bytes, data: bytes) -> bytes:
    """A protocol 3 pickle of one two-item array whose dtype is made by the opcodes `dtype`."""
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
    return b"\x80\x03}X\x01\x00\x00\x00a" + made + b"(K\x01(K\x02t" + dtype + b"\x89" + data + b"tbs."


DOUBLE = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f8\x89\x88tR"
OBJECT = b"cnumpy\ndtype\n(X\x02\x00\x00\x00O8\x89\x88tR"
SIXTEEN = b"C\x10" + struct.pack("<2d", 1.5, -2)


def test_a_crafted_array_is_a_good_one(tmp_path):
    same(read_arrays(stored(tmp_path, crafted(DOUBLE, SIXTEEN)), tmp_path / "kept.npz"), {"a": np.array([1.5, -2])})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        # The state of an object dtype can hide that its items are pointers: NumPy would follow them.
        (
            crafted(OBJECT + b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb", SIXTEEN),
            "array of O8",
        ),
        (crafted(DOUBLE, SIXTEEN.replace(b"C\x10", b"C\x08")[:10]), "reshape"),
        (crafted(DOUBLE, b"]"), "bytes-like"),
        ({"a": np.array([1, "x"], dtype=object)}, "an array of O8"),
        ({"a": np.zeros(2, dtype=[("x", "i4")])}, "an array of V4"),
        ({"a": np.array(["2020"], dtype="M8[Y]")}, "an array of M8"),
        (b"\x80\x03}X\x01\x00\x00\x00acnumpy.core.multiarray\n_reconstruct\n(NNNtRs.", "without content"),
        (b"\x80\x03}X\x01\x00\x00\x00acnumpy\nndarray\ns.", "a is neither numbers nor text"),
        ({"a": {"b": b"bytes"}}, "a/b is neither numbers nor text"),
        ({"a": None}, "a is neither numbers nor text"),
        ({"a": [1, "x"]}, "a is neither numbers nor text"),
        ({"a": [[1, 2], [3]]}, "inhomogeneous"),
        ({"a": {1, "x"}}, "not supported between"),
        ({"a": {3: 1}}, "a key of a is 3, not a name"),
        ({"": 1}, "a key of the dict is '', not a name"),
        ([1, 2], "it holds a list, not a dict"),
        (b"", "Ran out of input"),
        (pickle.dumps({"a": 1})[:-4], "truncated"),
        (b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.", "bytes as rot13"),
        (b"not a pickle", "invalid load key"),
    ],
)
def test_anything_else_is_refused_in_one_line(tmp_path, content, reason):
    path = stored(tmp_path, content)
    with pytest.raises(CftError, match=rf"data\.pkl: not a pickle of plain arrays \(.*{reason}") as caught:
        read_arrays(path, tmp_path / "kept.npz")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["data.pkl"]
