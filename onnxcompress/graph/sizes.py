"""Concrete sizes for a model's inputs: what the file fixes, what the weights ask for, something small for the rest."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import onnx_ir as ir

from . import edit, operators
from .caches import MASK, PAST, Derived, derived_sizes, evaluate, extent_name, find_caches
from .dims import Dim, Dims
from .inference import Skeleton, Types, dims_of
from .layer import Layer, axes_of

Shape: TypeAlias = tuple[int, ...]
Named: TypeAlias = tuple["int | str", ...]

IMAGES = (64, 224, 32, 28, 96, 128, 160, 192, 256, 299, 320, 384, 416, 448, 512, 640)
"""Heights and widths, in the order in which they are tried: position embeddings fit one size alone."""

LENGTHS = (8, 32, 128, 512, 2048, 16384)
"""Tokens, frames or audio samples: windows and strides may need more than the smallest."""


@dataclass(frozen=True)
class Sizes:
    """What each extent of each input is taken to be.

    Attributes
    ----------
    dims : dict
        Input → its extents as the model says them; those that it leaves open have a name each.
    asked : dict
        Name of an extent → what a weight that reads it asks for.
    broadcast : dict
        The same where 1 would do as well.
    derived : dict
        Name of an extent → what it follows from.
    flat : set
        Inputs that are no images, of however many axes: caches and masks.
    image, length, batch : int
        What the extents are that nothing fixes: height and width, any other, axis 0.
    """

    dims: dict[str, Named]
    derived: Mapping[str, Derived] = field(default_factory=dict)
    flat: frozenset[str] = frozenset()
    asked: dict[str, int] = field(default_factory=dict)
    broadcast: dict[str, int] = field(default_factory=dict)
    image: int = IMAGES[0]
    length: int = LENGTHS[0]
    batch: int = 1

    def shapes(self, given: Mapping[str, Shape] | None = None) -> dict[str, Shape]:
        """Return the shape of each input; `given` ones are taken where they have the right rank."""
        known = {name: size for name, size in (self.broadcast | self.asked).items() if name not in self.derived}
        taken = {n: s for n, s in (given or {}).items() if len(self.dims.get(n, ())) == len(s)}
        for name, dims in self.dims.items():
            for axis, dim in enumerate(dims):
                if not isinstance(dim, int) and dim not in self.derived:
                    known.setdefault(dim, taken[name][axis] if name in taken else self._default(name, axis))
        for dim, derived in self.derived.items():
            known[dim] = evaluate(derived, known, self.length)
        return {
            name: taken.get(name, tuple(dim if isinstance(dim, int) else known[dim] for dim in dims))
            for name, dims in self.dims.items()
        }

    def others(self) -> Iterator[Sizes]:
        """Yield other sizes to try, where these fit nothing that the model was made for."""
        left = {
            name
            for name, dims in self.dims.items()
            for axis, dim in enumerate(dims)
            if axis and not isinstance(dim, int) and dim not in self.asked and dim not in self.broadcast
        }
        if any(self._is_image(name) for name in left):
            yield from (replace(self, image=size) for size in IMAGES[1:])
        elif left:
            yield from (replace(self, length=size) for size in LENGTHS[1:])

    def larger(self) -> Iterator[Sizes]:
        """Yield larger sizes; then those where images are only wider, only higher, and where only the batch is larger.

        Some models take images of one height, or of one size alone.
        """
        more = replace(self, batch=2, broadcast=dict.fromkeys(self.broadcast, 1))
        larger = replace(more, image=2 * self.image, length=self.length * 3 // 2)
        yield larger
        for axis in (2, 3):
            held = {dims[axis] for name, dims in self.dims.items() if self._is_image(name)}
            kept = {dim: self.image for dim in held if isinstance(dim, str)}
            if kept:
                yield replace(larger, asked=kept | self.asked)
        yield more

    def _default(self, name: str, axis: int) -> int:
        if axis == 0:
            return self.batch
        return self.image if self._is_image(name) else self.length

    def _is_image(self, name: str) -> bool:
        return len(self.dims[name]) >= IMAGE_RANK and name not in self.flat


IMAGE_RANK = 4
"""Inputs of so many axes are taken for images, or stacks of them."""


def find_sizes(graph: ir.Graph, skeleton: Skeleton) -> Sizes:
    """Look at the inputs, and at what reads the extents that they leave open."""
    dims: dict[str, Named] = {}
    for value in graph.inputs:
        if value.shape is not None and value.name is not None and value.name not in graph.initializers:
            dims[value.name] = tuple(
                _dim(dim, extent_name(value.name, axis, dim)) for axis, dim in enumerate(value.shape)
            )
    there = {dim for each in dims.values() for dim in each}
    flat = {name for name in dims if re.fullmatch(f"{MASK}|{PAST}", name.lower())}
    flat |= {str(cache.past.name) for cache in find_caches(graph)}
    derived = {name: how for name, how in derived_sizes(graph).items() if name in there}
    sizes = Sizes(dims, derived=derived, flat=frozenset(flat))
    if any(not isinstance(dim, int) for each in dims.values() for dim in each):
        (_, known), *_ = skeleton.infer(dims)
        for node in graph:
            _ask(node, known, sizes)
    return sizes


def _dim(dim: int | ir.SymbolicDim, name: str) -> int | str:
    return dim if isinstance(dim, int) and dim > 0 else name


def _ask(node: ir.Node, known: Types, sizes: Sizes) -> None:
    """Note what a node asks of extents that have names."""
    op = edit.op_of(node)
    shapes = [None if v is None else dims_of(known.get(v.name or "")) for v in node.inputs]
    rule = READS.get(op)
    known_first = all(s is not None for s, v in zip(shapes[:2], node.inputs, strict=False) if v is not None)
    if rule is not None and (known_first or rule is _grouped):
        for one, other in rule(node, [() if shape is None else shape for shape in shapes]):
            for name, size in ((one, other), (other, one)):
                if isinstance(name, str) and isinstance(size, int):
                    sizes.asked.setdefault(name, size)
    elif op in BROADCASTING:
        there = [shape for shape in shapes if shape is not None]
        for axis in range(-max(map(len, there), default=0), 0):
            extents = [shape[axis] for shape in there if len(shape) >= -axis]
            fixed = [extent for extent in extents if isinstance(extent, int) and extent > 1]
            for name in extents if fixed else ():
                if isinstance(name, str):
                    sizes.broadcast.setdefault(name, fixed[0])


Pairs: TypeAlias = list[tuple[Dim, Dim]]
"""Extents that must be equal."""


def _conv(node: ir.Node, shapes: list[Dims]) -> Pairs:
    data, weight = shapes[:2]
    if len(data) < 2 or len(weight) < 2:
        return []
    axis = axes_of(node, 1, len(weight)).summed
    inside, times = weight[axis], Layer(node).repeats(axis)
    if isinstance(inside, int):
        return [(data[1], inside * times)]
    return [(data[1], inside)] if times == 1 else []


def _product(node: ir.Node, shapes: list[Dims]) -> Pairs:
    a, b = shapes[:2]
    return [(a[axes_of(node, 0, len(a)).summed], b[axes_of(node, 1, len(b)).summed])] if a and b else []


def _attention(node: ir.Node, shapes: list[Dims]) -> Pairs:
    data, weight = shapes[:2]
    return [(data[-1], weight[axes_of(node, 1, 2).summed])] if data and len(weight) == 2 else []


def _per_channel(node: ir.Node, shapes: list[Dims]) -> Pairs:
    data, scale = shapes[:2]
    return [(data[1], scale[0])] if len(data) > 1 and len(scale) == 1 else []


def _normalised(node: ir.Node, shapes: list[Dims]) -> Pairs:
    data, scale = shapes[:2]
    return [(data[-1], scale[-1])] if data and scale and scale[-1] != 1 else []


def _recurrent(node: ir.Node, shapes: list[Dims]) -> Pairs:
    data, weight = shapes[:2]
    return [(data[2], weight[2])] if len(data) == len(weight) == 3 else []


def _grouped(node: ir.Node, shapes: list[Dims]) -> Pairs:
    """Pair the extents of a cache with the heads that attention makes of its queries."""
    wanted = heads_of(node)
    pasts = [shape for shape in shapes[3:5] if len(shape) == CACHE_RANK]
    return [pair for shape in pasts for pair in zip((shape[1], shape[3]), wanted, strict=True) if pair[1] is not None]


def heads_of(node: ir.Node) -> tuple[int, int | None]:
    """Return how many heads the cache of a GroupQueryAttention has, and how wide each is where that is known."""
    heads, groups = edit.int_attribute(node, "num_heads", 0), edit.int_attribute(node, "kv_num_heads", 0)
    width = _width(node.inputs[0])
    packed = heads + (2 * groups if node.inputs[1] is None else 0)
    return groups, width // packed if width is not None and packed else None


def _width(value: ir.Value | None) -> int | None:
    """Return the last extent of a value, which what computes it tells even where nobody has inferred it."""
    if value is None:
        return None
    last = value.shape[-1] if value.shape is not None and len(value.shape) else None
    node = value.producer()
    if isinstance(last, int) or node is None:
        return last if isinstance(last, int) else None
    if edit.op_of(node) == "com.microsoft::MatMulNBits":
        return edit.int_attribute(node, "N", 0) or None
    if node.op_type in WIDE:
        found = [width for other in node.inputs if (width := _width(other)) is not None]
        return max(found, default=None)
    layer = Layer.of(node)
    return _width(layer.value) if layer is not None and layer.op == "MatMul" else None


WIDE = {"Add", "Cast", "Mul", "RotaryEmbedding"}
"""Operators whose result is as wide as the widest of what they read."""

CACHE_RANK = 4


FAMILIES: dict[operators.Family, Callable[[ir.Node, list[Dims]], Pairs]] = {
    "attention": _attention,
    "convolution": _conv,
    "product": _product,
    "recurrent": _recurrent,
}

READS: dict[str, Callable[[ir.Node, list[Dims]], Pairs]] = {
    **{op: FAMILIES[operators.facts(op).family] for op in operators.LAYERS},
    "BatchNormalization": _per_channel,
    "InstanceNormalization": _per_channel,
    "LayerNormalization": _normalised,
    "com.microsoft::GroupQueryAttention": _grouped,
    "RMSNormalization": _normalised,
}
"""Which extents of its inputs an operator wants to be equal, by the shapes of all inputs."""

BROADCASTING = {"Add", "Div", "Mul", "Pow", "PRelu", "Sub", "Where"}
"""Operators whose operands are of one size, or of size 1."""
