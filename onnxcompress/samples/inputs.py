"""What a model takes: which axis of each input counts the samples, what fits, and random values that fit."""

from __future__ import annotations

import math
import mmap
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..errors import DataError, did_you_mean
from ..graph import caches, interface
from ..graph.shapes import fitting_inputs
from ..graph.tables import Table, find_table
from ..runtime.session import Array, Dims

SMALL_DIM = 16
"""What a dimension without a fixed size becomes in random values (a number of tokens, of frames)."""
SMALL_PAST = 8
"""The same for the tokens that a cache holds, so that there are some before those that are given."""
SMALL_IMAGE = 64
"""The same for the height and width of images, which pooling divides by 32 and more."""
FINITE_SLICE = 1 << 24
"""How many values are checked for NaN at a time, so that mapped samples stay on disk."""


@dataclass(frozen=True)
class Input:
    """One input of a model.

    Attributes
    ----------
    name : str
    dtype : numpy.dtype
    shape : tuple of (int, str or None), or None
        None for a rank that the model does not say.
    batch_axis : int or None
        The axis that counts the samples; None for an input that all samples share (a sampling rate, say).
    grows : int or None
        For a cache, the axis that counts the tokens in it.
    table : Table or None
        From which its values pick rows.
    """

    name: str
    dtype: np.dtype[Any]
    shape: Dims | None
    batch_axis: int | None
    grows: int | None = None
    table: Table | None = None

    def take(self, array: Array, start: int, stop: int) -> Array:
        """Return samples `start` to `stop` of `array` as a view; all of it if it is shared."""
        if self.batch_axis is None:
            return array
        index = [slice(None)] * array.ndim
        index[self.batch_axis] = slice(start, stop)
        return array[tuple(index)]

    def pick(self, array: Array, indices: npt.NDArray[np.int64]) -> Array:
        """Return single samples of `array` as a copy; all of it if it is shared."""
        return array if self.batch_axis is None else array.take(indices, axis=self.batch_axis)


@dataclass(frozen=True)
class Layout:
    """The inputs of a model, and how many samples it takes at a time (None: any number).

    Attributes
    ----------
    inputs : tuple of Input
    fixed_batch : int or None
    derived : dict
        Names of extents that follow from others; see `onnxcompress.graph.caches.derived_sizes`.
    cuts : dict
        What inputs have lost since the model was exported; it is cut out of what was made for the original.
    """

    inputs: tuple[Input, ...]
    fixed_batch: int | None
    derived: Mapping[str, caches.Derived] = field(default_factory=dict)
    cuts: interface.Cuts = field(default_factory=dict)

    @property
    def batched(self) -> bool:
        """Whether any input has an axis that counts samples."""
        return any(item.batch_axis is not None for item in self.inputs)


def model_inputs(model: ir.Model) -> list[ir.Value]:
    """Return the inputs that must be fed: those that no initializer gives a default."""
    return [value for value in model.graph.inputs if value.name not in model.graph.initializers]


def find_layout(values: Sequence[ir.Value]) -> Layout:
    """Find the batch axes of a model's inputs.

    Where axis 0 of an input has no fixed size it counts the samples, unless its name is that of another axis of an
    earlier kind (``[batch, tokens]`` beside ``[tokens]``). An input whose axis 0 is fixed counts them along the one
    axis that is not fixed, if it is named like the batch or neither has a name (``[2, batch, 128]``: a state).
    Where axis 0 is fixed everywhere, the first input's length is the batch, and inputs that agree are split.

    Raises
    ------
    DataError
        An input is no tensor (a sequence, an optional), or has no type.
    """
    shapes = {_name(value): _dims(value) for value in values}
    first = next((dims for dims in shapes.values() if dims is None or len(dims)), None)
    dynamic = any(dims is None or (dims and not isinstance(dims[0], int)) for dims in shapes.values())
    if dynamic:
        lead = next((d[0] for d in shapes.values() if d and not isinstance(d[0], int)), None)
        later = {dim for dims in shapes.values() for dim in (dims or ())[1:] if isinstance(dim, str)} - {lead}
        axes = {name: _dynamic_axis(dims, lead, later) for name, dims in shapes.items()}
        fixed = None
    else:
        fixed = first[0] if first else None
        axes = {name: 0 if dims and dims[0] == fixed else None for name, dims in shapes.items()}
    graph = next((value.graph for value in values if value.graph is not None), None)
    grows = {} if graph is None else {c.past: c.grows for c in caches.find_caches(graph) if not c.steady}
    inputs = tuple(
        Input(_name(v), _dtype(v), shapes[_name(v)], axes[_name(v)], grows.get(v), find_table(v)) for v in values
    )
    derived = {} if graph is None else caches.derived_sizes(graph)
    return Layout(inputs, fixed if isinstance(fixed, int) else None, derived)


