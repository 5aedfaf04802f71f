"""Models as plain bytes, to be sent to another process."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..graph.save import without_small_files
from ..scratch import temporary_folder

Bytes = npt.NDArray[np.uint8]

MODEL, WEIGHTS = "model.onnx", "weights"


@dataclass(frozen=True)
class Packed:
    """A model as the bytes of its files; `weights` is empty where there are none but small ones."""

    model: Bytes
    weights: Bytes

    @classmethod
    def of(cls, model: ir.Model) -> Packed:
        """Pack a model, of whatever size; mapped weights are read."""
        with temporary_folder() as folder:
            ir.save(without_small_files(model), folder / MODEL, format="protobuf", external_data=WEIGHTS)
            there = (folder / WEIGHTS).exists()
            weights = np.fromfile(folder / WEIGHTS, np.uint8) if there else np.zeros(0, np.uint8)
            return cls(np.fromfile(folder / MODEL, np.uint8), weights)

    def unpack(self) -> ir.Model:
        """Return the model, its weights in memory."""
        with temporary_folder() as folder:
            self.model.tofile(folder / MODEL)
            if self.weights.size:
                self.weights.tofile(folder / WEIGHTS)
            return ir.external_data.load_to_model(ir.load(folder / MODEL, format="protobuf"))
