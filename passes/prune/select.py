"""Which of a model's tensors or groups a user's patterns mean."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping

from onnxcompress.channels.groups import Groups
from onnxcompress.errors import OptionError, PassError, nearest


def matching(field: str, patterns: Iterable[str], names: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Return, for each pattern, the subjects that it matches by one of their names.

    Parameters
    ----------
    field : str
        The pass and the option that the patterns come from, for the message.
    patterns : iterable of str
        Names, with ``*``, ``?`` and ``[...]`` as in file names.
    names : mapping
        Subject → its names.

    Raises
    ------
    PassError
        A pattern matches nothing.
    """
    found = {}
    for pattern in patterns:
        found[pattern] = [s for s, known in names.items() if any(fnmatch.fnmatchcase(n, pattern) for n in known)]
        if not found[pattern]:
            every = sorted({name for known in names.values() for name in known})
            hint = nearest(pattern, every) or (f"; there are {', '.join(every[:8])}" if every else "")
            raise PassError(f"{field}: '{pattern}' matches nothing in the model{hint}")
    return found


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
