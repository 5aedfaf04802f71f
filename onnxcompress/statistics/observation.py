"""What the samples showed of one tensor: all that any way of calibrating asks for."""

from __future__ import annotations

from dataclasses import dataclass

from .histogram import Histogram
from .summaries import ChannelMean, Range


@dataclass(frozen=True)
class Observation:
    """What the samples showed of one tensor; merging is associative and commutative, to the last bit.

    Attributes
    ----------
    extremes : Range
        The smallest and the largest value; ``Range(inf, -inf)`` of no values.
    means : ChannelMean
        Two channels: the sums of the single samples' smallest and largest values. Samples of no values do not count.
    histogram : Histogram or None
        None unless asked for.
    """

    extremes: Range
    means: ChannelMean
    histogram: Histogram | None

    def merge(self, other: Observation) -> Observation:
        """Return the observation of both."""
        both = self.histogram and other.histogram and self.histogram.merge(other.histogram)
        return Observation(self.extremes.merge(other.extremes), self.means.merge(other.means), both)
