"""How wide each axis is when so many channels of each group stay, without removing any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from .groups import Groups


@dataclass(frozen=True)
class Factor:
    """What one row of labels leaves of an axis: `fixed` positions, and so many for each channel of a group."""

    fixed: int
    shares: tuple[tuple[int, float], ...] = ()

    def at(self, kept: Sequence[int]) -> float:
        """Return how many positions stay."""
        return self.fixed + sum(share * kept[number] for number, share in self.shares)


@dataclass(frozen=True)
class Width:
    """The extent of an axis, as it follows from how many channels stay.

    Attributes
    ----------
    full : int
        With all channels.
    factors : tuple of Factor
        One for each row of labels: heads and what each of them has are two.
    """

    full: int
    factors: tuple[Factor, ...] = ()

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the groups, in `Groups.prunable`, that it depends on."""
        return tuple(sorted({number for factor in self.factors for number, _ in factor.shares}))

    def at(self, kept: Sequence[int]) -> int:
        """Return the extent when so many channels of each group stay."""
        if len(self.factors) == 1:
            return round(self.factors[0].at(kept))
        return round(self.full * prod(factor.at(kept) / self.full for factor in self.factors))


class Widths:
    """The widths of a model's axes; channels of one group count as equally wide.

    Parameters
    ----------
    groups : Groups
    """

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self.full = [group.size for group in groups.prunable]

    @cached_property
    def _owner(self) -> npt.NDArray[np.int64]:
        owner = np.full(self._groups.engine.labels.count, -1, np.int64)
        for number, group in enumerate(self._groups.prunable):
            owner[group.labels] = number
        return owner

    def of(self, value: ir.Value, axis: int, extent: int) -> Width:
        """Return the width of an axis of `extent` positions."""
        axes = self._groups.axes.get(value)
        rows = axes[axis] if axes and -len(axes) <= axis < len(axes) else None
        if rows is None or rows.shape[1] != extent:
            return Width(extent)
        factors = (self._factor(self._owner[row]) for row in rows)
        return Width(extent, tuple(factor for factor in factors if factor.shares))

    def _factor(self, owners: npt.NDArray[np.int64]) -> Factor:
        numbers, counts = np.unique(owners[owners >= 0], return_counts=True)
        pairs = zip(numbers.tolist(), counts.tolist(), strict=True)
        return Factor(int((owners < 0).sum()), tuple((number, count / self.full[number]) for number, count in pairs))

    def counts(self, kept: dict[str, int]) -> list[int]:
        """Return how many channels of each group stay, in the order of the groups; all of those not named."""
        return [kept.get(group.name, group.size) for group in self._groups.prunable]
