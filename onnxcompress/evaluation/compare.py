"""Two models side by side on the same samples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx_ir as ir

from ..errors import MetricError, ModelError, did_you_mean
from ..graph import interface, shapes
from ..graph.interface import cut_all
from ..kinds import to_ir
from ..purpose import Purpose, read_purpose
from ..runtime.provider import Provider
from ..runtime.session import Port, Session, open_session
from ..samples.samples import Batch, Samples, load_samples
from . import interval
from .fidelity import Fidelity, OutputFidelity
from .margins import Margins
from .metrics import Metric, Score, Subject, find_metric
from .metrics.score import shown
from .metrics.several import start
from .metrics.usual import Choice, choose_metric

if TYPE_CHECKING:
    from ..kinds import AnyModel

ROUNDING = 1e-9
"""1 - 0.99 is a little more than 0.01, and is no more than that."""

CACHE_BYTES = 1 << 28
"""How many bytes of the original's outputs are kept, so that it is not run again for every comparison."""


@dataclass(frozen=True)
class Comparison:
    """What two models make of the same samples.

    Attributes
    ----------
    count : int
        How many samples were scored, the same for both.
    dropped : int
        How many were left out because they do not fill the model's fixed batch.
    metric : str
    value_a, value_b : float
        The metric of the original and of the other.
    drop : float or None
        How much was lost (higher is worse); None for a metric that cannot tell.
    drop_error, drop_low, drop_high : float or None
        Its standard error, and its 95 % interval, from how much is lost on each sample; None where that is not known.
    changed : tuple of int, optional
        How many samples lost, and how many gained, the decision that the metric counts.
    agreement, sqnr, cosine, max_abs : float or None
        Of the main output, which tells what the model is for; see `OutputFidelity`.
    outputs : tuple of OutputFidelity
        Of every output.
    random : bool
        The samples were random values, so that the metric says little about the model's job.
    data : str
        Where the samples came from. Whether a model was fitted to them is not known here.
    expected, expected_error : float or None
        The drop of top1 or agreement that is expected from how near all decisions are, and its standard error: it
        varies less with the samples than the drop itself. See `Margins`.
    notes : tuple of str
        That the metric is a guess, and why; what is to be known of the samples: left out, guessed, cast.
    """

    count: int
    dropped: int
    metric: str
    value_a: float
    value_b: float
    drop: float | None
    drop_error: float | None
    drop_low: float | None
    drop_high: float | None
    changed: tuple[int, int] | None
    agreement: float | None
    sqnr: float | None
    cosine: float | None
    max_abs: float | None
    outputs: tuple[OutputFidelity, ...]
    random: bool
    data: str
    expected: float | None = None
    expected_error: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def nonfinite(self) -> tuple[int, int]:
        """How many output values are NaN or infinite: the original's, the other's."""
        return sum(o.nonfinite_a for o in self.outputs), sum(o.nonfinite_b for o in self.outputs)

    @property
    def likely(self) -> tuple[float, float]:
        """Return the drop that tells most on few samples, with its standard error (0 where that is not known)."""
        if self.expected is not None and self.expected_error is not None:
            return self.expected, self.expected_error
        drop = math.inf if self.drop is None or math.isnan(self.drop) else self.drop
        return drop, self.drop_error or 0.0

    def seems_within(self, max_drop: float, errors: float = 1.0) -> bool:
        """Tell whether little enough is lost with so many standard errors on top; for a search, not for a verdict."""
        loss, error = self.likely
        measured = math.inf if self.drop is None or math.isnan(self.drop) else self.drop
        return max(loss + errors * error, measured - (self.drop_error or 0.0)) <= max_drop + ROUNDING


class Ports(NamedTuple):
    """The inputs and outputs of a session that may be gone."""

    inputs: dict[str, Port]
    outputs: dict[str, Port]
    types: dict[str, str]


