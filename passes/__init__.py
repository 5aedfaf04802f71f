"""The passes that ship with onnxcompress; each registers by entry point, as a third party's would."""

from .distill import Distill
from .prune import (
    ActivationPrune,
    ApplyMask,
    Cluster,
    DropBlocks,
    Factorise,
    MagnitudePrune,
    PruneBlocks,
    PruneChannels,
    PruneNOfM,
    PruneSlices,
    PruneVocabulary,
    RandomPrune,
)
from .quantize import ConvertFloat, Quantize, QuantizeCache, QuantizeDynamic, QuantizeWeights, Rotate
from .tidy import FoldAffine, FoldBatchNorm, FoldConstants, FreezeInputs, MergeNodes, RemoveDead, ShortenNames, Shrink

__all__ = [
    "ActivationPrune",
    "ApplyMask",
    "Cluster",
    "ConvertFloat",
    "Distill",
    "DropBlocks",
    "Factorise",
    "FoldAffine",
    "FoldBatchNorm",
    "FoldConstants",
    "FreezeInputs",
    "MagnitudePrune",
    "MergeNodes",
    "PruneBlocks",
    "PruneChannels",
    "PruneNOfM",
    "PruneSlices",
    "PruneVocabulary",
    "Quantize",
    "QuantizeCache",
    "QuantizeDynamic",
    "QuantizeWeights",
    "RandomPrune",
    "RemoveDead",
    "Rotate",
    "ShortenNames",
    "Shrink",
]
