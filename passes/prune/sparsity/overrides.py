"""What options of channel pruning name: groups, and sparsities for them."""

from __future__ import annotations

import math

from onnxcompress.channels.groups import Groups
from onnxcompress.errors import OptionError


def group_names(groups: Groups) -> dict[str, list[str]]:
    """Return the names by which each group can be meant: its own, and those of its weights and other constants."""
    every = [*groups.prunable, *groups.frozen]
    return {group.name: [group.name, *(str(m.value.name) for m in group.constants())] for group in every}


def read_override(owner: str, text: str) -> tuple[str, float]:
    """Read ``PATTERN=SPARSITY``."""
    pattern, _, number = text.rpartition("=")
    try:
        sparsity = float(number)
    except ValueError:
        sparsity = math.nan
    if not pattern or not 0 <= sparsity < 1:
        raise OptionError(f"{owner}: overrides = {text!r}: expected PATTERN=SPARSITY, with 0 <= SPARSITY < 1")
    return pattern, sparsity
