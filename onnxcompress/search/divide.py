"""Three parts of the samples: to fit to, to judge trials by, and what nothing sees before the verdict."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from ..errors import DataError
from ..samples.samples import Samples
from ..samples.split import Parts, three_parts


def divide(model: ir.Model, data: Any, evaluate_on: Any, seed: int) -> Parts:
    """Divide samples; without `data`, those of `evaluate_on` serve for all."""
    if data is None:
        data, evaluate_on = evaluate_on, None
    parts = three_parts(model, data, evaluate_on, seed=seed)
    _check_classes(parts.given)
    return parts


SEVERAL = 10
"""Of fewer samples nobody expects more than one class."""


def _check_classes(samples: Samples) -> None:
    """Raise `DataError` where all samples have one and the same class: whoever always says that loses nothing."""
    labels = samples.labels
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iub" or len(labels) < SEVERAL:
        return
    if (labels == labels[0]).all():
        raise DataError(
            f"{samples.description}: all {len(labels)} samples have the label {labels[0]}, so that they cannot show "
            "what is lost; give samples of several classes"
        )
