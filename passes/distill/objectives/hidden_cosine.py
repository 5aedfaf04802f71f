"""The angle between flattened features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcompress.training import Behind

from .feature_loss import FeatureLoss
from .rows import TINY


@dataclass(frozen=True)
class HiddenCosine(FeatureLoss):
    """One minus the cosine between the flattened features of student and teacher, a mean over the batch.

    The longer vector is averaged to the length of the other, in runs of neighbours. As in "Knowledge Distillation
    Tutorial" of PyTorch (https://docs.pytorch.org/tutorials/beginner/knowledge_distillation_tutorial.html).
    """

    def why_not(self) -> str:
        """Return why the two tensors cannot be compared, or an empty string."""
        mine, its = self._sizes
        return (
            "" if max(mine, its) % min(mine, its) == 0 else f"{mine} and {its} numbers: one is no multiple of the other"
        )

    @property
    def _sizes(self) -> tuple[int, int]:
        mine, its = (int(np.prod(tensor.shape[1:])) for tensor in (self.student, self.its))
        return mine, its

    def compare(self, behind: Behind, student: ir.Value, teacher: ir.Value) -> ir.Value:
        """Add the operators."""
        add, last = behind.add, behind.constant("onnxcompress.last", np.array([-1]))
        both = []
        for value, size in zip((student, teacher), self._sizes, strict=True):
            flat, ratio = add("Flatten", self.counted(behind, value), axis=1), size // min(self._sizes)
            if ratio > 1:
                runs = add("Reshape", flat, behind.constant("onnxcompress.runs", np.array([0, -1, ratio])))
                flat = behind.scaled(add("ReduceSum", runs, last, keepdims=0), 1 / ratio, "ratio")
            both.append(flat)
        tiny = behind.constant("onnxcompress.tiny", np.float32(TINY))
        sums = [add("ReduceSum", add("Mul", value, value), last, keepdims=0) for value in both]
        lengths = [add("Sqrt", add("Add", total, tiny)) for total in sums]
        product = add("ReduceSum", add("Mul", *both), last, keepdims=0)
        one = behind.constant("onnxcompress.one", np.float32(1))
        return add("Sub", one, behind.mean(add("Div", product, add("Mul", *lengths))))
