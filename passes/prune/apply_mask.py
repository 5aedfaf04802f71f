"""Zero what masks from a file do not keep."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.contract import Changes, Context, Pass
from onnxcompress.errors import OptionError, PassError, nearest
from onnxcompress.graph import edit

from .masks import Mask, MaskPlan, apply_masks


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
        floats = {name: tensor for name, tensor in constants.items() if tensor.dtype.is_floating_point()}
        found = {}
        for name, array in self._read().items():
            if name not in floats:
                hint = nearest(name, list(floats))
                raise PassError(f"{self._where(name)}: the model has no float constant of that name{hint}")
            shape = tuple(floats[name].shape.numpy())
            if array.shape != shape:
                raise PassError(f"{self._where(name)}: its shape is {array.shape}; the constant's is {shape}")
            if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
                raise PassError(f"{self._where(name)}: expected only 0 and 1 (or false and true)")
            found[name] = Mask.of(array.astype(bool))
        return MaskPlan(masks={name: mask for name, mask in found.items() if not mask.keep().all()})

    def apply(self, model: ir.Model, plan: MaskPlan) -> Changes:
        """Zero what the plan does not keep."""
        return apply_masks(model, plan)

    def _where(self, name: str) -> str:
        return f"{self.name}: {self.masks}: mask '{name}'"

    def _read(self) -> dict[str, npt.NDArray[Any]]:
        try:
            with Path(self.masks).open("rb") as stream:
                file = np.load(stream, allow_pickle=False)
                if not isinstance(file, np.lib.npyio.NpzFile):
                    raise ValueError
                return {name: file[name] for name in file.files}
        except FileNotFoundError:
            raise OptionError(f"{self.name}: masks = {self.masks!r}: no such file") from None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            reason = "expected an .npz file of arrays, as numpy.savez writes it"
            raise OptionError(f"{self.name}: masks = {self.masks!r}: {reason}") from None
