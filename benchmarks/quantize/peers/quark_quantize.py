"""AMD Quark, ONNX backend: uint8 activations and int8 weights per channel, as ONNX Runtime's CPU kernels want them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import opsets
from quark import onnx as quark


class Reader(quark.CalibrationDataReader):
    """Hands out the samples one by one, as often as it is asked to rewind."""

    def __init__(self, feeds: list[dict[str, Any]]) -> None:
        self._feeds = feeds
        self.rewind()

    def rewind(self) -> None:
        """Start again."""
        self._left: Iterator[dict[str, Any]] = iter(self._feeds)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next sample, None at the end."""
        return next(self._left, None)


def quantize(
    model: Path, feeds: list[dict[str, Any]], output: Path, algorithms: tuple[str, ...] = (), opset: int | None = 17
) -> None:
    """Quantize, with algorithms of Quark by the names of their classes."""
    layer = quark.QLayerConfig(
        activation=quark.UInt8Spec(), weight=quark.Int8Spec(quant_granularity=quark.QuantGranularity.Channel)
    )
    config = quark.QConfig(layer, algo_config=[getattr(quark, name)() for name in algorithms])
    with tempfile.TemporaryDirectory() as temporary:
        source = str(Path(temporary, "source.onnx"))
        onnx.save(opsets.load(model, opset), source)
        quark.ModelQuantizer(config).quantize_model(source, str(output), Reader(feeds))
