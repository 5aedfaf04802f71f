"""What XNNPACK runs with sparse kernels: 1x1 convolutions, in networks of few operators, between two ends.

TensorFlow's toolkit has the same as ``PruneForLatencyOnXNNPack``; the conditions are those of XNNPACK's delegate in
TensorFlow Lite and of Elsen et al., "Fast Sparse ConvNets", arXiv:1911.09723.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from onnxcompress.contract import Refusal
from onnxcompress.graph import edit
from onnxcompress.graph.layer import Layer
from onnxcompress.graph.weights import Weight
from onnxcompress.graph.windows import pads_of

from ..masks.masks import Keep

START = "a 3x3 convolution of stride 2 over 3 channels, padded by 1, not dilated"
POINTWISE = "1x1, of stride 1, neither grouped nor padded"
ENDS = ("GlobalAveragePool", "DepthToSpace")
FEWEST_ZEROS = 2 / 3
"""With fewer zeros in its 1x1 convolutions XNNPACK runs the model dense."""

QUALIFIES = "XNNPACK can run the model sparse, from its first convolution to the global pooling"

CLIPS = ((0.0, 6.0), (-1.0, 1.0), (0.0, np.inf))
ELEMENTWISE = ("Abs", "Ceil", "Elu", "Floor", "HardSwish", "LeakyRelu", "Neg", "Relu", "Round", "Sigmoid")
FOLDED = ("BatchNormalization", "Dropout", "Identity", "Pad")
"""What a converter makes part of a convolution, or drops."""


def why_weight_not(weight: Weight) -> str:
    """Say why XNNPACK has no sparse kernel for a weight; empty when it has."""
    node = weight.node
    if edit.op_of(node) != "Conv" or weight.axis < 0:
        what = f"a weight of {edit.op_of(node)}"
    elif _is_pointwise(node):
        return ""
    else:
        what = _described(node)
    return f"XNNPACK's sparse kernels compute convolutions that are {POINTWISE}; this is {what}"


def _described(node: ir.Node) -> str:
    kernel, stride = ("x".join(map(str, sizes)) for sizes in (_kernel(node)[2:] or "?", _strides(node)))
    return f"{kernel}, of stride {stride}, in {Layer(node).groups} groups, padded by {_padding(node)}"


def why_model_not(model: ir.Model, keeps: Mapping[str, Keep]) -> list[Refusal]:
    """Say what keeps XNNPACK from running a model sparse once it is masked; nothing when it can."""
    starts, reasons = _starts(model.graph)
    ends, open_ends = _ends(model.graph)
    reasons += open_ends
    reasons += [] if reasons else _between(starts, ends)
    return reasons or _too_dense(model.graph, keeps)


def _starts(graph: ir.Graph) -> tuple[list[ir.Node], list[Refusal]]:
    """Follow each input to the first convolution of every branch, where sparse inference has to begin."""
    found, wrong = _follow(_consumers(list(graph.inputs)), lambda node: edit.op_of(node) == "Conv", _next)
    reasons = [
        _dense(edit.label(n), f"it begins at {START}; this is {_described(n)}") for n in found if not _is_start(n)
    ]
    reasons += [_dense(edit.label(n), f"no convolution comes before it, and it begins at {START}") for n in wrong]
    return found, reasons or ([] if found else [_dense("model", f"it begins at {START}; there is no convolution")])


def _ends(graph: ir.Graph) -> tuple[list[ir.Node], list[Refusal]]:
    """Follow each output back to the pooling where sparse inference ends."""
    producers = [node for value in graph.outputs if (node := value.producer()) is not None]
    found, wrong = _follow(producers, lambda node: _is_end(node) or edit.op_of(node) == "Shape", _previous)
    return found, [_dense(edit.label(n), "no global average pooling comes behind it, and it ends there") for n in wrong]


def _between(starts: list[ir.Node], ends: list[ir.Node]) -> list[Refusal]:
    last = set(ends)
    bad: list[ir.Node] = []

    def stop(node: ir.Node) -> bool:
        if node not in last and not _is_supported(node):
            bad.append(node)
        return node in last

    _follow(_consumers([value for node in starts for value in node.outputs]), stop, _next)
    return [_dense(edit.label(node), "it has no kernel that works beside the sparse ones") for node in bad]


def _too_dense(graph: ir.Graph, keeps: Mapping[str, Keep]) -> list[Refusal]:
    zeros = total = 0
    for node in graph:
        if edit.op_of(node) == "Conv" and _is_pointwise(node):
            layer = Layer(node)
            stays = layer.stored != 0
            zeros += stays.size - int((stays & keeps.get(str(layer.value.name), stays)).sum())
            total += stays.size
    if not total:
        return [_dense("model", f"none of its convolutions is {POINTWISE}")]
    if zeros < FEWEST_ZEROS * total:
        return [
            _dense("model", f"2/3 of its 1x1 convolutions' weights must be zeros, and {zeros / total:.1%} would be")
        ]
    return []


def _dense(subject: str, reason: str) -> Refusal:
    return Refusal(subject, f"XNNPACK would not run the model sparse: {reason}")


def _follow(
    first: list[ir.Node], stop: Callable[[ir.Node], bool], onward: Callable[[ir.Node], list[ir.Node]]
) -> tuple[list[ir.Node], list[ir.Node]]:
    """Walk until `stop`; returns the nodes where it did, and those where there was no way on before."""
    queue, met = list(first), set(first)
    stopped, lost = [], []
    for node in queue:
        if stop(node):
            stopped.append(node)
            continue
        following = onward(node)
        if not following:
            lost.append(node)
        for other in following:
            if other not in met:
                met.add(other)
                queue.append(other)
    return stopped, lost


def _consumers(values: list[ir.Value]) -> list[ir.Node]:
    """Return what reads the values themselves and not only their shapes."""
    return list(dict.fromkeys(n for value in values for n in value.consumers() if edit.op_of(n) != "Shape"))


def _next(node: ir.Node) -> list[ir.Node]:
    return _consumers(list(node.outputs))


def _previous(node: ir.Node) -> list[ir.Node]:
    """Return what computes a node's data; constants, moved or not, are none."""
    made = [value.producer() for value in node.inputs if value is not None and edit.constant(value) is None]
    return list(dict.fromkeys(other for other in made if other is not None))


