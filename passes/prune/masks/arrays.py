"""Arrays that a user gives in a file, one for each of the model's constants that it names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxcompress.errors import DataError, OptionError, PassError, did_you_mean
from onnxcompress.samples.readers.npz import read_npz


def read_arrays(field: str, path: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, npt.NDArray[Any]]:
    """Read an ``.npz`` file of finite numbers, named after constants and of their shapes.

    Parameters
    ----------
    field : str
        The pass and the option that the path comes from, for the message.
    path : str
    shapes : mapping
        The shape of each constant that may be named.

    Raises
    ------
    OptionError
        There is no such file, or it is no ``.npz`` file of arrays.
    PassError
        An array names no constant, has another shape, or holds other things than finite numbers.
    """
    found = _read(field, path)
    for name, array in found.items():
        where = f"{field} = {path!r}: '{name}'"
        if name not in shapes:
            raise PassError(f"{where}: the model has no such constant here{did_you_mean(name, list(shapes))}")
        if array.shape != shapes[name]:
            raise PassError(f"{where}: its shape is {array.shape}; the constant's is {shapes[name]}")
        if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
            raise PassError(f"{where}: expected finite numbers")
    return found


def _read(field: str, path: str) -> dict[str, npt.NDArray[Any]]:
    try:
        if not Path(path).exists():
            raise OptionError(f"{field} = {path!r}: no such file")
        return read_npz(Path(path))
    except (DataError, OSError, ValueError) as error:
        reason = f"expected an .npz file of arrays, as numpy.savez writes it ({error})"
        raise OptionError(f"{field} = {path!r}: {reason}") from None
