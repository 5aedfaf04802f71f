"""Inputs small enough to be shown: a picture, a waveform, tokens, or the first values."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable, Sequence
from textwrap import shorten
from typing import Any

import numpy as np
import numpy.typing as npt

from ..details import Preview
from ..runtime.session import Array

SIDE = 96
"""Pixels of a picture, at most."""

LEAST_SIDE = 8
HEIGHTS = 160
"""Points of a waveform, at most."""

LEAST_WAVE = 64
WORDS = 48
"""Tokens that are shown."""

LETTERS = 400
VALUES = 8


def preview(name: str, array: Array, decode: Callable[[Sequence[int]], str] | None = None) -> Preview:
    """Show one input of one sample.

    Parameters
    ----------
    name : str
        The input.
    array : ndarray
        With the batch axis, which has length 1.
    decode : callable, optional
        Makes text of token numbers.
    """
    if decode is not None and array.dtype.kind in "iu":
        return Preview(name, "text", shorten(decode(array.reshape(-1).tolist()), LETTERS, placeholder=" …"))
    pixels = _pixels(array)
    if pixels is not None:
        return Preview(name, "picture", png(pixels))
    if array.dtype.kind == "f" and array.size >= LEAST_WAVE and array.shape[-1] == array.size:
        return Preview(name, "waveform", _waveform(array.reshape(-1)))
    if array.dtype.kind in "iuOSU" and array.size == array.shape[-1] if array.ndim else False:
        return Preview(name, "text", _words(array.reshape(-1)))
    return Preview(name, "values", _values(array))


def _pixels(array: Array) -> npt.NDArray[np.uint8] | None:
    """Return an image as (height, width, 1 or 3) bytes; None if the array is none."""
    shape = array.shape[1:] if array.ndim == 4 and array.shape[0] == 1 else array.shape
    if len(shape) != 3 or array.dtype.kind not in "fu":
        return None
    image = array.reshape(shape)
    if shape[0] in (1, 3) and min(shape[1:]) >= LEAST_SIDE:
        image = np.moveaxis(image, 0, -1)
    elif shape[2] not in (1, 3) or min(shape[:2]) < LEAST_SIDE:
        return None
    step = max(1, -(-max(image.shape[:2]) // SIDE))
    values = np.nan_to_num(image[::step, ::step].astype(np.float64))
    if array.dtype != np.uint8:
        low, high = float(values.min()), float(values.max())
        values = (values - low) * (255.0 / ((high - low) or 1.0))
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def png(pixels: npt.NDArray[np.uint8]) -> str:
    """Return a PNG as a data URI.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (height, width, 1 or 3)
        Grey, or red, green and blue.
    """
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _waveform(values: npt.NDArray[Any]) -> str:
    """Return the largest deflection of each stretch, in order."""
    parts = np.array_split(np.nan_to_num(values.astype(np.float64)), min(HEIGHTS, values.size))
    heights = np.array([part[np.abs(part).argmax()] for part in parts])
    return " ".join(f"{height:.3g}" for height in heights / (np.abs(heights).max() or 1.0))


def _words(values: npt.NDArray[Any]) -> str:
    words = " ".join(str(value) for value in values[:WORDS])
    return words + (f" … ({values.size} in all)" if values.size > WORDS else "")


def _values(array: Array) -> str:
    shape = "×".join(str(size) for size in array.shape)
    flat = array.reshape(-1)[:VALUES]
    text = ", ".join(f"{value:.4g}" if array.dtype.kind == "f" else str(value) for value in flat)
    return f"{shape}: {text}{', …' if array.size > VALUES else ''}"
