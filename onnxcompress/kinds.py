"""Every public function takes a path, a ModelProto, an onnx_ir.Model or a gs.Graph, and gives the same kind back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir

from .errors import ModelError
from .graph import edit
from .graph.load import PATH, from_proto, load
from .graph.shared_vectors import joined, separate
from .graph.written import infer, written
from .package import genai

if TYPE_CHECKING:
    from typing import TypeAlias

    import onnx_graphsurgeon as gs

    AnyModel: TypeAlias = str | Path | onnx.ModelProto | ir.Model | gs.Graph


def to_ir(model: AnyModel) -> tuple[ir.Model, Callable[[ir.Model], Any]]:
    """Return `model` as an `onnx_ir.Model`, and the function that turns one back into the kind given.

    A path comes back as an `onnx_ir.Model`.
    """
    if isinstance(model, (str, Path)):
        loaded = load(model)
        if (config := genai.config_of(Path(loaded.meta[PATH]))) is not None:
            genai.check(loaded, config)
        return loaded, joined
    if isinstance(model, ir.Model):
        return model, joined
    if isinstance(model, onnx.ModelProto):
        return from_proto(model), lambda made: ir.to_proto(written(made))
    import onnx_graphsurgeon as gs

    if isinstance(model, gs.Graph):
        return from_proto(gs.export_onnx(model)), _to_gs
    raise ModelError(
        f"model: expected a path, an onnx.ModelProto, an onnx_ir.Model or a gs.Graph, got {type(model).__name__}"
    )


def working_copy(model: ir.Model) -> ir.Model:
    """Return a copy with the shapes that can be inferred, in which constants and inputs with a default differ.

    Each layer has vectors of its own in it; what comes back in the kind given, or is saved, has those that are equal
    once again.
    """
    copy = model.clone()
    copy.meta.update(model.meta)
    edit.raise_ir_version(copy)
    separate(copy.graph)
    infer(copy)
    return copy


def _to_gs(model: ir.Model) -> gs.Graph:
    import onnx_graphsurgeon as gs

    from .surgery import refuse_losses

    model = joined(model)
    refuse_losses(model)
    return gs.import_onnx(ir.to_proto(model))