class Reference:
    """A model that others are compared with, on samples that stay the same.

    Its outputs are kept up to `limit_bytes`; what goes beyond is computed again each time.

    Parameters
    ----------
    model : onnx_ir.Model, str or Path
        Must not be changed afterwards.
    samples : Samples
    limit_bytes : int
    threads : int
    """

    def __init__(
        self, model: ir.Model | str | Path, samples: Samples, *, limit_bytes: int = CACHE_BYTES, threads: int = 0
    ) -> None:
        self.samples = samples
        self._model, self._threads = model, threads
        self._known: tuple[Subject, Purpose] | None = None
        self._session: Session | None = open_session(model, threads=threads)
        self._ports = Ports(self._session.inputs, self._session.outputs, self._session.types)
        self._cuts = self._session.cuts
        self._cache: list[dict[str, Any]] = []
        self._room = limit_bytes
        self._values: dict[str, float] = {}
        self._floats = all("float" in self._ports.types[name] for name in self._ports.outputs)

    def compare(self, model: ir.Model | str | Path, metric: str | None = None, *, exact: bool = False) -> Comparison:
        """Score `model` beside this one, in one pass over the samples.

        Parameters
        ----------
        model : onnx_ir.Model, str or Path
            If it is the one that it is compared with, nothing is run twice.
        metric : str, optional
            A name in `METRICS` or ``file.py:function``; see `find_metric`. By default what the model's purpose and the
            labels ask for; see `choose_metric`.
        exact : bool
            Of the other model, as for `open_session`.

        Raises
        ------
        ModelError
            Inputs or outputs differ in name or type, or a model fails on a sample.
        MetricError
            The metric is unknown, or cannot score these outputs.
        DataError
            A sample does not fit.
        """
        session = None if model is self._model else open_session(model, threads=self._threads, exact=exact)
        if session is not None:
            check_same_ports(self._ports, session)
        runs = self.run()
        first = next(runs)
        subject, purpose = self._look(first[0])
        choice = Choice(metric or "")
        if metric is None:
            choice = choose_metric(purpose, subject, *first, random=self.samples.random)
        chosen = find_metric(choice.metric)
        _check_labels(chosen, first[0])
        score_b = start(chosen, subject, self._ports.outputs)
        known = chosen.name in self._values or chosen.perfect is not None
        score_a = None if known else start(chosen, subject, self._ports.outputs)
        fidelities = self._fidelities(subject)
        scored_kind, main = subject.kinds.get(subject.output), subject.output
        margins = Margins() if chosen.name in ("top1", "agreement") and scored_kind in ONE_CLASS else None
        count = 0
        for batch, outputs_a in chain([first], runs):
            outputs_b = outputs_a if session is None else session.run(batch.feeds)
            if session is not None:
                outputs_a, outputs_b = cut_all(session.cuts, outputs_a), cut_all(self._cuts, outputs_b)
            scored = batch if choice.labelled else replace(batch, labels=None)
            score_b.update(outputs_b, outputs_a, scored)
            if score_a is not None:
                score_a.update(outputs_a, outputs_a, scored)
            for name, fidelity in fidelities.items():
                mask = shown(batch, np.shape(outputs_a[name]))
                fidelity.update(outputs_a[name], outputs_b[name], batch.count, mask)
            if margins is not None:
                margins.update(outputs_a[main], outputs_b[main], scored.labels if chosen.name == "top1" else None)
            count += batch.count
        value_a = self._value(chosen, score_a)
        results = {name: fidelity.result() for name, fidelity in fidelities.items()}
        found = self._comparison(count, chosen, value_a, score_b, results, main, choice.note)
        likely = None if margins is None else margins.expected()
        return found if likely is None else replace(found, expected=likely[0], expected_error=likely[1])

    def run(self) -> Iterator[tuple[Batch, dict[str, Any]]]:
        """Yield each batch with this model's outputs."""
        number = -1
        for number, batch in enumerate(self.samples.labelled()):
            if number < len(self._cache):
                yield batch, self._cache[number]
                continue
            if self._session is None:
                self._session = open_session(self._model, threads=self._threads)
            outputs = self._session.run(batch.feeds)
            size = sum(value.nbytes if isinstance(value, np.ndarray) else 0 for value in outputs.values())
            if number == len(self._cache) and size <= self._room:
                self._cache.append(outputs)
                self._room -= size
            yield batch, outputs
        if number + 1 == len(self._cache):
            self._session = None  # it holds the weights, and is not needed any more

    def _look(self, batch: Batch) -> tuple[Subject, Purpose]:
        """Return what is known of the model's outputs."""
        if self._known is None:
            model = self._model if isinstance(self._model, ir.Model) else to_ir(self._model)[0]
            sizes = {name: array.shape for name, array in batch.feeds.items()}
            found = read_purpose(model, batch)
            resizable = shapes.sized_by_data(model, sizes)
            listed = model.metadata_props.get("character", "").split("\n")  # as PaddleOCR writes it
            characters = ("", *listed, " ") if len(listed) > 1 else ()
            subject = Subject(found.main, found.outputs, found.axes, resizable, characters)
            self._known = subject, found
        return self._known

    def _fidelities(self, subject: Subject) -> dict[str, Fidelity]:
        return {
            name: Fidelity(
                name,
                kind=subject.kinds.get(name, ""),
                axis=subject.axes.get(name),
                resizable=name in subject.resizable,
            )
            for name in self._ports.outputs
        }

    def _value(self, metric: Metric, score: Score | None) -> float:
        if metric.perfect is not None:
            return metric.perfect
        if score is not None:
            self._values[metric.name] = score.value()
        return self._values[metric.name]

    def _comparison(
        self,
        count: int,
        metric: Metric,
        value_a: float,
        score: Score,
        outputs: dict[str, OutputFidelity],
        main: str,
        note: str,
    ) -> Comparison:
        value_b, losses = score.value(), score.losses()
        first = outputs[main] if main in outputs else next(iter(outputs.values()))
        counted = None if losses is None else interval.counts(losses)
        low, high = (None, None) if losses is None else interval.mean_interval(losses)
        if self._floats and all(output.sqnr == math.inf for output in outputs.values()):
            low = high = 0.0  # equal to the last bit, which is no luck
        return Comparison(
            count=count,
            dropped=self.samples.dropped,
            metric=metric.name,
            value_a=value_a,
            value_b=value_b,
            drop=None if metric.loss is None else metric.drop(value_a, value_b),
            drop_error=None if losses is None else interval.mean_error(losses),
            drop_low=low,
            drop_high=high,
            changed=None if counted is None else counted[:2],
            agreement=first.agreement,
            sqnr=first.sqnr,
            cosine=first.cosine,
            max_abs=first.max_abs,
            outputs=tuple(outputs.values()),
            random=self.samples.random,
            data=self.samples.description,
            notes=(*([note] if note else []), *self.samples.notes),
        )


