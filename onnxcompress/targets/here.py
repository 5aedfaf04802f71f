"""The target that is at hand: what onnxruntime runs models with now."""

from __future__ import annotations

import platform
from collections.abc import Iterable

from ..runtime.provider import running
from ..runtime.saturation import cpu_loses_products
from .target import Target, load_target, target_names

ARM = {"aarch64", "arm64"}


def local_target() -> str:
    """Return the name of the target that stands for where models run: of the provider, and of this CPU."""
    provider = running()
    if not provider.is_cpu:
        named = (name for name in target_names() if provider.name.lower() in load_target(name).providers)
        return next(named, _cpu())
    return _cpu()


def _cpu() -> str:
    if platform.machine().lower() in ARM:
        return "onnxruntime-cpu-arm"
    return "onnxruntime-cpu-avx2" if cpu_loses_products() else "onnxruntime-cpu"


def is_here(target: Target) -> bool:
    """Tell whether a model for a target runs here as it would there, so that its time here says something."""
    provider = running()
    if provider.is_cpu:
        return target.name == _cpu()
    return provider.name.lower() in target.providers


def elsewhere(names: Iterable[str | None]) -> str | None:
    """Return the first of some targets that a model is made for and that is not here; its time here says nothing."""
    return next((name for name in names if name is not None and not is_here(load_target(name))), None)
