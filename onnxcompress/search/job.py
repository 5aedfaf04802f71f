"""One trial as plain data: what is to be tried, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Part:
    """One pass of a recipe that is to be tried.

    Attributes
    ----------
    text : str
        The pass as the command line's ``-p`` takes it.
    spare : float or str
        The share of its layers that it leaves alone: those that alone cost most; in a table, the name of the choice.
    """

    text: str
    spare: float | str = 0.0


@dataclass(frozen=True)
class Source:
    """What all trials of a search have in common.

    Attributes
    ----------
    data, evaluate_on
        Samples, as for `onnxcompress.apply`.
    metric : str or None
    seed : int
    seconds : float
        How long the search may take: it goes by that how many samples a trial may.
    threads : int
        Models are timed on so many; 0: on all cores.
    table : str or None
        The file of layer times that pruning goes by.
    fit, search : int
        Up to so many samples are fitted to, and judge trials.
    """

    data: Any
    evaluate_on: Any = None
    metric: str | None = None
    seed: int = 0
    seconds: float = 300.0
    threads: int = 1
    table: str | None = None
    fit: int = 512
    search: int = 2048


@dataclass(frozen=True)
class Job:
    """One trial.

    Attributes
    ----------
    number : int
    recipe : tuple of Part
    stop_above : float
        A drop beyond which, on the first samples and with its error, it is not judged any further.
    timed, zipped : bool
        Whether it is timed beside the original, and compressed.
    seconds : float
        It is given up after so long.
    """

    number: int
    recipe: tuple[Part, ...]
    stop_above: float
    timed: bool = True
    zipped: bool = False
    seconds: float = 60.0


@dataclass(frozen=True)
class Outcome:
    """What came of a trial.

    Attributes
    ----------
    number : int
    passes : tuple of str
        The recipe that was carried out, as ``-p`` takes it, layers that were spared named.
    bytes, zipped, macs, memory : int
    ratio, ratio_low, ratio_high, milliseconds : float or None
        Its time over the original's with a 95 % interval, and by itself.
    metric : str
    drop, error : float or None
        How much of the metric was lost, and the standard error of that.
    likely, likely_error : float or None
        The drop that the margins of all decisions lead to expect; see `onnxcompress.evaluation.margins`.
    sqnr : float or None
        The signal to noise of the first output against the original's.
    stopped : bool
    failed : str
        Why it could not be carried out; empty where it was.
    fitted : bool
        A pass of it was fitted to samples.
    """

    number: int
    passes: tuple[str, ...] = ()
    bytes: int = 0
    zipped: int | None = None
    macs: int = 0
    memory: int = 0
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    milliseconds: float | None = None
    metric: str = ""
    drop: float | None = None
    error: float | None = None
    likely: float | None = None
    likely_error: float | None = None
    sqnr: float | None = None
    stopped: bool = False
    failed: str = ""
    fitted: bool = False