def model_layout(model: ir.Model) -> Layout:
    """Find the layout of a model's inputs; what attention asks of its caches counts as fixed.

    Raises
    ------
    DataError
        See `find_layout`.
    """
    layout = replace(find_layout(model_inputs(model)), cuts=interface.read(model.metadata_props))
    loose = [item for item in layout.inputs if item.grows is not None and len(list(_open_extents(item))) > 1]
    if not loose:
        return layout
    asked = fitting_inputs(model)
    tight = {
        item.name: tuple(
            asked[item.name][axis] if axis in dict(_open_extents(item)) and axis != item.grows else dim
            for axis, dim in enumerate(item.shape or ())
        )
        for item in loose
    }
    inputs = tuple(replace(item, shape=tight.get(item.name, item.shape)) for item in layout.inputs)
    return replace(layout, inputs=inputs)


def _dynamic_axis(dims: Dims | None, lead: int | str | None, later: set[str]) -> int | None:
    if dims is None:
        return 0
    if not dims:
        return None
    if not isinstance(dims[0], int):
        return None if dims[0] in later else 0
    same = [axis for axis, dim in enumerate(dims) if not isinstance(dim, int) and dim == lead]
    return same[0] if len(same) == 1 else None


def _name(value: ir.Value) -> str:
    return value.name or ""


def _dims(value: ir.Value) -> Dims | None:
    if value.shape is None:
        return None
    # Some exporters write -1 for a dimension that varies.
    dims = (dim.value if isinstance(dim, ir.SymbolicDim) else dim for dim in value.shape)
    return tuple(None if isinstance(dim, int) and dim < 0 else dim for dim in dims)


def _dtype(value: ir.Value) -> np.dtype[Any]:
    if not isinstance(value.type, ir.TensorType):
        kind = type(value.type).__name__ if value.type is not None else "value without a type"
        raise DataError(f"model input '{value.name}' is a {kind}; only tensors can be fed")
    return value.type.dtype.numpy()


class MisfitError(DataError):
    """Arrays are not what the model takes."""


def check_feeds(layout: Layout, arrays: Mapping[str, Any], where: str, offset: int) -> tuple[dict[str, Array], int]:
    """Check that `arrays` fit the inputs, and count their samples.

    Parameters
    ----------
    layout : Layout
    arrays : mapping of str to ndarray
        Feeds alone, without labels.
    where : str
        The file, or what else the arrays came from, for messages.
    offset : int
        The number of the first sample, for messages.

    Returns
    -------
    feeds : dict of str to ndarray
        In the order of the model's inputs.
    count : int
        How many samples they hold.

    Raises
    ------
    DataError
        A name, dtype, rank, fixed dimension or number of samples does not fit, or a value is NaN or infinite.
    """
    _check_names(layout, arrays, where)
    here = {item.name: interface.cut(layout.cuts, item.name, arrays[item.name]) for item in layout.inputs}
    feeds = {item.name: _check_array(item, here[item.name], where) for item in layout.inputs}
    counts = {i.name: feeds[i.name].shape[i.batch_axis] for i in layout.inputs if i.batch_axis is not None}
    count = max(counts.values(), default=1)
    longest = max(counts, key=lambda name: counts[name], default="")
    for item in layout.inputs:
        found = counts.get(item.name, count)
        if found == 1 and item.batch_axis:  # one state for all samples
            feeds[item.name] = np.repeat(feeds[item.name], count, axis=item.batch_axis)
        elif found != count:
            raise DataError(f"{where}: input '{item.name}' has {found} samples, '{longest}' has {count}")
    for item in layout.inputs:
        _check_finite(item, feeds[item.name], where, offset)
        _check_rows(item, feeds[item.name], where, offset)
    return feeds, count


