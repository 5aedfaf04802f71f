"""Which onnxruntime is installed: any of its packages will do, and one alone."""

from __future__ import annotations

import re
import warnings
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import NoRuntimeError

LOWEST = (1, 24)
"""The lowest version of onnxruntime that the tests pass with; the extras of this package ask for it, too."""

DISTRIBUTIONS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-qnn",
    "onnxruntime-windowsml",
    "onnxruntime-rocm",
    "onnxruntime-migraphx",
    "onnxruntime-cann",
    "onnxruntime-vitisai",
    "onnxruntime-training",
    "onnxruntime-training-cpu",
    "ort-nightly",
    "ort-nightly-gpu",
)
"""Packages that bring the module ``onnxruntime``, all into the same folder."""

HOW_TO_INSTALL = 'get it with: pip install "onnxcompress[cpu]" (or gpu, openvino, directml, qnn in place of cpu)'


@cache
def import_onnxruntime() -> Any:
    """Return the module ``onnxruntime``, whichever package brought it.

    Raises
    ------
    NoRuntimeError
        None is installed, it cannot be loaded, or it is older than `LOWEST`.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise NoRuntimeError(f"onnxruntime cannot be loaded: {error}") from None
        raise NoRuntimeError(f"onnxruntime is not installed; {HOW_TO_INSTALL}") from None
    except (ImportError, OSError) as error:
        raise NoRuntimeError(f"onnxruntime cannot be loaded: {' '.join(str(error).split())[:300]}") from None
    found = getattr(onnxruntime, "__version__", None)
    if found is None:  # an empty folder, which pip leaves where two packages shared one
        raise NoRuntimeError(f"onnxruntime is damaged ({_folder(onnxruntime)}); install one package of it again")
    several = [name for name, _ in installed()]
    if _numbers(found) < LOWEST:
        least, package = ".".join(map(str, LOWEST)), next(iter(several), "onnxruntime")
        raise NoRuntimeError(f"{package} {found} is too old, {least} is the lowest; pip install -U {package}")
    if len(several) > 1:
        warnings.warn(
            f"{' and '.join(several)} are installed into one folder, where one overwrites parts of the other: "
            "uninstall all of them, then install the one that you want",
            stacklevel=2,
        )
    return onnxruntime


def installed() -> list[tuple[str, str]]:
    """Return name and version of each package that has put a module ``onnxruntime`` where it is imported from."""
    found: dict[Path, list[tuple[str, str]]] = {}
    for name in DISTRIBUTIONS:
        for one in metadata.distributions(name=name):
            found.setdefault(Path(str(one.locate_file("onnxruntime"))), []).append((name, one.version))
    spec = find_spec("onnxruntime")
    places = (spec.submodule_search_locations if spec is not None else None) or []
    return next((found[Path(place)] for place in places if Path(place) in found), [])


def runtime_version() -> tuple[str, str]:
    """Return the name and the version of the package that brings ``onnxruntime`` here."""
    return next(iter(installed()), ("onnxruntime", str(import_onnxruntime().__version__)))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _folder(module: Any) -> str:
    return str(next(iter(getattr(module, "__path__", [])), "nowhere"))
