"""Importance: how much each channel of a group matters, by a table of criteria; what scores low goes first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.channels.groups import Group, Groups, Member
from onnxcompress.contract import Context, Refusal
from onnxcompress.graph import edit
from onnxcompress.statistics.summaries import Moment
from onnxcompress.training import class_axis, logits_of, measure_saliency

from .activations import TensorAxis, activated_members, by_channel, places_of, read_members, tensor_axis
from .norms import norms

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """What a criterion may look at beside the group: all groups, a random generator, what was measured.

    `sums` keeps what was summed along an axis of a weight: in a dense network many groups run along one axis.
    """

    groups: Groups
    random: np.random.Generator
    measured: Mapping[TensorAxis, Scores] = field(default_factory=dict)
    sums: dict[tuple[ir.Value, int], Scores] = field(default_factory=dict)

    def summed(self, member: Member, power: int) -> Scores:
        """Return the sum of ``|w| ** power`` at each position of a weight's axis."""
        key = member.value, member.axis
        if key not in self.sums:
            self.sums[key] = _summed(np.abs(_array(member)) ** power, member.axis)
        return self.sums[key]


Measure = Callable[[list[Group], Context], Mapping[TensorAxis, Scores]]
"""Measures something on the samples, all at once: numbers for each position of an axis of a tensor."""


@dataclass(frozen=True)
class Criterion:
    """One way to score channels.

    Attributes
    ----------
    parts : callable
        Returns scores from each member that has a say; none where the criterion does not apply.
    lacking : str
        Why it does not apply then.
    measure : callable, optional
        What to measure before, on the samples.
    training : bool
        It is measured in the training interpreter.
    finish : callable, optional
        Turns the combined scores into the final ones.
    """

    parts: Callable[[Group, Evidence], list[Scores]]
    lacking: str = "no float weight makes or reads its channels"
    measure: Measure | None = None
    training: bool = False
    finish: Callable[[Scores], Scores] | None = None


REDUCTIONS: dict[str, Callable[..., Scores]] = {"mean": np.mean, "max": np.max, "sum": np.sum}


def score_groups(
    criterion: Criterion, reduction: str, chosen: list[Group], context: Context
) -> tuple[dict[str, Scores], list[Refusal]]:
    """Score the channels of each group; all that must be measured is measured in one go."""
    measured = {} if criterion.measure is None else criterion.measure(chosen, context)
    evidence = Evidence(context.groups, np.random.default_rng(context.seed), measured)
    scores, refused = {}, []
    for group in chosen:
        parts = criterion.parts(group, evidence)
        if parts:
            score = np.asarray(REDUCTIONS[reduction](np.stack(parts), axis=0))
            scores[group.name] = score if criterion.finish is None else criterion.finish(score)
        else:
            refused.append(Refusal(group.name, criterion.lacking))
    return scores, refused


def _norms(order: int) -> Callable[[Group, Evidence], list[Scores]]:
    """Norms of the filters that make a channel and of the weights that read it, each divided by its mean.

    So no tensor drowns the others, whatever its scale.
    """

    def parts(group: Group, evidence: Evidence) -> list[Scores]:
        found = []
        for member in _weights(group, ("in", "out")):
            sums = _per_channel_sum(member, evidence.summed(member, order), group.size)
            found.append(_relative(sums ** (1 / order)))
        return found

    return parts


def _high_norms(order: float) -> Callable[[Group, Evidence], list[Scores]]:
    """The same for any order, from the norms at each position, so that high powers neither overflow nor vanish."""

    def parts(group: Group, evidence: Evidence) -> list[Scores]:
        found = []
        for member in _weights(group, ("in", "out")):
            rows = _filters(member, _array(member), group.size)
            found.append(_relative(norms(rows, order)))
        return found

    return parts


def _weights(group: Group, roles: tuple[str, ...]) -> list[Member]:
    found = []
    for member in group.members:
        tensor = edit.constant(member.value) if member.role in roles else None
        if tensor is not None and tensor.dtype.is_floating_point():
            found.append(member)
    return found


def _array(member: Member) -> Scores:
    return edit.array(member.value).astype(np.float64)


def _summed(array: Scores, axis: int) -> Scores:
    return np.asarray(array.sum(axis=tuple(d for d in range(array.ndim) if d != axis)))


def _per_channel_sum(member: Member, values: Scores, size: int) -> Scores:
    positions, channels = member.places
    return np.bincount(channels, values[positions], size).astype(np.float64, copy=False)


def _relative(score: Scores) -> Scores:
    return np.asarray(score / (score.mean() or 1.0))


def _uniform(group: Group, evidence: Evidence) -> list[Scores]:
    return [evidence.random.random(group.size)]


def _scales(group: Group, evidence: Evidence) -> list[Scores]:
    """|scale| of BatchNormalization as it is: it says by how much a normalised channel counts."""
    found = []
    for member in group.members:
        tensor = edit.constant(member.value)
        is_scale = any(index == 1 and edit.op_of(node) == "BatchNormalization" for node, index in member.value.uses())
        if is_scale and tensor is not None:
            found.append(by_channel(member, np.abs(tensor.numpy().astype(np.float64)), group.size))
    return found


