"""What benchmarks in every environment share: nothing here imports more than Python's own library."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType


def load_kit(folder: Path) -> ModuleType:
    """Import the kit's own module by its path."""
    spec = importlib.util.spec_from_file_location("kit", folder / "kit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
