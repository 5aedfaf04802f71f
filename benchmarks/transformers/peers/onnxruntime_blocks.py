"""ONNX Runtime's weight-only quantizer: round to nearest, HQQ, GPTQ, k-quant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat
from onnxruntime.quantization import matmul_nbits_quantizer as found


class Reader(CalibrationDataReader):
    """The samples, one after the other."""

    def __init__(self, feeds: list[dict[str, Any]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next feed."""
        return next(self._feeds, None)


def quantize(
    model: Path, feeds: list[dict[str, Any]], output: Path, *, algorithm: str, symmetric: bool = False
) -> None:
    """Store the matrices in 4 bits, in blocks of 32."""
    if algorithm == "rtn":
        config = found.DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=symmetric)
    elif algorithm == "hqq":
        config = found.HQQWeightOnlyQuantConfig(block_size=32)
    elif algorithm == "gptq":
        config = found.GPTQWeightOnlyQuantConfig(calibration_data_reader=Reader(feeds), block_size=32)
    else:
        config = found.KQuantWeightOnlyQuantConfig()
    quantizer = found.MatMulNBitsQuantizer(
        onnx.load(model), block_size=32, quant_format=QuantFormat.QOperator, algo_config=config
    )
    quantizer.process()
    onnx.save(quantizer.model.model, output)
