"""What this machine is, as far as times depend on it."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

FEATURES = ("sse4_1", "avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
FEATURES_OF_ARM = ("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2")
"""Sets of instructions that kernels are chosen by, as Linux names them."""


@cache
def _told() -> dict[str, str]:
    """Return what Linux tells of the first processor; nothing elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip().lower(): value.strip() for key, _, value in pairs}


def machine_name() -> str:
    """Return the name of the processor."""
    return _told().get("model name") or platform.processor() or platform.machine()


def cpu_features() -> tuple[str, ...]:
    """Return the sets of instructions that it has, of those that kernels are chosen by."""
    flags = (_told().get("flags") or _told().get("features") or "").split()
    return tuple(name for name in (*FEATURES, *FEATURES_OF_ARM) if name in flags)
