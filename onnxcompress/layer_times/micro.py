"""Micro-models: one layer between neighbours, so that what it costs to change the layout for it is in the figure."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

from ..runtime.session import Array, Session, open_session
from ..scratch import temporary_folder
from .signature import Signature

WARM_UP, RUNS, MOST_RUNS = 2, 12, 60
SHORT = 0.004
"""Seconds that a micro-model runs at least, unless it has had the most runs by then."""

KEPT = 4
"""One run in so many counts, the quickest: what else the machine does only adds."""

NEIGHBOUR = "Conv"


@dataclass(frozen=True)
class Case:
    """A layer at some widths."""

    signature: Signature
    inputs: int
    outputs: int


def micro_model(case: Case) -> tuple[ir.Model, dict[str, Array]]:
    """Build the model that a layer is timed in, and what it is fed with.

    A convolution stands between two of kernel 1 that read and write one channel: onnxruntime keeps channels in blocks
    from one convolution to the next where their numbers allow, and else rewrites the tensor between them.
    """
    signature, random, conv = case.signature, np.random.default_rng(0), bool(case.signature.kernel)
    shape = tuple(size or (1 if conv else case.inputs) for size in signature.data)
    weights = {"weight": signature.weight_shape(case.inputs, case.outputs)}
    attributes: dict[str, Any] = dict(signature.attributes) | (
        {"group": signature.parts or case.inputs} if conv else {}
    )
    if conv:
        ones = (1,) * len(signature.kernel)
        weights |= {"before": (case.inputs, 1, *ones), "after": (1, case.outputs, *ones)}
        nodes = [
            helper.make_node(NEIGHBOUR, ["x", "before"], ["a"], "in"),
            helper.make_node(signature.op, ["a", "weight"], ["b"], "layer", **attributes),
            helper.make_node(NEIGHBOUR, ["b", "after"], ["y"], "out"),
        ]
    else:
        nodes = [helper.make_node(signature.op, ["x", "weight"], ["y"], "layer", **attributes)]
    arrays = {name: random.standard_normal(sizes).astype(np.float32) / 8 for name, sizes in weights.items()}
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return ir.from_proto(made), {"x": random.random(shape, np.float32)}


def time_cases(cases: Sequence[Case], *, threads: int) -> list[float]:
    """Return microseconds of a layer in each case, all taking turns; infinite where onnxruntime refuses."""
    with temporary_folder() as folder:
        made = [micro_model(case) for case in cases]
        sessions = [
            open_session(model, threads=threads, profile_prefix=Path(folder) / f"run{number}")
            for number, (model, _) in enumerate(made)
        ]
        feeds = [feed for _, feed in made]
        spent = _run_in_turns(sessions, feeds)
        return [
            _layer_time(json.loads(session.end_profile().read_bytes()), conv=bool(case.signature.kernel))
            for session, case, _ in zip(sessions, cases, spent, strict=True)
        ]


def _run_in_turns(sessions: Sequence[Session], feeds: Sequence[dict[str, Array]]) -> list[float]:
    spent = [0.0] * len(sessions)
    for count in range(WARM_UP + MOST_RUNS):
        waiting = [n for n, seconds in enumerate(spent) if count < WARM_UP + RUNS or seconds < SHORT]
        if not waiting:
            break
        for number in waiting:
            start = time.perf_counter()
            sessions[number].run(feeds[number])
            spent[number] += time.perf_counter() - start
    return spent


def _layer_time(events: Sequence[dict[str, Any]], *, conv: bool) -> float:
    """Read the time of the layer from a profile: what runs between the neighbours.

    What changes the layout stands between two layers, and so half of it counts for each.
    """
    suffix = "_kernel_time"
    spent: dict[str, list[float]] = {}
    operators: dict[str, str] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(suffix):
            spent.setdefault(event["name"], []).append(float(event["dur"]))
            operators[event["name"]] = event["args"]["op_name"]
    times = {name: float(np.sort(runs)[: -(-len(runs) // KEPT)].mean()) for name, runs in spent.items()}
    layers = [n for n, name in enumerate(times) if operators[name].endswith(NEIGHBOUR)]
    if not conv or len(layers) < 2:
        return sum(times.values())
    inside = list(times.items())[layers[0] + 1 : layers[-1]]
    return sum(took / 2 if operators[name].startswith("Reorder") else took for name, took in inside)
