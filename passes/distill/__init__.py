"""Training a smaller model to imitate the one it came from."""

from .distill import Distill, WeightsPlan

__all__ = ["Distill", "WeightsPlan"]
