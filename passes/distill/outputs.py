"""What each output of a model is, and which tensor of the teacher it is compared with."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping
from math import prod
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.errors import OptionError, TrainingError, did_you_mean
from onnxcompress.graph.functions import flatten
from onnxcompress.graph.output_kinds import MASK, OutputKind, OutputReader, Tensor, backward, logits, unactivated
from onnxcompress.graph.shapes import FLOATS
from onnxcompress.samples.samples import Batch
from onnxcompress.training import computes

from .objectives.tensors import Kind, Output

COMPARED_AS: dict[OutputKind, Kind] = {
    "classes": "classes",
    "binary": "binary",
    "embedding": "embedding",
    "boxes": "values",
    "values": "values",
    "state": "ignore",
    "decisions": "ignore",
}
"""What an output is → how it is compared."""

COMPARED: dict[Kind, OutputKind] = {kind: read for read, kind in reversed([*COMPARED_AS.items()])}


def find_outputs(
    student: ir.Model,
    teacher: ir.Model,
    batch: Batch,
    chosen: Mapping[str, tuple[Kind, ...]],
    labels: npt.NDArray[Any] | None = None,
) -> tuple[list[Output], dict[str, str]]:
    """Find what each output of the student is.

    Parameters
    ----------
    student, teacher : onnx_ir.Model
        With the same inputs.
    batch : Batch
        Some samples, for their shapes.
    chosen : dict of str to tuple
        Name or pattern of an output → what it may be, the usual first; the last that matches holds.
    labels : numpy.ndarray, optional
        Those of all samples.

    Returns
    -------
    list of Output
    dict of str to str
        Outputs that are not compared → why.

    Raises
    ------
    OptionError
        A pattern matches no output.
    TrainingError
        An output has no counterpart in the teacher, or one of another shape.
    """
    mine, its = (Probe(model, batch) for model in (student, teacher))
    _check_patterns(chosen, list(mine.outputs))
    found: list[Output] = []
    ignored: dict[str, str] = {}
    taken: set[str] = set()
    for name, value in mine.outputs.items():
        kind, why = mine.kind(value, labels)
        allowed = next((kinds for term, kinds in reversed([*chosen.items()]) if fnmatch.fnmatchcase(name, term)), ())
        if allowed and kind not in allowed:
            kind, why = allowed[0], "as chosen"
        tensor = None if kind == "ignore" else mine.tensor(value, kind)
        if tensor is None:
            ignored[name] = why if kind == "ignore" else "its first dimension is not the batch"
            continue
        partner = _partner(tensor, name, kind, its, taken)
        taken.add(partner[0])
        found.append(Output(name, kind, tensor, partner[1], why, mine.mask(tensor)))
    return found, ignored


class Probe:
    """A model whose outputs are looked at, and the shapes that its tensors have for some samples."""

    def __init__(self, model: ir.Model, batch: Batch, inner: Collection[str] = (), called: str = "model") -> None:
        self.model, self.called = model.clone(), called
        flatten(self.model)
        self.feeds, self.count = batch.feeds, batch.count
        self._known = {str(output.name): output for node in self.model.graph for output in node.outputs}
        for name in inner:
            if name not in self._known:
                hint = did_you_mean(name, list(self._known))
                raise OptionError(f"distill: features: '{name}' is no tensor that the {called} computes{hint}")
        self.outputs = {str(value.name): value for value in self.model.graph.outputs}
        before = [value for output in self.outputs.values() for value in (output, logits(output))]
        asked = {str(v.name) for value in before for v in backward(value) if v.producer() is not None}
        asked |= set(inner)
        self.shapes = {name: array.shape for name, array in computes(model, sorted(asked))(batch.feeds).items()}
        self._reader = OutputReader(self.model, self.shapes, batch.count)

    def kind(self, value: ir.Value, labels: npt.NDArray[Any] | None) -> tuple[Kind, str]:
        """Return as what an output is compared, and what tells so."""
        kind, why = self._reader.kind(value, labels)
        return COMPARED_AS[kind], why

    def tensor(self, value: ir.Value, kind: Kind) -> Tensor | None:
        """Return the tensor by which an output is compared, whose first dimension is the batch; None where none is."""
        return self._reader.tensor(value, COMPARED[kind])

    def inner(self, name: str) -> Tensor:
        """Return an inner tensor that is compared."""
        value, shape = self._known[name], self.shapes[name]
        if value.dtype not in (None, *FLOATS) or len(shape) < 2 or shape[0] != self.count:
            raise TrainingError(
                f"features: '{name}' of the {self.called} is {value.dtype} {list(shape)} for {self.count} samples; "
                "what is compared holds numbers [batch, ...]"
            )
        return Tensor(name, shape, self._reader.axis(unactivated(value), "embedding", shape))

    def mask(self, tensor: Tensor) -> str:
        """Return the input that says which positions of a tensor are padding, or nothing."""
        for value in self.model.graph.inputs:
            name = str(value.name)
            if MASK.search(name) and self.feeds[name].shape[1:] == tensor.positions and tensor.positions:
                return name
        return ""


def _partner(tensor: Tensor, name: str, kind: Kind, teacher: Probe, taken: set[str]) -> tuple[str, Tensor]:
    """Return the teacher's output of the same name, or the only one of the same shape."""
    tensors = {other: teacher.tensor(value, kind) for other, value in teacher.outputs.items()}
    free = {other: found for other, found in tensors.items() if found is not None and other not in taken}
    alike = {other: found for other, found in free.items() if _alike(found, tensor)}
    if name in alike:
        return name, alike[name]
    if name not in tensors and len(alike) == 1:
        return next(iter(alike.items()))
    there = ", ".join(map(str, free.values())) or "none"
    what = f"output '{name}' is compared by {tensor}" if tensor.name != name else f"output {tensor}"
    raise TrainingError(
        f"{what}, and the teacher has no such tensor (there: {there}); give a teacher with the same outputs, "
        f"or leave it out with outputs.{name}=ignore (features may differ in width)"
    )


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.features == other.features and prod(one.positions) == prod(other.positions)


def _check_patterns(chosen: Collection[str], names: list[str]) -> None:
    for term in chosen:
        if not fnmatch.filter(names, term):
            hint = did_you_mean(term, names) or f"; there are {', '.join(names)}"
            raise OptionError(f"distill: outputs: '{term}' matches no output of the model{hint}")
