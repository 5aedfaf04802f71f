"""What was done, refused and measured, as data and JSON."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import msgspec

from .contract import Change, Epoch, Refusal
from .samples.split import basis

if TYPE_CHECKING:
    from .evaluation.slowness import NotFaster


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
    milliseconds, ratio : float or None
        Median latency of one sample, all stages interleaved in one process, and its ratio to the original's.
    """

    name: str
    bytes: int
    parameters: int
    macs: int
    metric: float | None = None
    agreement: float | None = None
    milliseconds: float | None = None
    ratio: float | None = None


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


@dataclass
class Evidence:
    """The evidence of one run of a pipeline.

    Attributes
    ----------
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
    layers : dict
        Layer → bytes of its weights (before, after).
    not_faster : NotFaster or None
        Where a quantized result is not faster than the original: by how much, and the layers that cost the time.
    unmet : list of str
        What was asked for and is not kept, each after the pass that could not; empty when all holds.
    notes : list of str
        What else is to be known of the evidence: random numbers in the model, outputs of another size.
    versions : dict
        Package → version; among them the one that brings onnxruntime.
    provider : str
        Where it was measured and timed: onnxruntime's provider, and its options.
    stays : list of str
        Data files of a model that was overwritten which were not removed, and why.
    """

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
    layers: dict[str, tuple[int, int]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    provider: str = "cpu"
    not_faster: NotFaster | None = None
    unmet: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
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
