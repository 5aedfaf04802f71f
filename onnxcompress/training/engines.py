"""What runs training steps: the onnxruntime that is installed, or onnxruntime-training in an interpreter of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EngineName = Literal["onnxruntime-training", "onnxruntime"]


@dataclass(frozen=True)
class Engine:
    """One way to run the graph of gradients.

    Attributes
    ----------
    name : str
    kernels : frozenset of str
        Training operators of ``com.microsoft`` that rules prefer to their own, because they are faster.
    newest_opset, newest_ir : int, optional
        What it reads; None: as much as the installed onnxruntime.
    """

    name: EngineName
    kernels: frozenset[str] = frozenset()
    newest_opset: int | None = None
    newest_ir: int | None = None


ENGINES: dict[str, Engine] = {
    "onnxruntime-training": Engine(
        "onnxruntime-training", frozenset({"BatchNormalizationGrad", "ConvGrad", "GatherGrad"}), 21, 10
    ),
    "onnxruntime": Engine("onnxruntime"),
}
"""Engines by name; 1.19.2 is the last release of the first."""

DEFAULT = ENGINES["onnxruntime-training"]
