"""Let each weight take few different values."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.contract import Change, Changes, Context, Plan, Refusal
from onnxcompress.graph import edit
from onnxcompress.graph.weights import Weight
from onnxcompress.selection import OverridablePass

from .k_means.lloyd import STARTS, cluster
from .masks.weights import array_of, choose_weights


@dataclasses.dataclass(frozen=True)
class Codebook:
    """The values that a weight may take, and which one each element takes.

    Attributes
    ----------
    shape : tuple of int
    axis : int
        The axis along which each index has values of its own; -1 when all share them.
    values : (books, clusters) float array
    codes : (elements,) integer array
        Which value each element takes, in memory order.
    """

    shape: tuple[int, ...]
    axis: int
    values: npt.NDArray[np.float64]
    codes: npt.NDArray[np.uint8]

    def decode(self) -> npt.NDArray[np.float64]:
        """Return the weight that the codes stand for."""
        codes = self.codes.reshape(self.shape)
        if self.axis < 0:
            return np.asarray(self.values[0][codes])
        book = np.arange(self.shape[self.axis]).reshape([-1 if d == self.axis else 1 for d in range(len(self.shape))])
        return np.asarray(self.values[book, codes])


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterPlan(Plan):
    """Constant's name → codebook."""

    books: dict[str, Codebook] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster(OverridablePass):
    """Let each weight take only a few different values, so that the file zips well; it stays as large unzipped.

    Parameters
    ----------
    clusters : int
        How many values each weight tensor may take.
    initialisation : str
        Where the centres start: linear (evenly from smallest to largest), random (drawn from the weights), density
        (as many weights between each two) or kmeans++ (drawn far from each other).
    granularity : {"tensor", "channel"}
        Who has values of its own: each weight, or each of its output channels.
    preserve_sparsity : bool
        Zeros stay zeros: one of the values is zero, and only what is not zero decides about the others.

    Notes
    -----
    Han et al., "Deep Compression", arXiv:1510.00149; TensorFlow's toolkit: ``cluster_weights``. Lloyd's algorithm on
    sorted values; weights with no more different values than clusters stay exactly as they are.
    """

    overridable = ("clusters", "initialisation", "granularity", "preserve_sparsity")

    clusters: Annotated[int, msgspec.Meta(ge=2, le=256)] = 16
    initialisation: Literal["linear", "random", "density", "kmeans++"] = "linear"
    granularity: Literal["tensor", "channel"] = "tensor"
    preserve_sparsity: bool = False

    def plan(self, model: ir.Model, context: Context) -> ClusterPlan:
        """Find the values of each weight."""
        chosen = choose_weights(self, model)
        refused = list(chosen.refused)
        random = np.random.default_rng(context.seed)
        books = {}
        for weight in chosen.weights:
            step = chosen.selected.settings(weight)
            if step.granularity == "channel" and weight.axis < 0:
                reason = "an operator moves it before it is used, so that its output channels are not known"
                refused.append(Refusal(str(weight.value.name), reason))
            else:
                books[str(weight.value.name)] = step.codebook(weight, random)
        return ClusterPlan(books=books, refused=tuple(refused))

    def codebook(self, weight: Weight, random: np.random.Generator) -> Codebook:
        """Cluster one weight by these options."""
        array = array_of(weight).astype(np.float64)
        axis = weight.axis if self.granularity == "channel" else -1
        rows = array.reshape(1, -1) if axis < 0 else np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
        start = STARTS[self.initialisation]
        found = [cluster(row, self.clusters, start, random, keep_zero=self.preserve_sparsity) for row in rows]
        codes = np.stack([codes for _, codes in found])
        if axis >= 0:
            moved = [array.shape[axis], *(n for d, n in enumerate(array.shape) if d != axis)]
            codes = np.moveaxis(codes.reshape(moved), 0, axis)
        values = np.stack([np.resize(values, self.clusters) for values, _ in found])
        return Codebook(array.shape, axis, values, np.ascontiguousarray(codes).reshape(-1))

    def apply(self, model: ir.Model, plan: ClusterPlan) -> Changes:
        """Put the values in place."""
        by_name = {value.name: value for value in edit.values(model.graph)}
        done, pairs = [], []
        for name, book in plan.books.items():
            before = edit.array(by_name[name])
            after = book.decode().astype(before.dtype)
            if not np.array_equal(before, after):
                edit.set_constant(by_name[name], after)
                pairs.append((_zipped(before), _zipped(after), after.nbytes))
                done.append(Change(name, f"{len(np.unique(after))} different values; {_sizes(*pairs[-1])}"))
        notes = (f"all of these: {_sizes(*np.sum(pairs, axis=0))}",) if len(done) > 1 else ()
        return Changes(tuple(done), plan.refused, notes)


def _zipped(array: npt.NDArray[Any]) -> int:
    return len(zlib.compress(array.tobytes()))


def _sizes(before: int, after: int, plain: int) -> str:
    return f"zipped {before / 1000:,.1f} → {after / 1000:,.1f} kB, in the file {plain / 1000:,.1f} kB"