def _check_names(layout: Layout, arrays: Mapping[str, Any], where: str) -> None:
    names = [item.name for item in layout.inputs]
    there = list(arrays)
    for name in names:
        if name not in arrays:
            close = did_you_mean(name, [key for key in there if key not in names])
            raise MisfitError(
                f"{where}: model input '{name}' is missing; there are: {', '.join(there) or 'none'}{close}"
            )
    for name in there:
        if name not in names:
            close = did_you_mean(name, names)
            raise MisfitError(f"{where}: array '{name}' is no input of the model{close} (inputs: {', '.join(names)})")


def _check_array(item: Input, given: Any, where: str) -> Array:
    array: Array = np.asarray(given)
    label = f"{where}: input '{item.name}'"
    if array.dtype.kind == "V" and item.dtype.kind == "V" and array.dtype.itemsize == item.dtype.itemsize:
        array = array.view(item.dtype)  # .npy files do not keep the names of bfloat16 and float8
    both_text = item.dtype.kind == "O" and array.dtype.kind in "OSU"
    if array.dtype != item.dtype and not both_text:
        raise MisfitError(f"{label}: expected {_dtype_name(item.dtype)}, got {array.dtype}")
    if item.shape is None:
        return array
    expected = "[" + ", ".join(str(dim) if dim is not None else "?" for dim in item.shape) + "]"
    if array.ndim != len(item.shape):
        raise MisfitError(f"{label}: expected {len(item.shape)} axes {expected}, got shape {list(array.shape)}")
    for axis, (dim, found) in enumerate(zip(item.shape, array.shape, strict=True)):
        if isinstance(dim, int) and dim != found and axis != item.batch_axis:
            raise MisfitError(f"{label}: expected shape {expected}, got {list(array.shape)}")
    return array


def _dtype_name(dtype: np.dtype[Any]) -> str:
    return "text" if dtype.kind == "O" else str(dtype)


