"""The options of what training keeps, and of what it prunes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from onnxcompress.errors import OptionError

from .comparing import ComparingPass
from .qat.masters import Master
from .qat.rounding import with_floats
from .steps.clusters import clusters_of
from .steps.masks import masks_of
from .steps.pruning import Pattern, job_of, read_schedule


@dataclass(frozen=True)
class Hooks:
    """What happens at each step beside the optimizer's.

    Attributes
    ----------
    job : dict
        What the loop is told: a field for each class of hooks.
    refused : dict of str to str
        What is not pruned, and why.
    notes : tuple of str
    """

    job: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class KeepingPass(ComparingPass):
    """A pass that trains, and keeps what was won before.

    Attributes
    ----------
    masks : bool
        Weights that are zero stay exactly zero: what pruning zeroed, whatever the pattern. A bias or another addend
        with nothing but zeros is trained like any other, and so are zeros that rounding to few bits made.
    clusters : bool
        Weights that share few values go on sharing them: the values are trained.
    train_scales : bool
        Of a model that holds integers, train its scales as well (LSQ [2]_).
    prune : dict
        Zeroes more and more weights while it trains. final: the share in the end; initial (0) and power (3): how it
        grows; begin (0) and end (0.75): from when to when, up to 1 as a share of the training, else as steps; frequency
        (20): every so many steps. rows (4) and columns (1) of blocks, n (2) of m (4).
    pattern : {"weights", "blocks", "n_of_m", "channels"}
        What `prune` zeroes together: single weights, blocks of outputs and what they sum over, m - n of every m along
        the inputs, or whole channels with the biases, for `shrink` to remove.
    """

    masks: bool = True
    clusters: bool = True
    train_scales: bool = False
    prune: dict[str, float] = field(default_factory=dict)
    pattern: Pattern = "weights"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prune:
            read_schedule(self.name, self.prune, self.pattern)
        elif self.pattern != "weights":
            raise OptionError(f"{self.name}: pattern = '{self.pattern}': nothing is pruned; say how much, prune.final")

    def hooks(self, model: ir.Model, masters: Mapping[str, Master], free: Collection[str]) -> Hooks:
        """Return what the loop does at each step, for what is trained."""
        floats = with_floats(model, masters, rounded=False)
        masked, rounded = masks_of(floats, free, masters) if self.masks else ([], [])
        clustered = clusters_of(floats, free, masters) if self.clusters else []
        job: dict[str, Any] = {"masked": masked, "clusters": clustered}
        refused: dict[str, str] = {}
        if self.prune:
            schedule = read_schedule(self.name, self.prune, self.pattern)
            job["prune"], refused = job_of(floats, schedule, self.pattern, free, clustered)
        notes = []
        if rounded:
            notes.append(f"zeros of {len(rounded)} weights of integers are trained: rounding made them, no mask")
        return Hooks(job, refused, tuple(notes))