def _lamp(score: Scores) -> Scores:
    """Divide each squared score by the sum of those that are not smaller: what would be lost of what is left."""
    square = score**2
    order = np.argsort(square, kind="stable")
    rest = np.cumsum(square[order][::-1])[::-1]
    lamp = np.zeros_like(square)
    lamp[order] = square[order] / np.where(rest == 0, 1, rest)
    return lamp


def _distances(group: Group, evidence: Evidence) -> list[Scores]:
    """The sum of distances of a filter to all others of its tensor: one near the geometric median can be replaced."""
    found = []
    for member in _weights(group, ("out",)):
        filters = _filters(member, _array(member), group.size)
        products = filters @ filters.T  # one matrix product instead of each pair of long filters
        square = np.diag(products)[:, None] + np.diag(products) - 2 * products
        found.append(_relative(np.sqrt(np.maximum(square, 0)).sum(axis=1)))
    return found


def _filters(member: Member, array: Scores, size: int) -> Scores:
    """Return one row for each channel: what stands at all its positions (the gates of an LSTM), side by side."""
    rows = np.moveaxis(array, member.axis, 0).reshape(len(member.index), -1)
    places = places_of(member.index, size)
    return np.where(places[..., None] >= 0, rows[places], 0).reshape(size, -1)


def _means(watched: Callable[[Groups, Group], list[Member]], moment: Moment) -> Measure:
    """Measure the mean of some activations."""

    def measure(chosen: list[Group], context: Context) -> Mapping[TensorAxis, Scores]:
        axes = {tensor_axis(member) for group in chosen for member in watched(context.groups, group)}
        return context.channel_means(sorted(axes), moment)

    return measure


def _activations(group: Group, evidence: Evidence) -> list[Scores]:
    read = read_members(evidence.groups, group)
    return [_relative(by_channel(m, evidence.measured[tensor_axis(m)], group.size)) for m in read]


def _share_not_zero(group: Group, evidence: Evidence) -> list[Scores]:
    return [
        by_channel(m, evidence.measured[tensor_axis(m)], group.size) for m in activated_members(evidence.groups, group)
    ]


def _wanda(group: Group, evidence: Evidence) -> list[Scores]:
    """|W| times the norm of what it multiplies, summed over the weights that read a channel."""
    found = []
    members = {(m.value, m.axis): m for m in group.members}
    for member in _weights(group, ("in",)):
        weight = evidence.summed(member, 1)
        for sink in evidence.groups.readers.get(member.value, ()):
            data = members.get((sink.data, sink.axis))
            if data is None or data.role != "activation":
                continue
            square = evidence.measured[tensor_axis(data)]
            if np.array_equal(member.index, data.index):
                score = _per_channel_sum(member, weight * np.sqrt(square), group.size)
            else:  # in grouped convolutions the two axes are numbered differently
                score = _per_channel_sum(member, weight, group.size) * np.sqrt(by_channel(data, square, group.size))
            found.append(_relative(score))
    return found


def _loss_change(order: Literal["first", "second"]) -> Measure:
    """Measure how the loss changes with the weights; without labels, the loss of the model's own decisions."""

    def measure(chosen: list[Group], context: Context) -> Mapping[TensorAxis, Scores]:
        samples = context.samples.head(GRADIENT_SAMPLES)
        labels = samples.labels
        if labels is None:
            logits = logits_of(context.original, samples)
            labels = logits.argmax(class_axis(logits.ndim))
        weights = {str(m.value.name): None for group in chosen for m in _weights(group, ("in", "out"))}
        found = measure_saliency(context.model, samples.arrays(), labels, tuple(weights), progress=context.progress)
        answer: dict[TensorAxis, Scores] = getattr(found, order)
        return answer

    return measure


def _saliency(group: Group, evidence: Evidence) -> list[Scores]:
    """The change of the loss as it is: that of one group compares with that of another."""
    members = [m for m in _weights(group, ("in", "out")) if tensor_axis(m) in evidence.measured]
    return [_per_channel_sum(m, evidence.measured[tensor_axis(m)], group.size) for m in members]


GRADIENT_SAMPLES = 256
UNREACHED = "no gradient reaches the weights that make or read its channels"
UNREAD = "no operator reads it as an activation"
IMPORTANCE: dict[str, Criterion] = {
    "l1": Criterion(_norms(1)),
    "l2": Criterion(_norms(2)),
    "random": Criterion(_uniform),
    "bn_scale": Criterion(_scales, "no BatchNormalization scales its channels"),
    "lamp": Criterion(_norms(2), finish=_lamp),
    "fpgm": Criterion(_distances, "no float weight makes its channels"),
    "activation": Criterion(_activations, UNREAD, _means(read_members, "absolute")),
    "apoz": Criterion(_share_not_zero, UNREAD, _means(activated_members, "nonzero")),
    "wanda": Criterion(_wanda, "no float weight reads it as an activation", _means(read_members, "square")),
    "taylor": Criterion(_saliency, UNREACHED, _loss_change("first"), training=True),
    "fisher": Criterion(_saliency, UNREACHED, _loss_change("second"), training=True),
}


def criterion_of(importance: str | float) -> Criterion:
    """Return what an option `importance` means; a number is the order of a norm."""
    return IMPORTANCE[importance] if isinstance(importance, str) else Criterion(_high_norms(importance))
