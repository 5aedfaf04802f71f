"""Zero what masks from a file do not keep."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from onnxcompress.contract import Changes, Context, Refusal
from onnxcompress.errors import PassError
from onnxcompress.graph import edit
from onnxcompress.selection import SelectivePass, value_subjects

from .masks.arrays import read_arrays
from .masks.masks import Mask, MaskPlan, apply_masks


@dataclasses.dataclass(frozen=True, kw_only=True)
class ApplyMask(SelectivePass):
    """Zero what masks from a file do not keep: those of another tool, or made by hand.

    Parameters
    ----------
    masks : str
        An ``.npz`` file whose arrays are named after the model's constants and have their shapes; true or 1 keeps an
        element, false or 0 zeroes it.

    Notes
    -----
    PyTorch's ``custom_from_mask``; biases can be masked too.
    """

    masks: str

    writes_zeros = True

    def plan(self, model: ir.Model, context: Context) -> MaskPlan:
        """Read the file and hold it against the model."""
        values = {str(v.name): v for v in edit.values(model.graph) if _shape(v) is not None}
        selected = self.select(model, value_subjects(values.values()))
        shapes = {name: shape for name, value in values.items() if (shape := _shape(value)) is not None}
        masks, refused = {}, list(selected.idle)
        for name, array in read_arrays(f"{self.name}: masks", self.masks, shapes).items():
            if not np.isin(array, (0, 1)).all():
                raise PassError(
                    f"{self.name}: masks = {self.masks!r}: '{name}': expected only 0 and 1 (or false and true)"
                )
            if reason := selected.why_not.get(values[name]):
                refused.append(Refusal(name, reason))
            elif not array.all():
                masks[name] = Mask.of(array.astype(bool))
        return MaskPlan(masks=masks, refused=tuple(refused))

    def apply(self, model: ir.Model, plan: MaskPlan) -> Changes:
        """Zero what the plan does not keep."""
        return apply_masks(model, plan)


def _shape(value: ir.Value) -> tuple[int, ...] | None:
    """Return the shape of a constant of floating-point numbers; None for any other value."""
    tensor = edit.constant(value)
    return tuple(tensor.shape.numpy()) if tensor is not None and tensor.dtype.is_floating_point() else None
