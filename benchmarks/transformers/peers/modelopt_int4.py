"""ModelOpt's int4 quantization of ONNX models: round to nearest, or AWQ."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx.version_converter
from modelopt.onnx.quantization.int4 import quantize as int4


class Reader:
    """The samples, one after the other."""

    def __init__(self, feeds: list[dict[str, Any]]) -> None:
        self._all = feeds
        self.rewind()

    def get_first(self) -> dict[str, Any]:
        """Return the first feed."""
        return self._all[0]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Return all feeds."""
        return iter(self._all)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next feed."""
        return next(self._feeds, None)

    def rewind(self) -> None:
        """Begin anew."""
        self._feeds = iter(self._all)


def quantize(model: Path, feeds: list[dict[str, Any]], output: Path, *, method: str) -> None:
    """Store the matrices in 4 bits, in blocks of 32; it wants a model of the opset that it writes."""
    raised = output.with_suffix(".raised.onnx")
    onnx.save(onnx.version_converter.convert_version(onnx.load(model), 21), raised)
    made = int4(str(raised), calibration_method=method, calibration_data_reader=Reader(feeds), block_size=32)
    raised.unlink()
    onnx.save(made, output)
