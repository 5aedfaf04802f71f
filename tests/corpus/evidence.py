"""Evidence as hypothesis draws it, and with one text in all places where a text can stand."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

from hypothesis import strategies as st

from onnxcompress.details import Layer, NotFaster, Origin
from onnxcompress.evidence import Evidence, Stage, Trial, Verdict
from onnxcompress.report import Report
from onnxcompress.speed import Speed

SHARES = st.floats(0, 1)
COUNTS = st.integers(0, 10**10)


@st.composite
def speeds(draw: st.DrawFn) -> Speed:
    ratio = draw(st.floats(0.02, 40))
    return Speed(ratio, ratio * draw(st.floats(0.5, 1)), ratio * draw(st.floats(1, 2)))


@st.composite
def reports(draw: st.DrawFn) -> Report:
    """A run of up to three passes, timed or not, scored or not."""
    names = draw(st.lists(st.sampled_from(["prune-channels", "shrink", "quantize"]), max_size=3))
    scored, timed = draw(st.booleans()), draw(st.booleans())
    first = draw(st.floats(0.001, 5000))
    stages = []
    for index, name in enumerate(["original", *names]):
        stage = Stage(name, draw(st.integers(1, 10**10)), draw(COUNTS), draw(COUNTS))
        if scored:
            stage.metric, stage.agreement = draw(SHARES), draw(SHARES)
        if timed:
            stage.time(Speed(1, 1, 1) if index == 0 else draw(speeds()), first)
        stages.append(stage)
    states = st.sampled_from(["winner", "front", "dominated", "stopped", "failed"])
    some = st.none() | SHARES
    trial = st.builds(Trial, COUNTS, st.just("int8"), COUNTS, st.none() | COUNTS, COUNTS, some, some, some, states)
    layer = st.builds(Layer, st.just("conv"), st.just("Conv"), bytes=COUNTS, bytes_after=COUNTS, milliseconds=some)
    slow = NotFaster(1.0, 2.0, {"integer": 1.0}, [], [])
    return Report(
        metric="top1" if scored else None,
        data="d.npz",
        samples=draw(COUNTS),
        stages=stages,
        layers=draw(st.lists(layer, max_size=3)),
        trials=draw(st.lists(trial, max_size=4)),
        objective=draw(st.sampled_from(["latency", "size", "zipped", "macs", "memory"])),
        not_faster=draw(st.sampled_from([None, slow])),
        origin=Origin(made="2026-01-02T03:04:05+00:00"),
    )


def filled(kind: Any, text: str) -> Any:
    """Return an instance of a type in which every text is `text`, and every list has one item."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if kind is str or kind is Any:
        return text
    if origin is typing.Literal:
        return parts[0]
    if origin in (types.UnionType, typing.Union):
        return filled(next(part for part in parts if part is not type(None)), text)
    if origin is list:
        return [filled(parts[0], text)]
    if origin is tuple:
        kinds = [part for part in parts if part is not Ellipsis]
        return tuple(filled(part, text) for part in kinds)
    if origin is dict:
        return {filled(parts[0], text): filled(parts[1], text)}
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{f.name: filled(hints[f.name], text) for f in dataclasses.fields(kind) if f.init})
    return {int: 3, float: 0.5, bool: True}[kind]


def hostile(text: str) -> Report:
    """Return a report in which every text is `text`."""
    hints = typing.get_type_hints(Evidence)
    found = Report(
        **{f.name: filled(hints[f.name], text) for f in dataclasses.fields(Evidence) if f.name != "objective"}
    )
    found.objective = "latency"
    found.stages = [Stage(text, 100, 1, 1, 0.5, 0.5, 1.0, 1.0), Stage(text, 50, 1, 1, 0.25, 0.5, 2.0, 2.0)]
    found.origin = dataclasses.replace(found.origin, made="2026-01-02T03:04:05+00:00")
    verdicts = [Verdict("not held", text, (text,)), Verdict("held", text, (text,))]
    found.verdict = verdicts[0]
    return found
