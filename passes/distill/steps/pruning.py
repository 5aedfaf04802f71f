"""Pruning little by little while the model is trained: what the options mean, and what is pruned together."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import onnx_ir as ir

from onnxcompress.channels.groups import Group, find_groups
from onnxcompress.errors import OptionError, did_you_mean
from onnxcompress.graph.weights import find_weights

Pattern: TypeAlias = Literal["weights", "blocks", "n_of_m", "channels"]
Share: TypeAlias = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]
When: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """How much is pruned, and when.

    Attributes
    ----------
    final, initial : float
        The share at the end and at the beginning.
    power : float
        1 for a straight line; more: fast at first.
    begin, end : float
        Between which steps; up to 1 a share of the training.
    frequency : int
        Every how many steps.
    rows, columns : int
        Of a block: outputs, and what they sum over.
    n, m : int
        How many stay of how many.
    """

    final: Share = -1.0
    initial: Share = 0.0
    power: Annotated[float, msgspec.Meta(gt=0)] = 3.0
    begin: When = 0.0
    end: When = 0.75
    frequency: Count = 20
    rows: Count = 4
    columns: Count = 1
    n: Count = 2
    m: Annotated[int, msgspec.Meta(ge=2)] = 4


KEYS = tuple(field.name for field in dataclasses.fields(Schedule))


def read_schedule(owner: str, given: Mapping[str, float], pattern: Pattern) -> Schedule:
    """Read the table of the option `prune`.

    Raises
    ------
    OptionError
        Names the key, its value, and what is expected.
    """
    for key in given:
        if key not in KEYS:
            hint = did_you_mean(key, list(KEYS)) or f"; expected one of {', '.join(KEYS)}"
            raise OptionError(f"{owner}: prune: unknown '{key}'{hint}")
    whole = {key: int(value) if float(value).is_integer() else value for key, value in given.items()}
    try:
        found = msgspec.convert(whole, Schedule)
    except msgspec.ValidationError as error:
        key = str(error).rpartition("$.")[2].rstrip("`")
        text = str(error).partition(" - at")[0]
        raise OptionError(f"{owner}: prune.{key} = {given.get(key)!r}: {text[:1].lower()}{text[1:]}") from None
    if pattern == "n_of_m":
        if found.n >= found.m:
            raise OptionError(f"{owner}: prune.n = {found.n}: expected less than prune.m = {found.m}")
        most = 1 - found.n / found.m
        if found.final > most:
            raise OptionError(f"{owner}: prune.final = {found.final:g}: {found.n} of {found.m} leave at most {most:g}")
        return found if "final" in given else dataclasses.replace(found, final=most)
    if "final" not in given:
        raise OptionError(f"{owner}: prune: 'final' is missing, the share that is pruned in the end")
    return found


def job_of(
    model: ir.Model, schedule: Schedule, pattern: Pattern, free: Collection[str], clustered: Collection[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what the loop is told, and what is not pruned and why.

    Parameters
    ----------
    model : onnx_ir.Model
    schedule : Schedule
    pattern : {"weights", "blocks", "n_of_m", "channels"}
        What is pruned together.
    free : collection of str
        What is trained.
    clustered : collection of str
        Weights that share values, which are not pruned.
    """
    told = dataclasses.asdict(schedule) | {"pattern": pattern}
    refused = dict.fromkeys(clustered, "it shares few values, which pruning would part; prune before clustering")
    open_ = [name for name in free if name not in refused]
    if pattern == "channels":
        parts, why = _channels(model, open_)
        return told | parts, refused | why
    found: dict[str, list[int]] = {}
    for weight in find_weights(model.graph):
        name = str(weight.value.name)
        reason = _unfit(pattern, weight.value, (weight.axis, weight.summed), schedule)
        if name in open_ and reason:
            refused[name] = reason
        elif name in open_:
            found[name] = [weight.axis, weight.summed]
    return told | {"weights": found}, refused


def _unfit(pattern: Pattern, value: ir.Value, axes: tuple[int, int], schedule: Schedule) -> str:
    """Say why a weight has no such pattern; empty when it has."""
    shape = value.shape.numpy() if value.shape is not None else ()
    if pattern == "weights":
        return ""
    if len(shape) < 2 or axes[0] < 0:
        return "an operator moves it before it is used, or it is a vector: it has no rows to prune in"
    if pattern == "n_of_m" and (axes[1] < 0 or shape[axes[1]] < schedule.m):
        return f"an output sums over fewer than {schedule.m} input channels"
    return ""


def _channels(model: ir.Model, free: Collection[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return which position of which weight makes which channel."""
    labels: dict[str, tuple[int, list[int]]] = {}
    filters: set[str] = set()
    ends, refused, count = [], {}, 0
    for group in find_groups(model).prunable:
        reason = _not_whole(group, free, labels)
        if reason:
            refused[group.name] = reason
            continue
        for member in group.constants():
            name = str(member.value.name)
            if member.role == "in" or name not in free:
                continue
            filters |= {name} if member.role == "out" else set()
            new = [index + count if index >= 0 else -1 for index in member.index.tolist()]
            old = labels.get(name, (member.axis, [-1] * len(new)))[1]
            labels[name] = (member.axis, [max(pair) for pair in zip(old, new, strict=True)])
        ends.append([count, count + group.size])
        count += group.size
    return {"weights": labels, "filters": sorted(filters), "groups": ends}, refused


def _not_whole(group: Group, free: Collection[str], labels: Mapping[str, tuple[int, list[int]]]) -> str:
    """Say why the channels of a group cannot become zero."""
    for member in group.constants():
        name = str(member.value.name)
        if member.role == "out" and name not in free:
            return f"'{name}' makes its channels, and is not trained"
        if member.role != "in" and name in labels and labels[name][0] != member.axis:
            return f"'{name}' makes channels of two groups"
        if member.role == "out" and len(member.line.rows) > 1:
            return "its channels are products with those of another group"
    return ""
