"""What inference engines accept, one TOML file each."""

from .options import quantize_options
from .target import Target, load_target, target_names

__all__ = ["Target", "load_target", "quantize_options", "target_names"]
