"""Make exported ONNX models small and fast: prune, quantize, distil, validate, on the graph itself."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from .contract import Pass as Pass
    from .errors import OnnxCompressError as OnnxCompressError
    from .evaluation.bench import bench as bench
    from .evaluation.compare import compare as compare
    from .evaluation.measure import measure as measure
    from .evaluation.sensitivity import sensitivity as sensitivity
    from .graph.load import load as load
    from .graph.save import save as save
    from .inspection import inspect as inspect
    from .pipeline import apply as apply
    from .recipe import read_recipe as read_recipe
    from .runtime.provider import Provider as Provider
    from .samples.data import Data as Data
    from .search.compress import compress as compress
    from .surgery import surgeon as surgeon
    from .targets.linter import lint as lint

_WHERE = {
    "Data": "samples.data",
    "OnnxCompressError": "errors",
    "Pass": "contract",
    "Provider": "runtime.provider",
    "apply": "pipeline",
    "bench": "evaluation.bench",
    "compare": "evaluation.compare",
    "compress": "search.compress",
    "inspect": "inspection",
    "lint": "targets.linter",
    "load": "graph.load",
    "measure": "evaluation.measure",
    "read_recipe": "recipe",
    "save": "graph.save",
    "sensitivity": "evaluation.sensitivity",
    "surgeon": "surgery",
}
"""Public name → module; imported at first use, so that importing the package costs nothing."""

__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version(__name__)
    if name not in _WHERE:
        raise AttributeError(f"module 'onnxcompress' has no attribute '{name}'")
    return getattr(import_module(f".{_WHERE[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
