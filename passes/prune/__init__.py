"""Pruning passes write zeros; `Shrink` removes what they zeroed. `Cluster` lets weights take few values."""

from .activation_prune import ActivationPrune
from .apply_mask import ApplyMask
from .cluster import Cluster
from .drop_blocks import DropBlocks
from .factorise import Factorise
from .magnitude_prune import MagnitudePrune
from .prune_blocks import PruneBlocks
from .prune_channels import PruneChannels
from .prune_n_of_m import PruneNOfM
from .prune_slices import PruneSlices
from .prune_vocabulary import PruneVocabulary
from .random_prune import RandomPrune

__all__ = [
    "ActivationPrune",
    "ApplyMask",
    "Cluster",
    "DropBlocks",
    "Factorise",
    "MagnitudePrune",
    "PruneBlocks",
    "PruneChannels",
    "PruneNOfM",
    "PruneSlices",
    "PruneVocabulary",
    "RandomPrune",
]
