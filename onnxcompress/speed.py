"""How fast one model is beside another: one ratio with its interval, and the only words for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FASTER = 0.98
"""A ratio that is surely below 1, and may be below this, is called faster; slower is the same upside down."""

TOO_WIDE = 1.25
"""An interval around 1 whose ends are so many times apart says nothing."""


@dataclass(frozen=True)
class Speed:
    """One model's time over another's, both measured in turns, with a 95 % interval.

    Every statement about time is made from these three numbers, so that no two of them can disagree.
    """

    ratio: float
    low: float
    high: float

    @property
    def state(self) -> Literal["faster", "slower", "as fast", "unclear"]:
        """What the interval allows to say.

        >>> [Speed(0.5, 0.4, 0.6).state, Speed(1.0, 0.9, 1.1).state, Speed(0.9, 0.5, 1.8).state]
        ['faster', 'as fast', 'unclear']
        """
        if self.high < 1 and self.low < FASTER:
            return "faster"
        if self.low > 1 and self.high > 1 / FASTER:
            return "slower"
        return "as fast" if self.high <= TOO_WIDE * self.low else "unclear"

    @property
    def headline(self) -> str:
        """A few words.

        >>> Speed(0.5, 0.4, 0.6).headline, Speed(0.9, 0.5, 1.8).headline, Speed(1.5, 1.4, 1.6).headline
        ('2.00× faster', 'unclear', '1.50× slower')
        """
        if self.state in ("as fast", "unclear"):
            return self.state
        return f"{1 / self.ratio if self.state == 'faster' else self.ratio:.2f}× {self.state}"

    @property
    def share(self) -> str:
        """The numbers.

        >>> Speed(0.5, 0.4, 0.6).share
        '0.50 × the time (0.40 – 0.60)'
        """
        return f"{self.ratio:.2f} × the time ({self.low:.2f} – {self.high:.2f})"
