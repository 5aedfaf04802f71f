"""What inference engines accept, one TOML file each, and the linter that reads them."""

from .finding import Finding
from .here import elsewhere, local_target
from .lacking import computes
from .linter import LintReport, lint
from .options import quantize_options, takes
from .target import Target, load_target, target_names

__all__ = [
    "Finding",
    "LintReport",
    "Target",
    "computes",
    "elsewhere",
    "lint",
    "load_target",
    "local_target",
    "quantize_options",
    "takes",
    "target_names",
]
