"""Refit what stands behind blocks that are left out, so that it does what it did with them."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from onnxcompress.channels.groups import find_groups
from onnxcompress.contract import Refusal
from onnxcompress.errors import PassError
from onnxcompress.graph import edit
from onnxcompress.progress import Progress, silent
from onnxcompress.samples.samples import Samples
from onnxcompress.scratch import temporary_folder
from onnxcompress.statistics.segments import SegmentedRun

from .consumers import Consumer, consumer_of
from .least_squares import RECOVERY_SAMPLES, Compensation, fit


def refit(
    model: ir.Model, shorter: ir.Model, samples: Samples, *, progress: Progress = silent
) -> tuple[Compensation, int]:
    """Fit, layer after layer, what is left of a model to what it gave in the whole one.

    A layer whose output is added to a stream is fitted to what the stream was behind the sum in the original model, so
    that it brings what is missing there; every other one to its outputs in the original model.

    Parameters
    ----------
    model : onnx_ir.Model
        The whole one; not changed.
    shorter : onnx_ir.Model
        The same without some nodes; its weights are changed.
    samples : Samples
        The first 512 are used; no labels are needed.
    progress : callable
        Called as ``progress(what, done, total)``.

    Returns
    -------
    Compensation, int
        What was fitted, and how many layers could have been.
    """
    consumers, refused = _behind(model, shorter)
    result = Compensation({}, {}, ())
    few = samples.head(RECOVERY_SAMPLES)
    with temporary_folder() as folder:
        for name in ("model", "shorter"):
            (folder / name).mkdir()
        before, after = SegmentedRun(model, few, folder / "model"), SegmentedRun(shorter, few, folder / "shorter")
        for done, (consumer, total) in enumerate(consumers):
            try:
                fit(consumer, before, after, result, total=total)
            except PassError as error:
                refused.append(Refusal(edit.label(consumer.node), str(error)))
            progress("compensate", done + 1, len(consumers))
    return dataclasses.replace(result, refused=tuple(refused)), len(consumers)


def _behind(model: ir.Model, shorter: ir.Model) -> tuple[list[tuple[Consumer, str]], list[Refusal]]:
    """Return the layers of both models that something missing stands before, each with the sum that it goes into."""
    names = {edit.output_name(node): node for node in shorter.graph}
    changed = _changed(model, names)
    groups = find_groups(model)
    nothing = groups.table(())
    order = {node: number for number, node in enumerate(model.graph)}
    found, refused = [], []
    for sink in sorted(groups.sinks, key=lambda s: order[s.node]):
        name = edit.output_name(sink.node)
        if name not in changed or sink.weight is None or edit.constant(sink.weight) is None:
            continue
        consumer = consumer_of(groups, sink, nothing)
        if isinstance(consumer, Consumer):
            found.append((consumer, _sum_of(sink.node, order, names)))
        else:
            refused.append(Refusal(edit.label(sink.node), f"not compensated: {consumer}"))
    return found, refused


def _changed(model: ir.Model, names: dict[str, ir.Node]) -> set[str]:
    """Return the nodes, by their outputs, of which what they read is another in the shorter model."""
    moved, found = set[str](), set[str]()
    for node in model.graph:
        name = edit.output_name(node)
        if name not in names:
            moved.update(str(value.name) for value in node.outputs)
            continue
        read = [str(value.name) for value in node.inputs if value is not None]
        read += [str(value.name) for value in names[name].inputs if value is not None]
        if moved.intersection(read) or any(a is not None and b is not None and a.name != b.name
                                           for a, b in zip(node.inputs, names[name].inputs, strict=False)):  # fmt: skip
            found.add(name)
            moved.update(str(value.name) for value in node.outputs)
    return found


def _sum_of(node: ir.Node, order: dict[ir.Node, int], names: dict[str, ir.Node]) -> str:
    """Return the sum right behind a layer that adds its output to a stream; empty where there is none."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or edit.op_of(uses[0][0]) != "Add" or order[uses[0][0]] != order[node] + 1:
        return ""
    total = edit.output_name(uses[0][0])
    there = names.get(total)
    varying = there is not None and all(edit.constant(value) is None for value in there.inputs)
    return total if varying else ""
