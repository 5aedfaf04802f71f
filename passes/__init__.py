"""The passes that ship with onnxcompress; each registers by entry point, as a third party's would."""

from .distill import Distill
from .prune import ActivationPrune, MagnitudePrune, PruneChannels
from .quantize import Quantize, QuantizeWeights
from .tidy import FoldBatchNorm, FoldConstants, RemoveDead, Shrink

__all__ = [
    "ActivationPrune",
    "Distill",
    "FoldBatchNorm",
    "FoldConstants",
    "MagnitudePrune",
    "PruneChannels",
    "Quantize",
    "QuantizeWeights",
    "RemoveDead",
    "Shrink",
]
