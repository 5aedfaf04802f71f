"""Rotate the residual stream, so that no channel stands out, without changing what the model computes."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import msgspec
import onnx_ir as ir

from onnxcompress.channels.groups import find_groups
from onnxcompress.channels.rotation import rotate
from onnxcompress.channels.streams import find_streams
from onnxcompress.contract import MODEL, Change, Changes, Context, Plan, Promise, Refusal
from onnxcompress.errors import PassError
from onnxcompress.graph import edit
from onnxcompress.selection import SelectivePass, Subject, value_subjects

from .prepare.prepare import FORMS, prepare, prepared
from .rotations.matrices import rotation


@dataclasses.dataclass(frozen=True)
class Rotation:
    """How one stream is rotated.

    Attributes
    ----------
    seed : int
    keep_mean : bool
        The rotation maps the vector of ones to itself.
    """

    seed: int
    keep_mean: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class RotationPlan(Plan):
    """The streams to rotate, by name."""

    rotations: dict[str, Rotation] = dataclasses.field(default_factory=dict)


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
        found, stay = find_streams(find_groups(work.model))
        streams = [stream for stream in found if stream.residual]
        refused = [Refusal(error.subject, f"the residual stream is not rotated: {error}") for error in stay]
        subjects = {stream: Subject().joined(*value_subjects(stream.places).values()) for stream in streams}
        selected = self.select(model, subjects)
        refused += [Refusal(stream.name, reason) for stream, reason in selected.why_not.items() if reason]
        if not streams and not stay:
            refused.append(Refusal(MODEL, "it has no residual stream: nothing normalises what is added up"))
        chosen = [stream for stream in streams if not selected.why_not.get(stream)]
        rotations = {s.name: Rotation(self.seed + at, s.mean is not None) for at, s in enumerate(chosen)}
        return RotationPlan(rotations=rotations, refused=(*work.refused, *refused, *selected.idle))

    def apply(self, model: ir.Model, plan: RotationPlan) -> Changes:
        """Fold the rotations of the plan into the constants."""
        if not plan.rotations:
            return Changes(refused=plan.refused)
        done = prepare(model, FORMS["rotate"])
        streams = {stream.name: stream for stream in find_streams(find_groups(model))[0]}
        for name, wanted in plan.rotations.items():
            if name not in streams:
                raise PassError(f"rotation of '{name}': the model has no such stream; was the plan made for it?")
            stream = streams[name]
            changed = rotate(stream, rotation(stream.width, wanted.seed, keep_mean=wanted.keep_mean))
            done.append(Change(name, f"stream of width {stream.width} rotated: {len(changed)} constants"))
        edit.remove_dead(model)
        return Changes(tuple(done), plan.refused)
