"""ONNX Neural Compressor, static, per channel, with SmoothQuant if asked for."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx
import opsets
from onnx_neural_compressor import data_reader
from onnx_neural_compressor.quantization import QuantFormat, QuantType, config
from onnx_neural_compressor.quantization import quantize as run


class Reader(data_reader.CalibrationDataReader):
    """Hands out the samples one by one, as often as it is asked to rewind."""

    def __init__(self, feeds: list[dict[str, Any]]) -> None:
        self._feeds = feeds
        self.rewind()

    def rewind(self) -> None:
        """Start again."""
        self._left = iter(self._feeds)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next sample, None at the end."""
        return next(self._left, None)


def quantize(
    model: Path, feeds: list[dict[str, Any]], output: Path, smooth: bool = False, opset: int | None = 17
) -> None:
    """Quantize."""
    settings = config.StaticQuantConfig(
        calibration_data_reader=Reader(feeds),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={"SmoothQuant": True, "SmoothQuantAlpha": 0.5} if smooth else None,
    )
    with tempfile.TemporaryDirectory() as temporary:
        source = str(Path(temporary, "source.onnx"))
        onnx.save(opsets.load(model, opset), source)
        run(source, str(output), settings)
