"""How many channels of each group stay: the least loss for what it costs, all groups together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxcompress.layer_times.model_time import Costs

DOUBLINGS, HALVINGS, SWEEPS = 60, 14, 12
"""How far a price is raised until the budget is met, how closely it is found then, and how often groups take turns."""


@dataclass(frozen=True)
class Choice:
    """What may stay of a group.

    Attributes
    ----------
    number : int
        Which group it is, in `Groups.prunable`.
    counts : tuple of int
        How many channels may stay, the most first.
    losses : tuple of float
        What is lost of the model then.
    """

    number: int
    counts: tuple[int, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Side:
    """A cost beside the one that has a budget: among equal losses the cheaper widths are taken.

    Attributes
    ----------
    costs : Costs
    weight : float
        What a share of it counts beside the same share of the budget.
    """

    costs: Costs
    weight: float


class Knapsack:
    """Chooses counts by a price on what they cost.

    A cost of a layer is a product of two widths, so that what a group costs depends on its neighbours: at each price
    the groups take turns, each choosing best while the others stay (coordinate descent), until none moves; and the
    price rises until the budget is met (Lagrangian relaxation, Everett 1963). What is left of the budget then goes to
    whoever loses most without it.

    Parameters
    ----------
    choices : sequence of Choice
    costs : Costs
        What has a budget.
    full : list of int
        How many channels each group of the model has.
    side : Side, optional

    Notes
    -----
    Shen et al., "Structural Pruning via Latency-Saliency Knapsack", arXiv:2210.06659, do so while they train.
    """

    def __init__(self, choices: Sequence[Choice], costs: Costs, full: list[int], side: Side | None = None) -> None:
        self._choices, self._costs, self._side = choices, costs, side
        self._start = list(full)
        for choice in choices:
            self._start[choice.number] = choice.counts[0]
        self.price = 0.0
        self._whole = costs.total(full) or 1.0
        self._whole_side = (side.costs.total(full) or 1.0) if side else 1.0

    def solve(self, target: float) -> list[int]:
        """Return how many channels of each group stay so that the cost is at most `target`, or as low as it gets."""
        kept, price, step = list(self._start), 0.0, 1e-4
        if self._costs.total(kept) <= target:
            return kept
        low, start = 0.0, list(kept)
        for _ in range(DOUBLINGS):
            price += step
            step *= 1.5
            kept = self._at(price, start)
            if self._costs.total(kept) <= target:
                break
            low, start = price, kept
        else:
            return [*self._least()]
        best, high = kept, price
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            kept = self._at(middle, start)
            if self._costs.total(kept) <= target:
                high, best = middle, kept
            else:
                low, start = middle, kept
        self.price = high
        return self.refill(best, target, high)

    def _least(self) -> list[int]:
        kept = list(self._start)
        for choice in self._choices:
            kept[choice.number] = choice.counts[-1]
        return kept

    def _at(self, price: float, start: Sequence[int]) -> list[int]:
        """Let the groups take turns at one price."""
        kept = list(start)
        for _ in range(SWEEPS):
            moved = False
            for choice in self._choices:
                before = kept[choice.number]
                best = min(self._priced(choice, kept, price), key=lambda pair: pair[0])[1]
                kept[choice.number] = best
                moved |= best != before
            if not moved:
                break
        return kept

    def _priced(self, choice: Choice, kept: list[int], price: float) -> list[tuple[float, int]]:
        """Return what each count of a group comes to, all others as they are."""
        number, found = choice.number, []
        before = kept[number]
        for count, loss in zip(choice.counts, choice.losses, strict=True):
            kept[number] = count
            cost = self._costs.touched(number, kept) / self._whole
            found.append((loss + price * (cost + self._beside(number, kept)), count))
        kept[number] = before
        return found

    def _beside(self, number: int, kept: list[int]) -> float:
        side = self._side
        return 0.0 if side is None else side.weight * side.costs.touched(number, kept) / self._whole_side

    def refill(self, kept: list[int], target: float, price: float) -> list[int]:
        """Widen groups as long as the budget allows, each time the one that gains most; time has its price there."""
        kept = list(kept)
        while True:
            moves = [move for choice in self._choices if (move := self._widened(choice, kept, target, price))]
            if not moves:
                return kept
            _, number, count = max(moves)
            kept[number] = count

    def _widened(self, choice: Choice, kept: list[int], target: float, price: float) -> tuple[float, int, int] | None:
        """Return the gain of the widening of a group that gains most within the budget."""
        number, before = choice.number, kept[choice.number]
        now = dict(zip(choice.counts, choice.losses, strict=True)).get(before)
        if now is None:
            return None
        room = target - self._costs.total(kept)
        cost, side, best = self._costs.touched(number, kept), self._beside(number, kept), None
        for count, loss in zip(choice.counts, choice.losses, strict=True):
            if count <= before:
                break
            kept[number] = count
            gain = now - loss - price * (self._beside(number, kept) - side)
            if self._costs.touched(number, kept) - cost <= room and gain > 0:
                best = max(best, (gain, number, count)) if best else (gain, number, count)
        kept[number] = before
        return best
