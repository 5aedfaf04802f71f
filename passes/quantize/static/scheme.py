"""How numbers are stored: the choices that a target makes, and that options may change."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from onnxcompress.graph.opset import BLOCKS, FLOAT16, PER_CHANNEL
from onnxcompress.runtime.saturation import products_saturate

from ..shared import scales

if TYPE_CHECKING:
    from onnxcompress.targets.options import QuantizeOptions

Coverage = Literal["layers", "all"]
Granularity = Literal["tensor", "channel"]

OPSETS = {"float8e4m3fn": FLOAT16, "int4": BLOCKS, "int16": BLOCKS, "uint16": BLOCKS}
"""Type → the first opset whose QuantizeLinear gives it, where that is later than `PER_CHANNEL`."""

INT16 = {"int8": "int16", "uint8": "uint16"}
"""Type of activations → the type, of the same sign, of those that have 16 bits."""


@dataclasses.dataclass(frozen=True)
class Scheme:
    """How activations, weights and biases are stored.

    Attributes
    ----------
    activations, weights : str
        Types as in ONNX, in lower case.
    symmetric : bool
        Zero points of activations are the middle of their type's range.
    granularity : {"tensor", "channel"}
        Whether a weight has one scale, or one for each output channel.
    bias : {"int32", "float"}
        int32 with the scale of the input times that of the weight, or float.
    power_of_two : bool
        All scales are powers of two.
    reduce_range : bool
        Weights use 7 bits.
    operators : tuple of str
        What may compute on integers or pass them through.
    int16 : str, optional
        The type of the activations of single layers that are stored in 16 bits.
    coverage : {"layers", "all"}
        Which of them do; see `Quantize`.
    """

    activations: str = "uint8"
    weights: str = "int8"
    symmetric: bool = False
    granularity: Granularity = "channel"
    bias: Literal["int32", "float"] = "int32"
    power_of_two: bool = False
    reduce_range: bool = False
    operators: tuple[str, ...] = ()
    int16: str | None = None
    coverage: Coverage = "layers"

    @classmethod
    def of(
        cls,
        options: QuantizeOptions,
        activations: str | None,
        symmetric: bool | None,
        granularity: Granularity | None,
        coverage: Coverage | None,
        weights: str | None = None,
    ) -> Scheme:
        """Return what a target wants, but for what is given."""
        eight_bit_float = activations == "float8e4m3fn"
        return cls(
            activations=options["activations"] if activations is None else activations,
            weights="float8e4m3fn" if eight_bit_float else weights or options["weights"],
            symmetric=eight_bit_float or (options["symmetric"] if symmetric is None else symmetric),
            granularity=options["granularity"] if granularity is None else granularity,
            bias="float" if eight_bit_float else options["bias"],
            power_of_two=options["power_of_two"],
            reduce_range=options["reduce_range"] and (weights or "int8") == "int8",
            operators=tuple(sorted(options["operators"])),
            coverage=options["coverage"] if coverage is None else coverage,
        )

    @property
    def grid(self) -> scales.Grid:
        """What activations may be."""
        return scales.GRIDS[self.activations]

    def grid_of(self, *, int16: bool) -> scales.Grid:
        """Return what an activation may be, in 16 bits or not."""
        return scales.GRIDS[self.int16] if int16 and self.int16 is not None else self.grid

    def all_int16(self) -> Scheme:
        """Return the same with all activations in 16 bits."""
        return dataclasses.replace(self, activations=self.int16 or self.activations)

    @property
    def weight_grid(self) -> scales.Grid:
        """What weights may be."""
        return scales.SEVEN_BITS if self.reduce_range else scales.SYMMETRIC_GRIDS[self.weights]

    def saturates(self) -> bool:
        """Tell whether onnxruntime loses products of such integers on this machine."""
        full = self.weights == "int8" and not self.reduce_range
        return full and self.activations in INT16 and products_saturate()

    @property
    def opset(self) -> int:
        """The first opset that can say all this."""
        return max(
            OPSETS.get(name, PER_CHANNEL) for name in (self.activations, self.weights, self.int16 or self.activations)
        )
