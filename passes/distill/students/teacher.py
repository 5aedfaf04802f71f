"""The model that teaches: the one that the recipe started from, or any file that takes the same inputs."""

from __future__ import annotations

import onnx_ir as ir

from onnxcompress.graph.load import load
from onnxcompress.kinds import working_copy

from .ports import open_batch, take_inputs


def find_teacher(path: str, model: ir.Model, original: ir.Model) -> ir.Model:
    """Return the model that teaches; it takes the inputs of the model that learns, under their names.

    Parameters
    ----------
    path : str
        An ONNX file; empty for the original.
    model : onnx_ir.Model
        The model that learns.
    original : onnx_ir.Model
        The model that the recipe started from.

    Raises
    ------
    ModelError
        The file cannot be read, or its inputs and the model's do not fit together.
    """
    if not path:
        return original
    teacher, called = working_copy(load(path)), f"teacher {path}"
    open_batch(teacher, model, called)
    take_inputs(teacher, model, called)
    return teacher
