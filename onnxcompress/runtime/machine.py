"""The machine at hand, in words: what decides how fast a model runs."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .session import usable_cores

FEATURES = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
)
"""What onnxruntime chooses kernels by, as Linux calls it."""

CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Machine:
    """A machine.

    Attributes
    ----------
    system, processor : str
    features : tuple of str
        Of `FEATURES`; empty where the system does not tell.
    cores : int
        That this process may use.
    """

    system: str
    processor: str
    features: tuple[str, ...]
    cores: int


@cache
def this_machine() -> Machine:
    """Look at the machine."""
    known: dict[str, str] = {}
    if CPUINFO.is_file():
        for line in CPUINFO.read_text(errors="replace").splitlines():
            key, colon, value = line.partition(":")
            if colon:
                known.setdefault(key.strip(), value.strip())
    flags = {*known.get("flags", known.get("Features", "")).split()}
    return Machine(
        f"{platform.system()} {platform.machine()}",
        known.get("model name") or platform.processor() or platform.machine(),
        tuple(name for name in FEATURES if name in flags),
        usable_cores(),
    )
