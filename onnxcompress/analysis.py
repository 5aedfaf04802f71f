"""How much each group of channels matters to a model's job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .contract import Context, Refusal
from .errors import OptionError
from .graph import shapes
from .graph.kinds import to_ir
from .passes.prune.budget import Meter
from .passes.prune.prune_channels import PruneChannels
from .passes.prune.sensitivity import SHARES, Judge, Point, measure
from .progress import Progress, silent
from .runtime.samples import load_samples

if TYPE_CHECKING:
    from .graph.kinds import AnyModel


@dataclass(frozen=True)
class GroupSensitivity:
    """One group, pruned alone.

    Attributes
    ----------
    name : str
    channels : int
        How many it has.
    macs_saved : tuple of float
        For each point, the share of the model's multiply-accumulates that goes.
    points : tuple of Point
        By growing share; none for a group too small to lose a channel.
    """

    name: str
    channels: int
    macs_saved: tuple[float, ...]
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Sensitivity:
    """What each group alone costs.

    Attributes
    ----------
    metric : str
    value : float
        The metric of the model as it is.
    count : int
        How many samples were scored.
    random : bool
        The samples were random values, so that the metric says little about the model's job.
    shares : tuple of float
    groups : tuple of GroupSensitivity
        In the order of the graph.
    refused : tuple of Refusal
        Groups that cannot be pruned, with the reason.
    """

    metric: str
    value: float
    count: int
    random: bool
    shares: tuple[float, ...]
    groups: tuple[GroupSensitivity, ...]
    refused: tuple[Refusal, ...]


def sensitivity(
    model: AnyModel,
    data: Any,
    *,
    metric: str | None = None,
    importance: str = "l2",
    shares: Sequence[float] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Sensitivity:
    """Zero a share of one group's channels after another, and score the model each time.

    Parameters
    ----------
    model : str, Path, onnx.ModelProto, onnx_ir.Model or gs.Graph
        Never changed.
    data
        Samples, as for `onnxcompress.apply`.
    metric : str, optional
        As for `onnxcompress.compare`.
    importance : str
        Which channels go first; see `PruneChannels`.
    shares : sequence of float, optional
        In (0, 1): the shares that are tried; by default 0.1, 0.25, 0.5 and 0.75.
    seed : int
        Seeds everything random.
    progress : callable, optional
        Called as ``progress(what, done, total)``.

    Returns
    -------
    Sensitivity

    Raises
    ------
    OptionError, ModelError, DataError, MetricError
        An option is wrong, or the model or the samples cannot be used.

    Notes
    -----
    Li et al., "Pruning filters for efficient ConvNets", arXiv:1608.08710, section 3.2.
    """
    shares = shares or SHARES
    for share in shares:
        if not 0 < share < 1:
            raise OptionError(f"sensitivity: shares = {share!r}: expected numbers above 0 and below 1")
    step = PruneChannels(importance=importance)
    original, _ = to_ir(model)
    known = original.clone()
    shapes.infer(known)
    samples = load_samples(data, known, seed)
    context = Context(known, samples=samples, seed=seed, progress=progress, metric=metric)
    ranker, refused = step.ranker(context)
    judge = Judge(known, samples, metric)
    curves = measure(judge, ranker, list(ranker.scores), shares, progress=progress or silent)
    meter = Meter(ranker.groups, "macs")
    sizes = {group.name: group.size for group in ranker.groups.prunable}

    def saved(name: str, point: Point) -> float:
        left: int = meter.left({name: point.channels})
        return float(1 - left / max(meter.total, 1))

    groups = tuple(
        GroupSensitivity(name, sizes[name], tuple(saved(name, p) for p in points), points)
        for name, points in curves.items()
    )
    whole = judge.whole()
    return Sensitivity(
        whole.metric, whole.value_a, whole.count, samples.random, tuple(sorted(shares)), groups, tuple(refused)
    )
