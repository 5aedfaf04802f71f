"""Data with arrays as JSON, written and read a piece at a time.

An array is ``{"dtype", "shape", "base64"}``, its bytes little-endian in C order: a third more than in memory. Writing
holds a small part of one array at a time; reading holds the text of one array beside those that are decoded.
"""

from __future__ import annotations

import binascii
import dataclasses
import math
import re
import types
import typing
import uuid
from collections.abc import Iterator
from typing import Any, TypeVar

import ml_dtypes
import msgspec
import numpy as np
import numpy.typing as npt

from .errors import PlanError, did_you_mean

CHUNK = 3 << 18
"""Bytes that are encoded at once; base64 takes three at a time."""

T = TypeVar("T")
Array = npt.NDArray[Any]

OWN = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4")
"""Types that numpy has from ml_dtypes."""

DTYPES = {np.dtype(code).name: np.dtype(code) for code in "?bBhHiIqQefd"} | {
    name: np.dtype(getattr(ml_dtypes, name)) for name in OWN
}
"""What an array may be of; nothing else is ever read from a file."""

NUMBERS = re.compile(r'\[\n\s*(-?\d[^\[\]{}"]*)\n\s*\]')
"""A list of numbers with a line for each; no string of JSON goes over a line."""


def pieces(value: Any) -> Iterator[bytes]:
    """Yield dataclasses, plain types and arrays as JSON with a line for each field."""
    arrays: list[Array] = []
    mark = uuid.uuid4().hex  # stands where the bytes of an array are written; nobody can have used it

    def plain(item: Any) -> Any:
        if isinstance(item, np.generic):
            return item.item()
        if not isinstance(item, np.ndarray) or item.dtype.name not in DTYPES:
            raise NotImplementedError(type(item))
        arrays.append(item)
        return {"dtype": item.dtype.name, "shape": item.shape, "base64": f"{mark}{len(arrays) - 1}"}

    text = msgspec.json.format(msgspec.json.encode(value, enc_hook=plain), indent=2).decode()
    text = NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)
    for place, part in enumerate(re.split(rf"{mark}(\d+)", text)):
        if place % 2:
            yield from _encoded(arrays[int(part)])
        else:
            yield part.encode()
    yield b"\n"


def to_text(value: Any) -> str:
    """Return what `pieces` yields."""
    return b"".join(pieces(value)).decode()


def _encoded(array: Array) -> Iterator[bytes]:
    flat = array.astype(array.dtype.newbyteorder("<"), copy=False).reshape(-1)
    for start in range(0, flat.nbytes, CHUNK):
        yield binascii.b2a_base64(flat.view(np.uint8)[start : start + CHUNK].tobytes(), newline=False)


def read(text: Any, kind: type[T], where: str, inside: str = "") -> T:
    """Turn JSON into `kind`; what it has no field for is an error.

    Parameters
    ----------
    text : str, bytes or buffer
    kind : type
    where : str
        Begins every error: the file.
    inside : str
        The field of the file that this is.

    Raises
    ------
    PlanError
        One line that names the field.
    """
    try:
        unknown = next(_unknown(kind, text, inside), None)
        if unknown is None:
            return msgspec.json.decode(text, type=kind, dec_hook=_decode_array)
    except RecursionError:
        raise PlanError(f"{where}: {inside or 'the file'}: too many lists within lists") from None
    except msgspec.MsgspecError as error:
        raise PlanError(f"{where}: {_described(str(error), inside)}") from None
    except MemoryError:
        raise PlanError(f"{where}: {inside or 'the file'}: not enough memory for its arrays") from None
    raise PlanError(f"{where}: {unknown}")


def _described(message: str, inside: str) -> str:
    """Put the field in front: msgspec says "Expected `int`, got `str` - at `$.a[0]`"."""
    what, at, path = message.partition(" - at ")
    field = f"{inside}{path.strip('`').removeprefix('$')}".lstrip(".")
    what = what[:1].lower() + what[1:]
    return f"{field}: {what}" if at and field else f"{inside}: {what}" if inside else what


def _unknown(kind: Any, text: Any, path: str) -> Iterator[str]:
    """Yield, for each key of an object that is no field of the dataclass in its place, what is wrong."""
    if not _holds_dataclass(kind):
        return
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        fields = [field.name for field in dataclasses.fields(kind)]
        for key, part in msgspec.json.decode(text, type=dict[str, msgspec.Raw]).items():
            if key not in fields:
                hint = did_you_mean(key, fields) or f"; the fields are {', '.join(fields)}"
                yield f"{path}.{key}: is no field{hint}".lstrip(".")
            else:
                yield from _unknown(hints[key], part, f"{path}.{key}")
    elif origin in (types.UnionType, typing.Union):
        if msgspec.json.decode(text, type=msgspec.Raw) != msgspec.Raw(b"null"):
            yield from _unknown(next(filter(_holds_dataclass, args)), text, path)
    elif origin is dict:
        for key, part in msgspec.json.decode(text, type=dict[str, msgspec.Raw]).items():
            yield from _unknown(args[1], part, f"{path}[{key!r}]")
    else:
        parts = msgspec.json.decode(text, type=list[msgspec.Raw])
        kinds = [args[0]] * len(parts) if origin is list or args[-1] is Ellipsis else args
        for number, (each, part) in enumerate(zip(kinds, parts, strict=False)):
            yield from _unknown(each, part, f"{path}[{number}]")


def _holds_dataclass(kind: Any) -> bool:
    args = typing.get_args(kind) if typing.get_origin(kind) is not np.ndarray else ()
    return dataclasses.is_dataclass(kind) or any(map(_holds_dataclass, args))


def _decode_array(kind: Any, value: Any) -> Array:
    if kind is not np.ndarray and typing.get_origin(kind) is not np.ndarray:
        raise NotImplementedError(kind)
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "base64"}:
        raise ValueError("expected an array: dtype, shape and base64")
    dtype, shape, wanted = DTYPES.get(str(value["dtype"])), value["shape"], _dtype_of(kind)
    if dtype is None or (wanted is not None and dtype != wanted):
        raise ValueError(f"dtype: {value['dtype']!r}: expected {wanted or 'one of ' + ', '.join(DTYPES)}")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"shape: {shape!r}: expected a list of sizes")
    try:
        data = binascii.a2b_base64(value["base64"])
    except (ValueError, TypeError) as error:
        raise ValueError(f"base64: {error}") from None
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"base64: {len(data)} bytes for {dtype} {shape}")
    return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(shape)


def _dtype_of(kind: Any) -> np.dtype[Any] | None:
    """Return the type of the elements that a hint such as ``NDArray[np.float32]`` names."""
    named = [arg for hint in typing.get_args(kind) for arg in typing.get_args(hint)]
    scalars = [arg for arg in named if isinstance(arg, type) and issubclass(arg, np.generic)]
    return np.dtype(scalars[0]) if scalars else None
