"""Rotate the residual stream, so that no channel stands out, without changing what the model computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.contract import MODEL, Change, Changes, Context, Plan, Promise, Refusal
from onnxcompress.errors import PassError
from onnxcompress.graph import edit
from onnxcompress.selection import SelectivePass, Subject, value_subjects

from .prepare.prepare import FORMS, prepare, prepared
from .rotations.matrices import rotation
from .rotations.streams import Stream, find_streams


@dataclasses.dataclass(frozen=True)
class Turn:
    """A constant that is multiplied by factors, and then by the rotation, along an axis.

    Attributes
    ----------
    node : str
        What reads it, by its first output.
    input : int
    axis : int
    factors : ndarray of float64
        One for each position; empty: there are none.
    """

    node: str
    input: int
    axis: int
    factors: npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Rotation:
    """How one stream is rotated.

    Attributes
    ----------
    width : int
    seed : int
    keep_mean : bool
        The rotation maps the vector of ones to itself.
    turns : tuple of Turn
    ones : tuple of (str, int)
        Factors of normalisations that become 1: the node, by its first output, and the input.
    """

    width: int
    seed: int
    keep_mean: bool
    turns: tuple[Turn, ...]
    ones: tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RotationPlan(Plan):
    """The streams to rotate."""

    rotations: tuple[Rotation, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rotate(SelectivePass):
    """Multiply the residual stream by a random Hadamard matrix, which all weights that read it undo.

    ``R Rᵀ = 1``: weights that write the stream, embeddings and biases are multiplied by R, those that read it by Rᵀ,
    once the factors of the normalisations between are folded into them. What a normalisation divides by, the length of
    a row, stays the same, so that the model computes what it did. What stood out in one channel is spread over all, and
    few bits lose less: for `quantize-weights` behind it.

    Parameters
    ----------
    seed : int
        Of the signs.

    Notes
    -----
    Ashkboos et al. 2024, arXiv:2404.00456 (QuaRot); Liu et al. 2024, arXiv:2405.16406 (SpinQuant's R1, not learned).
    Where a mean is taken away, as LayerNormalization does, R maps the vector of ones to itself and so commutes with
    that (Ashkboos et al. 2024, arXiv:2401.15024, fold it into the weights instead). Hadamard matrices are Sylvester's
    and Paley's, for 2^k times 1, 12, 20, 28, 36, 44, 60, …; other widths get a random orthogonal matrix. The group
    engine tells which axes are the stream; a node that is neither linear in it nor a normalisation, a graph input or
    output, or a table that is tied to the last weight keeps it as it is, and is refused by name. To exclude any part
    of a stream is to exclude all of it.
    """

    seed: Annotated[int, msgspec.Meta(ge=0)] = 0

    promise = Promise(tolerance=1e-3)

    def plan(self, model: ir.Model, context: Context) -> RotationPlan:
        """Find the streams, and what a rotation of each is folded into."""
        work = prepared(model, context, FORMS["rotate"])
        streams, stay = find_streams(work.model)
        refused = [Refusal(error.subject, f"the residual stream is not rotated: {error}") for error in stay]
        subjects = {stream: Subject().joined(*value_subjects(stream.places).values()) for stream in streams}
        selected = self.select(model, subjects)
        refused += [Refusal(stream.name, reason) for stream, reason in selected.why_not.items() if reason]
        if not streams and not stay:
            refused.append(Refusal(MODEL, "it has no residual stream: nothing normalises what is added up"))
        chosen = [stream for stream in streams if not selected.why_not.get(stream)]
        rotations = tuple(_rotation(stream, self.seed + number) for number, stream in enumerate(chosen))
        return RotationPlan(rotations=rotations, refused=(*work.refused, *refused, *selected.idle))

    def apply(self, model: ir.Model, plan: RotationPlan) -> Changes:
        """Fold the rotations of the plan into the constants."""
        if not plan.rotations:
            return Changes(refused=plan.refused)
        done = prepare(model, FORMS["rotate"])
        nodes = {edit.output_name(node): node for node in model.graph}
        insert = edit.Inserter(model.graph)
        for found in plan.rotations:
            matrix = rotation(found.width, found.seed, keep_mean=found.keep_mean)
            for turn in found.turns:
                _replace(insert, _node(nodes, turn.node), turn.input, partial(_turned, turn=turn, matrix=matrix))
            for name, index in found.ones:
                _replace(insert, _node(nodes, name), index, np.ones_like)
            done.append(Change(MODEL, f"stream of width {found.width} rotated: {len(found.turns)} constants"))
        edit.remove_dead(model)
        return Changes(tuple(done), plan.refused)


def _rotation(stream: Stream, seed: int) -> Rotation:
    none = np.zeros(0)
    turns = (
        Turn(edit.output_name(node), index, axis, stream.factors.get((node, index), none))
        for (node, index), axis in stream.turned.items()
    )
    ones = tuple((edit.output_name(node), index) for node, index in stream.ones)
    return Rotation(stream.width, seed, stream.keeps_mean, tuple(turns), ones)


def _node(nodes: dict[str, ir.Node], name: str) -> ir.Node:
    if name not in nodes:
        raise PassError(f"the plan names the node that gives '{name}', which the model does not have")
    return nodes[name]


def _replace(insert: edit.Inserter, node: ir.Node, index: int, change: Callable[[Any], Any]) -> None:
    """Give a node a constant of its own in place of one; the old one goes if nothing else reads it."""
    old = edit.required(node, index)
    given = edit.array(old)
    node.replace_input_with(index, insert.constant(f"{old.name}_rotated", change(given).astype(given.dtype)))
    edit.remove_unread(old)


def _turned(array: npt.NDArray[Any], *, turn: Turn, matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    last = np.moveaxis(array.astype(np.float64), turn.axis, -1)
    scaled = last * turn.factors if turn.factors.size else last
    return np.asarray(np.moveaxis(scaled @ matrix, -1, turn.axis))
