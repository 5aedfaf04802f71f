"""Three parts of the samples: to fit to, to judge trials by, and what nothing sees before the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from ..errors import DataError
from ..samples.samples import Samples, load_samples


@dataclass(frozen=True)
class Parts:
    """Samples by what they are for.

    Attributes
    ----------
    fit, search, unseen : Samples
    apart : bool
        No sample is in two of them: there were enough.
    """

    fit: Samples
    search: Samples
    unseen: Samples
    apart: bool


def divide(model: ir.Model, data: Any, evaluate_on: Any, seed: int) -> Parts:
    """Divide samples; without `data`, those of `evaluate_on` serve for all."""
    if data is None:
        data, evaluate_on = evaluate_on, None
    given = load_samples(data, model, seed)
    _check_classes(given)
    if evaluate_on is not None:
        unseen = load_samples(evaluate_on, model, seed)
        two = given.fit_and_search()
        return Parts(given, given, unseen, apart=True) if two is None else Parts(*two, unseen, apart=True)
    three = given.parts()
    return Parts(given, given, given, apart=False) if three is None else Parts(*three, apart=True)


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
