"""Lossless passes: the outputs stay the same, the model gets simpler or smaller."""

from .fold_affine import FoldAffine
from .fold_batch_norm import FoldBatchNorm
from .fold_constants import FoldConstants
from .freeze_inputs import FreezeInputs
from .merge_nodes import MergeNodes
from .remove_dead import RemoveDead
from .shorten_names import ShortenNames
from .shrink import Shrink

__all__ = [
    "FoldAffine",
    "FoldBatchNorm",
    "FoldConstants",
    "FreezeInputs",
    "MergeNodes",
    "RemoveDead",
    "ShortenNames",
    "Shrink",
]
