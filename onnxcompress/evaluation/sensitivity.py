"""How much a model's job suffers when a pass works on one group, or one weight, alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from ..contract import Context, Pass, Plan, Refusal
from ..errors import DataError, MetricError, OptionError
from ..kinds import to_ir, working_copy
from ..machines.workers import Here, Workers
from ..progress import Progress, silent
from ..runtime.provider import Provider
from ..runtime.saturation import products_saturate
from ..runtime.session import usable_cores
from ..samples.samples import Samples
from ..samples.split import basis, split
from .compare import Comparison, Reference

if TYPE_CHECKING:
    from ..kinds import AnyModel

SHARES = (0.1, 0.25, 0.5, 0.75)
"""Sparsities that are tried by default."""


@dataclass(frozen=True)
class Point:
    """One subject pruned alone, all else as it was.

    Attributes
    ----------
    share : float
        The sparsity.
    value : float
        The metric then.
    drop : float
        How much of the metric was lost; higher is worse.
    cosine : float or None
        Cosine of the first output and the original's: it tells subjects apart where the metric is too coarse to.
    sqnr : float or None
        Signal to noise of the first output, in dB.
    """

    share: float
    value: float
    drop: float
    cosine: float | None
    sqnr: float | None = None


@dataclass(frozen=True)
class Sensitivity:
    """What each subject alone costs.

    Attributes
    ----------
    metric : str
    value : float
        The metric of the model as it is.
    count : int
        How many samples were scored.
    random : bool
        The samples were random values, so that the metric says little about the model's job.
    data : str
        Where the samples that were scored came from.
    fitted : tuple of str
        The pass, where it was fitted to samples.
    fitted_to : str
        To which.
    unseen : bool
        It saw none of those that were scored.
    shares : tuple of float
        Empty where the pass has no sparsity; then each subject has one point.
    curves : dict of str to tuple of Point
        Group, weight or layer → its points, by growing share; none where so small a share is nothing.
    refused : tuple of Refusal
        What cannot be pruned, with the reason.
    notes : tuple of str
        What is to be known of the samples: left out, guessed, cast.
    """

    metric: str
    value: float
    count: int
    random: bool
    data: str
    fitted: tuple[str, ...]
    fitted_to: str
    unseen: bool
    shares: tuple[float, ...]
    curves: dict[str, tuple[Point, ...]]
    refused: tuple[Refusal, ...]
    notes: tuple[str, ...] = ()

    def basis(self) -> str:
        """Say on which samples was measured, and whether the pass was fitted to them."""
        return basis(self.count, self.data, self.fitted, self.fitted_to, self.unseen)


class Judge:
    """Compares what plans make of a model to the model as it is.

    Parameters
    ----------
    model : onnx_ir.Model
        Not changed.
    samples : Samples
    metric : str or None
        As for `Reference.compare`.
    workers : Workers, optional
        Who does it where several plans are compared; this process by default.
    exact : bool, optional
        Models of integers are judged with exact products; by default where a machine at work would lose some.
    threads : int
        As for `Reference`.
    """

    def __init__(
        self,
        model: ir.Model,
        samples: Samples,
        metric: str | None,
        *,
        workers: Workers | None = None,
        exact: bool | None = None,
        threads: int = 0,
    ) -> None:
        self._model, self._samples, self._metric, self._threads = model, samples, metric, threads
        self._workers: Workers = workers or Here()
        self._exact = self._workers.saturating or products_saturate() if exact is None else exact

    @cached_property
    def _reference(self) -> Reference:
        return Reference(self._model, self._samples, threads=self._threads)

    def compare(self, step: Pass, plan: Plan) -> Comparison:
        """Score the model as `step` makes it by `plan`."""
        copy = self._model.clone()
        step.apply(copy, plan)
        found = self._reference.compare(copy, self._metric, exact=self._exact)
        if found.drop is None:
            raise MetricError(f"metric '{found.metric}' has no drop; use agreement, cosine or max_abs instead")
        return found

    def compare_all(self, step: Pass, plans: Iterable[Plan]) -> Iterator[Comparison]:
        """Score what each of some plans makes of the model, in their order."""
        if self._workers.near:
            yield from (self.compare(step, plan) for plan in plans)
        else:
            # So many threads as here: how sums are cut up depends on it, in a few models.
            given = (self._model, self._samples, self._metric, self._exact, self._threads or usable_cores(), step)
            yield from self._workers.map(judging, given, plans)


def judging(
    model: ir.Model, samples: Samples, metric: str | None, exact: bool, threads: int, step: Pass
) -> Callable[[Plan], Comparison]:
    """Return what scores plans of a pass, wherever it is."""
    return partial(Judge(model, samples, metric, exact=exact, threads=threads).compare, step)


def measure(
    judge: Judge, step: Pass, plans: Mapping[float, Mapping[str, Plan]], *, progress: Progress = silent
) -> tuple[dict[str, tuple[Point, ...]], Comparison]:
    """Carry out plans for single subjects, one at a time, and score the model each time.

    Parameters
    ----------
    judge : Judge
    step : Pass
        Whose plans these are.
    plans : mapping
        Share → subject → plan; those of a subject that are equal are tried once.
    progress : callable
        Called as ``progress(what, done, total)``.

    Returns
    -------
    curves, comparison
        Subject → its points, by growing share; and the last comparison made.

    Raises
    ------
    DataError
        There is not a single plan.

    Notes
    -----
    Li et al., "Pruning filters for efficient ConvNets", arXiv:1608.08710, section 3.2.
    """
    curves: dict[str, list[Point]] = {subject: [] for share in sorted(plans) for subject in plans[share]}
    last: dict[str, str] = {}
    tasks = []
    for share in sorted(plans):
        for subject, plan in plans[share].items():
            text = plan.to_json()
            if text != last.get(subject):
                tasks.append((share, subject, plan))
                last[subject] = text
    found = None
    comparisons = judge.compare_all(step, (plan for _, _, plan in tasks))
    for done, ((share, subject, _), found) in enumerate(zip(tasks, comparisons, strict=True)):
        assert found.drop is not None
        curves[subject].append(Point(share, found.value_b, found.drop, found.cosine, found.sqnr))
        progress("sensitivity", done + 1, len(tasks))
    if found is None:
        raise DataError(f"{step.name}: nothing goes at these shares, so there is nothing to measure")
    return {subject: tuple(points) for subject, points in curves.items()}, found


def sensitivity(
    model: AnyModel,
    data: Any,
    step: Pass,
    *,
    metric: str | None = None,
    shares: Sequence[float] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    evaluate_on: Any = None,
    provider: Provider | str | None = None,
    workers: Workers | None = None,
) -> Sensitivity:
    """Prune one group, or quantize one layer, after another and score the model each time.

    Parameters
    ----------
    model : str, Path, onnx.ModelProto, onnx_ir.Model or gs.Graph
        Never changed.
    data
        Samples, as for `onnxcompress.apply`.
    step : Pass
        A pass with a plan that can be taken apart, such as `PruneChannels`, `MagnitudePrune` or `Quantize`; where it
        has an option `sparsity`, that is varied, and its own value does not count.
    metric : str, optional
        As for `onnxcompress.compare`.
    shares : sequence of float, optional
        In (0, 1): the sparsities that are tried; by default 0.1, 0.25, 0.5 and 0.75. Not for passes without.
    seed : int
        Seeds everything random.
    progress : callable, optional
        Called as ``progress(what, done, total)``.
    evaluate_on : optional
        Samples to score on; without them, as for `onnxcompress.apply`.
    provider : Provider or str, optional
        Where to calibrate and judge.
    workers : Workers, optional
        Who does it, as for `onnxcompress.apply`; the figures are the same.

    Returns
    -------
    Sensitivity

    Raises
    ------
    OptionError, ModelError, DataError, MetricError
        An option is wrong, or the model or the samples cannot be used.
    """
    varied = "sparsity" in step.options()
    if shares and not varied:
        raise OptionError(f"sensitivity: shares: {step.name} has no option 'sparsity'; leave them out")
    shares = tuple(sorted(shares or SHARES)) if varied else ()
    if not all(0 < share < 1 for share in shares):
        raise OptionError(f"sensitivity: shares = {list(shares)}: expected numbers above 0 and below 1")
    original, _ = to_ir(model)
    known = working_copy(original)
    samples = split(known, data, evaluate_on, fits=step.needs.fits, seed=seed)
    assert samples.judge is not None
    context = Context(known, samples=samples.fit, seed=seed, progress=progress, metric=metric, workers=workers)
    plans = {share: dataclasses.replace(step, sparsity=share).plan(known, context) for share in shares}  # type: ignore[call-arg]
    if not varied:
        plans = {1.0: step.plan(known, context)}
    parts = {share: plan.parts() for share, plan in plans.items()}
    if not varied and not parts[1.0]:
        raise OptionError(f"sensitivity: what {step.name} does cannot be taken apart into groups, weights or layers")
    judge = Judge(known, samples.judge, metric, workers=workers)
    curves, found = measure(judge, step, parts, progress=progress or silent)
    refused = tuple(dict.fromkeys(refusal for plan in plans.values() for refusal in plan.refused))
    return Sensitivity(
        metric=found.metric,
        value=found.value_a,
        count=found.count,
        random=found.random,
        data=found.data,
        fitted=(step.name,) if context.fitted_to else (),
        fitted_to=context.fitted_to,
        unseen=samples.apart or not context.fitted_to,
        shares=shares,
        curves=curves,
        refused=refused,
        notes=tuple(samples.judge.notes),
    )
