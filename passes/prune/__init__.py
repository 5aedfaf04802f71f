"""Pruning passes write zeros; `Shrink` removes what they zeroed."""

from .activation_prune import ActivationPrune
from .magnitude_prune import MagnitudePrune
from .prune_channels import PruneChannels

__all__ = ["ActivationPrune", "MagnitudePrune", "PruneChannels"]
