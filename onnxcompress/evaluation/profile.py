"""How long each kernel takes: onnxruntime's profile of a run, beside the graph that it made of the model."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import onnx_ir as ir

from ..graph import edit
from ..runtime.session import Array, Session, open_session
from ..scratch import temporary_folder

WARM_UP = 3
MIN_RUNS = 9
MAX_RUNS = 200
KEPT = 8
"""One time in this many counts, the quickest: what else the machine does falls on single kernels, and only adds."""

SECONDS = 1.0
SUFFIX = "_kernel_time"


@dataclass(frozen=True)
class Kernel:
    """A node of the graph that onnxruntime runs.

    Attributes
    ----------
    name, operator : str
        As onnxruntime names them; the operator without its domain.
    milliseconds : float
        In one run, without what the kernels of its inner graphs take; the mean of the quickest eighth over the runs.
    dtype : str or None
        Of the first output, as onnxruntime writes it, such as ``uint8``.
    inputs, outputs : tuple of str
        Tensors; of inputs, those that are computed or fed.
    """

    name: str
    operator: str
    milliseconds: float
    dtype: str | None = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


def profile_models(models: Sequence[ir.Model], feeds: Mapping[str, Array]) -> list[list[Kernel]]:
    """Profile models on the same feed, taking turns.

    Parameters
    ----------
    models : sequence of onnx_ir.Model
    feeds : mapping of str to ndarray

    Returns
    -------
    list of list of Kernel
        For each model, in the order in which they ran first.

    Raises
    ------
    ModelError
        A model cannot be loaded, or refuses the feed.
    """
    with temporary_folder() as folder:
        places = [folder / str(number) for number in range(len(models))]
        sessions = []
        for model, place in zip(models, places, strict=True):
            place.mkdir()
            sessions.append(open_session(model, optimized_path=place / "optimised.onnx", profile_prefix=place / "run"))
        _take_turns(sessions, feeds)
        return [
            kernels(json.loads(session.end_profile().read_bytes()), ir.load(place / "optimised.onnx"))
            for session, place in zip(sessions, places, strict=True)
        ]


def _take_turns(sessions: Sequence[Session], feeds: Mapping[str, Array]) -> None:
    end = time.perf_counter() + SECONDS
    runs = 0
    while runs < WARM_UP + MIN_RUNS or (runs < MAX_RUNS and time.perf_counter() < end):
        for session in sessions:
            session.run(feeds)
        runs += 1


def kernels(events: Sequence[dict[str, Any]], optimised: ir.Model, *, warm_up: int = WARM_UP) -> list[Kernel]:
    """Read a profile.

    Parameters
    ----------
    events : sequence of dict
        Trace events as onnxruntime writes them; times are in microseconds.
    optimised : onnx_ir.Model
        The graph that ran, from which tensors are named.
    warm_up : int
        Runs at the beginning that do not count.

    Returns
    -------
    list of Kernel
        In the order in which they ran first.
    """
    runs = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e["name"] == "model_run")[warm_up:]
    timed = sorted((e for e in events if e["cat"] == "Node" and e["name"].endswith(SUFFIX)), key=_outer_first)
    own = _own_times(timed)
    spent: defaultdict[str, list[float]] = defaultdict(lambda: [0.0] * len(runs))
    first: dict[str, dict[str, Any]] = {}
    position = 0
    for event, microseconds in zip(timed, own, strict=True):
        while position < len(runs) and event["ts"] >= runs[position][1]:
            position += 1
        if position < len(runs) and event["ts"] >= runs[position][0]:
            name = event["name"].removesuffix(SUFFIX)
            spent[name][position] += microseconds / 1000
            first.setdefault(name, event["args"])
    nodes = {node.name: node for node in optimised.graph.all_nodes()}
    return [_kernel(name, first[name], _quickest(times), nodes.get(name)) for name, times in spent.items()]


def _quickest(times: Sequence[float]) -> float:
    """Return the mean of the quickest."""
    return fmean(sorted(times)[: -(-len(times) // KEPT)])


def _outer_first(event: dict[str, Any]) -> tuple[float, float]:
    return event["ts"], -event["dur"]


def _own_times(timed: Sequence[dict[str, Any]]) -> list[float]:
    """Return what each event takes without those inside it: a Loop's time holds that of its body."""
    own: list[float] = [event["dur"] for event in timed]
    around: list[int] = []
    for index, event in enumerate(timed):
        end = event["ts"] + event["dur"]
        while around and timed[around[-1]]["ts"] + timed[around[-1]]["dur"] < end:
            around.pop()
        if around:
            own[around[-1]] -= event["dur"]
        around.append(index)
    return own


def _kernel(name: str, facts: dict[str, Any], milliseconds: float, node: ir.Node | None) -> Kernel:
    shapes = facts.get("output_type_shape") or [{}]
    dtype = next(iter(shapes[0]), None)
    if node is None or node.op_type != facts["op_name"]:
        return Kernel(name, facts["op_name"], milliseconds, dtype)
    inputs = tuple(value.name or "" for value in node.inputs if value is not None and edit.constant(value) is None)
    return Kernel(name, node.op_type, milliseconds, dtype, inputs, tuple(v.name or "" for v in node.outputs))
