"""The target that is at hand: onnxruntime on this machine."""

from __future__ import annotations

import platform

from ..runtime.saturation import products_saturate

ARM = {"aarch64", "arm64"}


def local_target() -> str:
    """Return the name of the target that stands for onnxruntime on a CPU like this machine's."""
    if platform.machine().lower() in ARM:
        return "onnxruntime-cpu-arm"
    return "onnxruntime-cpu-avx2" if products_saturate() else "onnxruntime-cpu"