ONE_CLASS = {"classes", "embedding"}
"""Outputs that decide once for each sample, as far as they decide at all."""

FLOATS = {"tensor(bfloat16)", "tensor(float)", "tensor(float16)"}
"""Models that differ only in these can be compared: a session makes each of the others."""


def compare_models(
    a: ir.Model | str | Path, b: ir.Model | str | Path, samples: Samples, metric: str | None = None
) -> Comparison:
    """Compare model `b` with the original `a` in one pass over `samples`; see `Reference.compare`."""
    return Reference(a, samples, limit_bytes=0).compare(b, metric)


def check_same_ports(a: Session | Ports, b: Session) -> None:
    """Raise `ModelError` unless inputs and outputs have the same names and types; float types may differ."""
    for kind, ports_a, ports_b in (("input", a.inputs, b.inputs), ("output", a.outputs, b.outputs)):
        for name in ports_a:
            if name not in ports_b:
                close = did_you_mean(name, list(ports_b))
                raise ModelError(f"the models differ: {kind} '{name}' is missing in the second{close}")
            if a.types[name] != b.types[name] and not {a.types[name], b.types[name]} <= FLOATS:
                raise ModelError(f"the models differ: {kind} '{name}' is {a.types[name]} and {b.types[name]}")
        for name in ports_b:
            if name not in ports_a:
                raise ModelError(f"the models differ: {kind} '{name}' is only in the second")


def _check_labels(metric: Metric, batch: Batch) -> None:
    if metric.labels == "needed" and batch.labels is None:
        raise MetricError(
            f"metric '{metric.name}' needs labels, and the samples have none; add an array 'labels', or use agreement"
        )


def compare(
    a: AnyModel,
    b: AnyModel,
    data: Any,
    *,
    metric: str | None = None,
    seed: int = 0,
    provider: Provider | str | None = None,
) -> Comparison:
    """Compare a model with the original on the same samples.

    Parameters
    ----------
    a, b : str, Path, onnx.ModelProto, onnx_ir.Model or gs.Graph
        The original and the other; neither is changed.
    data : str, Path, dict, list or callable
        Samples; see `onnxcompress.samples.samples.load_samples`.
    metric : str, optional
        See `Reference.compare`.
    seed : int
        Seeds ``"random"`` samples.
    provider : Provider or str, optional
        Where to run both.

    Returns
    -------
    Comparison

    Raises
    ------
    ModelError, DataError, MetricError, OptionError
        A model cannot be used, the samples do not fit, the metric cannot be taken.
    """
    if metric is not None:
        find_metric(metric)
    original, other = to_ir(a)[0], to_ir(b)[0]
    given, made = (interface.read(model.metadata_props) for model in (original, other))
    whole = other if interface.since(made, given) else original  # what samples are made for fits both
    return compare_models(original, other, load_samples(data, whole, seed), metric)
