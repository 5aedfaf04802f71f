"""The model that learns: the one that the pass gets, or any file that takes its inputs and gives its outputs."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxcompress.contract import MODEL, Change
from onnxcompress.errors import PlanError
from onnxcompress.graph import edit
from onnxcompress.graph.fingerprint import Fingerprints
from onnxcompress.graph.load import load
from onnxcompress.kinds import working_copy

from .ports import open_batch, take_inputs, take_outputs


@dataclass(frozen=True)
class StudentFile:
    """A model that takes the place of another.

    Attributes
    ----------
    file : str
        Where it is.
    fingerprint : str
        That of the model in the file, so that a plan that is carried out again means the same.
    notes : tuple of str
        What became of its inputs and outputs.
    """

    file: str
    fingerprint: str
    notes: tuple[str, ...] = ()


def find_student(file: str, model: ir.Model) -> tuple[ir.Model, StudentFile | None]:
    """Return the model that learns: that of a file, with the inputs and outputs of `model`, or `model` itself.

    Raises
    ------
    ModelError
        The file cannot be read, or its inputs or outputs do not fit those of the model.
    """
    if not file:
        return model, None
    student, fingerprint, notes = _read(file, model)
    return student, StudentFile(file, fingerprint, notes)


def put_in_place(model: ir.Model, student: StudentFile) -> Change:
    """Let a model be the student, in place.

    Raises
    ------
    PlanError
        The file holds another model by now.
    """
    other, fingerprint, _ = _read(student.file, model)
    if fingerprint != student.fingerprint:
        raise PlanError(f"student {student.file}: it is not the model any more that the plan was made for; plan anew")
    edit.replace_model(model, other)
    return Change(MODEL, f"{student.file} takes its place")


def _read(file: str, model: ir.Model) -> tuple[ir.Model, str, tuple[str, ...]]:
    loaded = load(file)
    student, called = working_copy(loaded), f"student {file}"
    open_batch(student, model, called)
    notes = [*take_inputs(student, model, called), *take_outputs(student, model, called)]
    return student, Fingerprints().of(loaded), tuple(notes)
