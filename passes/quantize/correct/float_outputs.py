"""What the layers of the model in float gave, at the positions at which they are judged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.graph import edit
from onnxcompress.graph.layer import Layer
from onnxcompress.samples.samples import Samples
from onnxcompress.statistics.ranges import LIMIT_BYTES
from onnxcompress.statistics.spill import Spill, Spilled
from onnxcompress.statistics.taps import open_taps, split_lots, whole

from ..shared.rows import rows_for_rounding

Array = npt.NDArray[Any]

BATCH = 8
"""Samples at a time, at most: few enough that what one node gives is still in the cache when the next one reads it."""


class FloatOutputs:
    """Runs the model in float, and keeps rows of what layers gave.

    Parameters
    ----------
    model : onnx_ir.Model
        Not changed.
    samples : Samples
    layers : list of Layer
        Of its main graph.
    folder : Path
        For files.

    Attributes
    ----------
    batch : int
        Samples at a time: so few that what all layers give of them is fetched at once.
    """

    def __init__(self, model: ir.Model, samples: Samples, layers: list[Layer], folder: Path) -> None:
        folder.mkdir()
        self._spill = Spill(folder)
        self._rows: dict[str, list[tuple[int, Array | Spilled]]] = {edit.output_name(v.node): [] for v in layers}
        self._seen = dict.fromkeys(self._rows, 0)
        named = {edit.output_name(layer.node): layer for layer in layers}
        taps = [whole(name) for name in named]
        session = open_taps(model, taps)[0] if taps else None
        found = session.run(next(samples.batches(1))) if session else {}
        sizes = {name: array.nbytes for name, array in found.items()}
        self.batch = max(1, min(BATCH, LIMIT_BYTES // max(sum(sizes.values()), 1)))
        lots = split_lots(taps, sizes, LIMIT_BYTES)
        for lot in lots:
            if session is None or len(lots) > 1:
                session = open_taps(model, lot)[0]
            for feeds in samples.batches(self.batch):
                for name, array in session.run(feeds).items():
                    self._add(name, named[name], array, samples.count)

    def _add(self, name: str, layer: Layer, array: Array, samples: int) -> None:
        first = self._seen[name]
        self._seen[name] += len(array)
        rows = rows_for_rounding(layer, samples).outputs(array, first)
        self._rows[name].append((len(array), self._spill.put(rows)))

    def of(self, layer: Layer) -> Iterator[tuple[int, Array]]:
        """Yield for each batch how many samples it has, and the rows of the layer (groups, rows, outputs of each)."""
        for count, kept in self._rows[edit.output_name(layer.node)]:
            yield count, self._spill.get(kept)
