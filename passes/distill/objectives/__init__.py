"""What a student is trained for: a file for each loss, a table of them, and what is chosen where nothing is said."""

from .losses import FEATURE_LOSSES, LABEL_LOSS, LOSSES, OUTPUT_LOSSES

__all__ = ["FEATURE_LOSSES", "LABEL_LOSS", "LOSSES", "OUTPUT_LOSSES"]
