"""Importance: a callable from the groups to one score for each channel of one of them; low goes first."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from onnxcompress.channels.groups import Group
from onnxcompress.graph import edit

Scores = npt.NDArray[np.float64]
Importance = Callable[[Group, np.random.Generator], Scores]


def l1(group: Group, random: np.random.Generator) -> Scores:
    """Sum of |W| of the filters that make a channel and of the weights that read it (arXiv:1608.08710)."""
    return _norm(group, 1)


def l2(group: Group, random: np.random.Generator) -> Scores:
    """Euclidean norm of the filters that make a channel and of the weights that read it."""
    return _norm(group, 2)


def uniform(group: Group, random: np.random.Generator) -> Scores:
    """Random scores, seeded: the baseline that any criterion must beat."""
    return random.random(group.size)


def _norm(group: Group, order: int) -> Scores:
    """Average the norms over the group's weights, each divided by its mean, so that no tensor drowns the others."""
    total, count = np.zeros(group.size), 0
    for member in group.members:
        tensor = edit.constant(member.value)
        if member.role not in ("in", "out") or tensor is None or not tensor.dtype.is_floating_point():
            continue
        array = np.abs(tensor.numpy().astype(np.float64))
        others = tuple(d for d in range(array.ndim) if d != member.axis)
        inside = member.index >= 0
        power = (array**order).sum(axis=others)[inside]
        score = np.bincount(member.index[inside], power, group.size) ** (1 / order)
        total += score / (score.mean() or 1.0)
        count += 1
    return total / max(count, 1)


IMPORTANCE: dict[str, Importance] = {"l1": l1, "l2": l2, "random": uniform}
