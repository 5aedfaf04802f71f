"""NNCF with accuracy control, ONNX backend: layers go back to float until the drop is small enough."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import onnx
import onnxruntime as ort
import opsets


def _outputs(model: onnx.ModelProto, feeds: Iterable[dict[str, Any]]) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [session.run(None, feed)[0] for feed in feeds]


def quantize(
    model: Path,
    feeds: list[dict[str, Any]],
    output: Path,
    max_drop: float = 0.01,
    opset: int | None = 17,
    transformer: bool = False,
) -> None:
    """Quantize; half of the samples calibrate, the other half judge, by their labels or by the cosine of the output."""
    source = opsets.load(model, opset)
    labels = [feed.pop("labels", None) for feed in feeds]
    fitted, judges = list(range(0, len(feeds), 2)), list(range(1, len(feeds), 2))
    originals = dict(zip(judges, _outputs(source, [feeds[i] for i in judges]), strict=True))

    def validate(candidate: onnx.ModelProto, chosen: Iterable[Any]) -> tuple[float, list[float]]:
        numbers = [int(index) for index in chosen]
        outputs = _outputs(candidate, [feeds[i] for i in numbers])
        each = [_right(o, labels[i], originals[i]) for i, o in zip(numbers, outputs, strict=True)]
        return float(np.mean(each)), each

    quantized = nncf.quantize_with_accuracy_control(
        source,
        nncf.Dataset([feeds[i] for i in fitted]),
        nncf.Dataset(judges),
        validate,
        max_drop=max_drop,
        subset_size=len(fitted),
        model_type=nncf.ModelType.TRANSFORMER if transformer else None,
    )
    onnx.save(quantized, output)


def _right(output: Any, label: Any, original: Any) -> float:
    if label is not None:
        return float(output.argmax() == label)
    return float((output * original).sum() / max(np.linalg.norm(output) * np.linalg.norm(original), 1e-30))
