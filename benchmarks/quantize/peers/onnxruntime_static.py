"""ONNX Runtime's own quantizer: quant_pre_process, then quantize_static, QDQ, per channel."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import opsets
from onnxruntime import quantization as tool
from onnxruntime.quantization.shape_inference import quant_pre_process


class Reader(tool.CalibrationDataReader):
    """Hands out the samples one by one."""

    def __init__(self, feeds: list[dict[str, Any]]) -> None:
        self._left: Iterator[dict[str, Any]] = iter(feeds)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next sample, None at the end."""
        return next(self._left, None)


def quantize(
    model: Path,
    feeds: list[dict[str, Any]],
    output: Path,
    method: str = "MinMax",
    activations: str = "QUInt8",
    opset: int | None = None,
) -> dict[str, Any]:
    """Quantize; where the symbolic shape inference of the preparation fails, go without it, as its help says."""
    notes = []
    with tempfile.TemporaryDirectory() as temporary:
        source, prepared = str(Path(temporary, "source.onnx")), str(Path(temporary, "prepared.onnx"))
        onnx.save(opsets.load(model, opset), source)
        try:
            quant_pre_process(source, prepared)
        except Exception as error:  # noqa: BLE001 - any failure of it has the same way out
            notes.append(f"without symbolic shape inference ({type(error).__name__})")
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
        tool.quantize_static(
            prepared,
            str(output),
            Reader(feeds),
            quant_format=tool.QuantFormat.QDQ,
            per_channel=True,
            activation_type=tool.QuantType[activations],
            weight_type=tool.QuantType.QInt8,
            calibrate_method=tool.CalibrationMethod[method],
        )
    return {"notes": notes}