def _check_finite(item: Input, array: Array, where: str, offset: int) -> None:
    if not (array.dtype.kind in "fc" or "float" in array.dtype.name) or not array.size:
        return
    if item.batch_axis is None:
        if not np.isfinite(array).all():
            raise DataError(f"{where}: input '{item.name}' holds NaN or infinity")
        return
    rows = np.moveaxis(array, item.batch_axis, 0)
    step = max(1, FINITE_SLICE * len(rows) // array.size)
    for start in range(0, len(rows), step):
        finite = np.isfinite(rows[start : start + step]).reshape(min(step, len(rows) - start), -1).all(axis=1)
        release_pages(array)
        if not finite.all():
            first = offset + start + int(np.argmin(finite))
            raise DataError(f"{where}: input '{item.name}' holds NaN or infinity, first in sample {first}")


def _check_rows(item: Input, array: Array, where: str, offset: int) -> None:
    """Raise `DataError` for numbers of rows that a table does not have; ONNX counts negative ones from its end."""
    if item.table is None or array.dtype.kind not in "iu" or not array.size:
        return
    rows = item.table.rows
    if array.max() < rows and array.min() >= -rows:
        return
    place = np.unravel_index(int(np.argmax((array >= rows) | (array < -rows))), array.shape)
    sample = "" if item.batch_axis is None else f" in sample {offset + int(place[item.batch_axis])}"
    raise DataError(
        f"{where}: input '{item.name}' holds {array[place]}{sample}, and '{item.table.name}', from which it picks, has "
        f"{rows:,} rows (0 to {rows - 1})"
    )


def release_pages(array: Array) -> None:
    """Let the system take back the memory of an array that is mapped from a file; it is read again when needed."""
    base: Any = array
    read_only = False
    while base is not None and not isinstance(base, mmap.mmap):
        read_only = read_only or getattr(base, "mode", "") == "r"  # what was written into another's pages is not lost
        base = getattr(base, "base", None)
    if base is not None and read_only and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


MOST_RANDOM_BYTES = 1 << 34
"""What may be made up for one input; a model that takes more has a wrong shape."""


def random_feeds(
    layout: Layout, count: int, seed: int, stretch: int = 1, given: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, Array]:
    """Return `count` samples of random values: standard normal floats, integers in {0, 1}.

    Dimensions of the same name get the same size: `SMALL_IMAGE` for the height and width of an image (four axes and
    more), 3 for its channels, `SMALL_PAST` for what a cache holds, `SMALL_DIM` for others, times `stretch` if there is
    no image. Those that follow from others do. Sizes that are `given` for an input are taken, but for the number of
    samples.
    """
    random = np.random.default_rng(seed)
    feeds = {}
    for item, shape in zip(layout.inputs, _random_shapes(layout, count, stretch, given or {}), strict=True):
        if math.prod(shape) * item.dtype.itemsize > MOST_RANDOM_BYTES:
            raise DataError(f"input '{item.name}' of {item.dtype} {shape}: one sample of it does not fit into memory")
        feeds[item.name] = _random_array(random, shape, item.dtype)
    return feeds


def _random_shapes(
    layout: Layout, count: int, stretch: int, given: Mapping[str, tuple[int, ...]]
) -> Iterator[list[int]]:
    """Yield the shape of each input; extents that follow from others come once those have a size."""
    sizes: dict[str, int] = {}
    for item in layout.inputs:
        there = given.get(item.name, ())
        for axis, name in _open_extents(item):
            if name not in layout.derived:
                sizes.setdefault(name, there[axis] if axis < len(there) else _small(item, axis, stretch))
    for item in layout.inputs:
        names, there = dict(_open_extents(item)), given.get(item.name, ())
        shape: list[int] = []
        for axis, dim in enumerate(item.shape if item.shape is not None else (None,)):
            if axis == item.batch_axis:
                shape.append(count)
            elif axis < len(there):
                shape.append(there[axis])
            elif isinstance(dim, int):
                shape.append(dim)
            elif names[axis] in layout.derived:
                shape.append(caches.evaluate(layout.derived[names[axis]], sizes, SMALL_DIM * stretch))
            else:
                shape.append(sizes[names[axis]])
        yield shape


def _open_extents(item: Input) -> Iterator[tuple[int, str]]:
    """Yield the axes of an input that have no fixed size, but for that of the samples, and what they are called."""
    for axis, dim in enumerate(item.shape if item.shape is not None else (None,)):
        if axis != item.batch_axis and not isinstance(dim, int):
            yield axis, caches.extent_name(item.name, axis, dim)


def _small(item: Input, axis: int, stretch: int) -> int:
    if item.grows is not None or NO_IMAGE.fullmatch(item.name.lower()):
        return (SMALL_PAST if axis == item.grows else SMALL_DIM) * stretch
    if len(item.shape or ()) < IMAGE_RANK:
        return SMALL_DIM * stretch
    return 3 if axis == 1 else SMALL_IMAGE


IMAGE_RANK = 4
NO_IMAGE = re.compile(f"{caches.MASK}|{caches.PAST}")
"""Names of inputs that are none, of however many axes."""


def _random_array(random: np.random.Generator, shape: list[int], dtype: np.dtype[Any]) -> Array:
    if dtype.kind == "O":
        text: Array = np.full(shape, "a", dtype=object)
        return text
    wide: Array = random.standard_normal(shape) if "float" in dtype.name else random.integers(0, 2, shape)
    values: Array = wide.astype(dtype)
    return values