def _kernel(node: ir.Node) -> tuple[int, ...]:
    """Return a convolution's weight shape: outputs, inputs of each group, height, width; empty where it is computed."""
    layer = Layer(node)
    return layer.shape if edit.constant(layer.value) is not None else ()


def _strides(node: ir.Node) -> tuple[int, ...]:
    return edit.ints_attribute(node, "strides") or (1, 1)


def _dilated(node: ir.Node) -> bool:
    return any(d != 1 for d in edit.ints_attribute(node, "dilations") or ())


def _padding(node: ir.Node) -> tuple[int, ...]:
    """Return the padding of a convolution and of a Pad before it, as (top, left, bottom, right)."""
    pads = tuple(pads_of(node, None, _kernel(node)[2:]) or (0, 0, 0, 0))
    before = node.inputs[0].producer() if node.inputs[0] is not None else None
    if before is None or edit.op_of(before) != "Pad":
        return pads
    tensor = edit.constant(before.inputs[1]) if len(before.inputs) > 1 else None
    given = () if tensor is None else tuple(tensor.numpy().tolist())
    if len(given) != 8 or any(given[i] for i in (0, 1, 4, 5)):
        return ()
    return tuple(a + b for a, b in zip(pads, (*given[2:4], *given[6:8]), strict=True))


def _is_pointwise(node: ir.Node) -> bool:
    return (
        Layer(node).groups == 1
        and _kernel(node)[2:] == (1, 1)
        and _strides(node) == (1, 1)
        and not _dilated(node)
        and _padding(node) == (0, 0, 0, 0)
    )


def _is_start(node: ir.Node) -> bool:
    return (
        _kernel(node)[1:] == (3, 3, 3)
        and Layer(node).groups == 1
        and _strides(node) == (2, 2)
        and not _dilated(node)
        and _padding(node) == (1, 1, 1, 1)
    )


def _is_depthwise(node: ir.Node) -> bool:
    """Tell whether a convolution works on each channel alone, 3x3 or 5x5, padded by half its kernel."""
    outputs, inputs, *kernel = _kernel(node) or (0, 0)
    return (
        inputs == 1
        and Layer(node).groups == outputs
        and kernel in ([3, 3], [5, 5])
        and _strides(node) in ((1, 1), (2, 2))
        and not _dilated(node)
        and _padding(node) == (kernel[0] // 2,) * 4
    )


def _is_end(node: ir.Node) -> bool:
    return edit.op_of(node) in ENDS or (edit.op_of(node) == "ReduceMean" and _is_spatial_mean(node))


def _is_spatial_mean(node: ir.Node) -> bool:
    given = edit.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    axes = edit.ints_attribute(node, "axes") if given is None else tuple(given.numpy().ravel().tolist())
    return sorted(axis % 4 for axis in axes or ()) == [2, 3]


def _is_supported(node: ir.Node) -> bool:
    op = edit.op_of(node)
    return op in (*ELEMENTWISE, *FOLDED, *ENDS) or (op in SOMETIMES and SOMETIMES[op](node))


def _scalar_or_by_channel(node: ir.Node) -> bool:
    """Tell whether an arithmetic node has a constant that is one number, or one for each channel, or none at all."""
    for value in node.inputs:
        tensor = edit.constant(value)
        shape = () if tensor is None else tuple(tensor.shape.numpy())
        if any(extent != 1 for axis, extent in enumerate(shape) if axis != len(shape) - 3):
            return False
    return True


def _is_known_clip(node: ir.Node) -> bool:
    limits = []
    for index, (name, default) in enumerate((("min", -np.inf), ("max", np.inf)), 1):
        value = node.inputs[index] if index < len(node.inputs) else None
        tensor = edit.constant(value)
        if value is not None and tensor is None:
            return False
        limits.append(node.attributes.get_float(name, default) if tensor is None else float(tensor.numpy().item()))
    return tuple(limits) in CLIPS


def _is_bilinear(node: ir.Node) -> bool:
    return "mode" in node.attributes and node.attributes["mode"].as_string() == "linear"


SOMETIMES: dict[str, Callable[[ir.Node], bool]] = {
    "Add": _scalar_or_by_channel,
    "Clip": _is_known_clip,
    "Conv": lambda node: _is_pointwise(node) or _is_depthwise(node),
    "Mul": _scalar_or_by_channel,
    "ReduceMean": _is_spatial_mean,
    "Resize": _is_bilinear,
    "Sub": _scalar_or_by_channel,
}
"""Operators that are supported where this holds."""
