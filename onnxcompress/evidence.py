"""What was done, refused and measured, as data and JSON."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

import msgspec

from .contract import Change, Epoch, Refusal
from .details import GroupInfo, Layer, NotFaster, Origin, WorstSample
from .samples.split import basis
from .speed import Speed


@dataclass
class Stage:
    """What was measured of the model at one point of the pipeline.

    Attributes
    ----------
    name : str
        "original", or the pass that made it.
    bytes, parameters, macs : int
        Of the saved model; multiply-accumulates of one sample.
    metric, agreement : float or None
        The metric, and the share of samples on which it decides as the original does.
    ratio, ratio_low, ratio_high : float or None
        Its time over the original's, all stages taking turns in one process, with a 95 % interval; None not timed.
    milliseconds : float or None
        For one sample: the original's median times `ratio`, so that the two never disagree.
    """

    name: str
    bytes: int
    parameters: int
    macs: int
    metric: float | None = None
    agreement: float | None = None
    milliseconds: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None

    @property
    def speed(self) -> Speed | None:
        """How fast it is beside the original; None where it was not timed."""
        if self.ratio is None:
            return None
        low, high = (self.ratio if end is None else end for end in (self.ratio_low, self.ratio_high))
        return Speed(self.ratio, low, high)

    def time(self, speed: Speed, original: float) -> None:
        """Enter how fast it is beside the original, whose median in milliseconds is `original`."""
        self.ratio, self.ratio_low, self.ratio_high = speed.ratio, speed.low, speed.high
        self.milliseconds = original * speed.ratio


@dataclass
class Step:
    """What one pass did.

    Attributes
    ----------
    name, options :
        The pass.
    done : list of Change
    refused : list of Refusal
    notes : list of str
        What else the pass tells: how it chose, what it measured.
    curve : list of Epoch
        How training went, where the pass trained.
    """

    name: str
    options: dict[str, Any]
    done: list[Change]
    refused: list[Refusal]
    notes: list[str] = field(default_factory=list)
    curve: list[Epoch] = field(default_factory=list)


@dataclass(frozen=True)
class Verdict:
    """Whether what was asked for holds.

    Attributes
    ----------
    state : {"held", "not shown", "not held", "nothing helps"}
        "held": the whole 95 % interval of the drop, on samples that nothing was fitted to, is within what was asked
        for. "not shown": the drop is, but so few samples, or such as were fitted to, do not show that it is no luck.
        "nothing helps": the original is the best that was found.
    sentence : str
        The first thing that a report says.
    details : tuple of str
        What else belongs to it, a sentence each: what is missing, what it was measured on.
    drop, low, high : float or None
        How much of the metric was lost, and the 95 % interval of that.
    asked : dict
        What was asked for: option → value.
    holds : bool
        The state is "held"; the exit status is 0 then, and 1 otherwise.
    """

    state: Literal["held", "not shown", "not held", "nothing helps"]
    sentence: str
    details: tuple[str, ...] = ()
    drop: float | None = None
    low: float | None = None
    high: float | None = None
    asked: dict[str, float | str] = field(default_factory=dict)
    holds: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "holds", self.state == "held")


@dataclass(frozen=True)
class Trial:
    """One recipe that a search has tried.

    Attributes
    ----------
    number : int
        In the order in which they were asked for.
    recipe : str
        In words, short: "prune 25 % → quantize (3 layers in float)".
    bytes, zipped : int
        Of the saved model, and of it compressed by zlib; None where nobody asked.
    macs : int
        Multiply-accumulates of one sample.
    ratio : float or None
        Its time over the original's, timed side by side; None where it was not timed.
    drop, error : float or None
        How much of the metric was lost on the samples that the search judges by, and the standard error of that.
    state : {"winner", "front", "dominated", "stopped", "failed"}
        "front": nothing that was tried is better in both, cost and drop; "stopped": it lost too much on the first
        samples.
    note : str
        Why it failed or was stopped.
    """

    number: int
    recipe: str
    bytes: int
    zipped: int | None
    macs: int
    ratio: float | None
    drop: float | None
    error: float | None
    state: Literal["winner", "front", "dominated", "stopped", "failed"]
    note: str = ""


@dataclass
class Evidence:
    """The evidence of one run of a pipeline.

    Attributes
    ----------
    verdict : Verdict or None
        Whether what was asked for holds; None where nothing was.
    metric : str or None
        The metric's name; None when there were no samples.
    data : str or None
        Where the samples came from; "random" samples say nothing about the model's job.
    random : bool
    samples : int
        How many samples were scored.
    fitted : list of str
        The passes that were fitted to samples.
    fitted_to : str or None
        Which samples that were; with plans that were made earlier, as it says there.
    unseen : bool or None
        No pass was fitted to a sample that judges; None where a plan was made earlier, so that nobody knows.
    seed : int
    steps : list of Step
    stages : list of Stage
        The original first.
    origin : Origin
        Of which model, made when and where, and how to make it again.
    layers : list of Layer
        What each takes and computes, before and after; times and noise only where they were looked into.
    worst : list of WorstSample
        The samples that suffered most, where they were looked for.
    frozen : list of GroupInfo
        The original's channels that cannot go, and why, where they were looked for.
    left_out : list of str
        What was not looked into, and why.
    not_faster : NotFaster or None
        Where the result is slower than the original, or was quantized and is not faster: the layers that cost the time.
    unmet : list of str
        What was asked for and is not kept, each after the pass that could not; empty when all holds.
    warnings : list of str
        What nobody asked for: steps that made the model slower, a file that grew, steps that did nothing.
    notes : list of str
        What else is to be known of the evidence: random numbers in the model, outputs of another size.
    versions : dict
        Package → version; among them the one that brings onnxruntime.
    provider : str
        Where it was measured and timed: onnxruntime's provider, and its options.
    trials : list of Trial
        What a search has tried; empty where nothing was searched.
    objective : str or None
        What the search was for: latency, size, zipped, macs or memory.
    stays : list of str
        Data files of a model that was overwritten which were not removed, and why.
    """

    verdict: Verdict | None = None
    metric: str | None = None
    data: str | None = None
    random: bool = False
    samples: int = 0
    fitted: list[str] = field(default_factory=list)
    fitted_to: str | None = None
    unseen: bool | None = True
    seed: int = 0
    steps: list[Step] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    origin: Origin = field(default_factory=Origin)
    layers: list[Layer] = field(default_factory=list)
    worst: list[WorstSample] = field(default_factory=list)
    frozen: list[GroupInfo] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    provider: str = "cpu"
    not_faster: NotFaster | None = None
    unmet: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)
    objective: str | None = None
    stays: list[str] = field(default_factory=list)

    def place(self) -> str:
        """Say where it was measured and timed: onnxruntime's provider, and the package that brings it."""
        runtime = next((f"{n} {v}" for n, v in self.versions.items() if n.startswith("onnxruntime")), "onnxruntime")
        return f"Run on {self.provider} ({runtime})"

    def basis(self) -> str:
        """Say on which samples was measured, and whether a pass was fitted to them."""
        if self.metric is None:
            return "No samples were given, so that nothing is known about what the model does"
        on = basis(self.samples, str(self.data), self.fitted, str(self.fitted_to), self.unseen)
        return f"{self.metric} measured on {on}"

    def to_json(self) -> str:
        """Return one JSON document; numbers that JSON lacks (NaN, infinity) become null."""
        content = {each.name: getattr(self, each.name) for each in fields(Evidence)}
        return msgspec.json.format(msgspec.json.encode(content), indent=2).decode()

    @staticmethod
    def schema() -> dict[str, Any]:
        """Return the JSON Schema (draft 2020-12) of what `to_json` writes."""
        found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(msgspec.json.schema(Evidence)))
        for each in found["$defs"].values():  # everything is written, also what is at its default
            each |= {"required": sorted(each["properties"]), "additionalProperties": False}
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}
