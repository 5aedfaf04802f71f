"""Zero what masks from a file do not keep."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from onnxcompress.contract import Changes, Context, Pass
from onnxcompress.errors import PassError
from onnxcompress.graph import edit

from .masks.arrays import read_arrays
from .masks.masks import Mask, MaskPlan, apply_masks


@dataclasses.dataclass(frozen=True, kw_only=True)
class ApplyMask(Pass):
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

    def plan(self, model: ir.Model, context: Context) -> MaskPlan:
        """Read the file and hold it against the model."""
        constants = {str(v.name): t for v in edit.values(model.graph) if (t := edit.constant(v)) is not None}
        shapes = {n: tuple(t.shape.numpy()) for n, t in constants.items() if t.dtype.is_floating_point()}
        found = {}
        for name, array in read_arrays(f"{self.name}: masks", self.masks, shapes).items():
            if not np.isin(array, (0, 1)).all():
                raise PassError(
                    f"{self.name}: masks = {self.masks!r}: '{name}': expected only 0 and 1 (or false and true)"
                )
            found[name] = Mask.of(array.astype(bool))
        return MaskPlan(masks={name: mask for name, mask in found.items() if not mask.keep().all()})

    def apply(self, model: ir.Model, plan: MaskPlan) -> Changes:
        """Zero what the plan does not keep."""
        return apply_masks(model, plan)
