"""Remove channels: slice every constant, and rewrite every constant size, index and attribute that counts them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..graph import edit, interface, operators, shapes
from ..graph.layer import Layer, axes_of
from .groups import Groups
from .heads import HEADS, with_heads
from .labels import Rows
from .means import add_lost_squares, centred, reduced_axes
from .norm_widths import rewrite_norm
from .norms import NORMS
from .removal import Removal, labels_of
from .rules import is_zero


def remove(model: ir.Model, groups: Groups, channels: Mapping[str, list[int]]) -> int:
    """Remove channels from a model, in place.

    Parameters
    ----------
    model : onnx_ir.Model
        The model that `groups` was found in.
    groups : Groups
    channels : mapping
        Group name → the channels that go, numbered as in `Group.labels`.

    Returns
    -------
    int
        How many elements of constants went.

    Raises
    ------
    PassError
        A name is no prunable group of this model, or a channel is out of range.
    """
    nodes = list(model.graph)
    read = [v for node in nodes if edit.op_of(node) in NORMS for v in node.inputs[1:] if v is not None]
    arrays = {value: array for value in read if (array := groups.engine.array(value)) is not None}
    removal = Removal(edit.Inserter(model.graph), groups, groups.table(labels_of(groups, channels)), arrays)
    _keep_numbers(removal)
    for node in (
        *(n for n in nodes if edit.op_of(n) not in REPLACING),
        *(n for n in nodes[::-1] if edit.op_of(n) in REPLACING),
    ):
        rewrite = REWRITERS.get(edit.op_of(node))
        if rewrite is not None and node in groups.engine.followed:
            rewrite(removal, node)
    removed = 0
    for value, axes in groups.axes.items():
        tensor = edit.constant(value)
        if tensor is None:
            continue
        kept = {axis: k for axis in range(len(axes)) if (k := removal.kept(value, axis)) is not None}
        if kept:
            array = tensor.numpy()
            for axis, keep in kept.items():
                array = np.compress(keep, array, axis)
            removed += tensor.size - array.size
            edit.set_constant(value, array)
    _narrow(model, removal)
    shapes.forget(model)
    shapes.infer(model)
    return removed


def _narrow(model: ir.Model, removal: Removal) -> None:
    """Say of inputs and outputs what they have lost, in their shapes and in the model's metadata."""
    for value in (*model.graph.inputs, *model.graph.outputs):
        for axis in range(len(value.shape or ())) if edit.constant(value) is None else ():
            kept = removal.kept(value, axis)
            if kept is not None and value.shape is not None:
                dims = list(value.shape)
                dims[axis] = int(kept.sum())
                value.shape = ir.Shape(dims)
                interface.note(model, str(value.name), axis, kept)


def _conv(removal: Removal, node: ir.Node) -> None:
    """Set `group` to what is left of it."""
    layer = Layer(node)
    if layer.groups > 1:
        inside = axes_of(node, layer.index, len(removal.groups.engine.shape(layer.value))).summed
        cut = layer.data if inside else node.outputs[0]  # the weight's second axis runs over one group alone
        layer.set_groups(removal.extent(cut, 1) // removal.extent(layer.value, 1))


def _group_normalization(removal: Removal, node: ir.Node) -> None:
    data = edit.required(node, 0)
    size = removal.groups.engine.shape(data)[1] // edit.int_attribute(node, "num_groups", 1)
    edit.set_attribute(node, "num_groups", removal.extent(data, 1) // size)


def _reduce_mean(removal: Removal, node: ir.Node) -> None:
    """Keep dividing by the old count: channels of zeros counted, and still do."""
    data, out = edit.required(node, 0), node.outputs[0]
    reduced = reduced_axes(removal.groups.engine, node) or set()
    share = 1.0
    for axis in reduced:
        kept = removal.kept(data, axis)
        share *= 1.0 if kept is None else float(kept.mean())
    if share == 1.0:
        return
    dtype = (data.dtype or ir.DataType.FLOAT).numpy()
    factor = removal.insert.constant(f"{edit.output_name(node)}_share", np.array(share, dtype))
    scaled = removal.insert.behind(out, "Mul", factor, shape=out.shape)
    parts = centred(removal.groups.engine, node)
    if parts is not None:
        add_lost_squares(removal.insert, node, parts[1], share, scaled)


def _keep_numbers(removal: Removal) -> None:
    """Fix the numbers that are computed from shapes, such as how many channels a variance divides by."""
    engine = removal.groups.engine
    for node in list(removal.insert.graph):
        source, out = node.inputs[0] if node.inputs else None, node.outputs[0]
        array = engine.constant(out) if edit.op_of(node) == "Cast" else None
        if array is not None and array.dtype.kind == "f" and source in engine.known.moving:
            edit.replace_uses(out, removal.insert.constant(f"{edit.output_name(node)}_kept", array))


REPLACING = (*NORMS, "ReduceMean")
"""These get a new output, which the analysis does not know: they come last, and the last first."""


def _heads(removal: Removal, node: ir.Node) -> None:
    """Set how many heads are left, and how wide packed queries, keys and values are."""
    heads = removal.groups.engine.heads.get(node)

    def left(rows: Rows) -> int:
        return int((~removal.groups.removed(rows, removal.gone)).sum())

    if heads is not None:
        packed = [left(heads.hidden(kind)) for kind in ("queries", "keys", "values")]
        with_heads(heads, left, node, packed if edit.op_of(node) == "com.microsoft::Attention" else ())


def _recurrent(removal: Removal, node: ir.Node) -> None:
    """Set `hidden_size`; a state of zeros is dropped, since its width no longer fits."""
    port = operators.facts(edit.op_of(node)).weights[-1]
    recurrence, inside = edit.required(node, port), axes_of(node, port, 3).summed
    if removal.kept(recurrence, inside) is None:
        return
    edit.set_attribute(node, "hidden_size", removal.extent(recurrence, inside))
    for index in operators.STATES:
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is not None and is_zero(removal.groups.engine, value):
            node.replace_input_with(index, None)


def _target(removal: Removal, node: ir.Node) -> None:
    """Rewrite the sizes that Reshape, Expand or ConstantOfShape ask for; 0, 1 and -1 may mean "as it is"."""
    out, index = node.outputs[0], 0 if node.op_type == "ConstantOfShape" else 1
    attribute = edit.ints_attribute(node, "shape") if len(node.inputs) <= index else None
    engine = removal.groups.engine
    fixed = np.array(attribute) if attribute is not None else removal.parameter(node, index)
    value = node.inputs[index] if attribute is None else None
    target = fixed if fixed is not None or value is None else engine.known.values.get(value)
    follows = value is not None and removal.follows(value)
    old = engine.shape(out)
    if target is None or len(target) > len(old):
        return
    first = len(old) - len(target)
    changed = {
        place: removal.extent(out, first + place)
        for place in range(len(target))
        if (removal.kept(out, first + place) is not None or (follows and not engine.is_free(out, first + place)))
        and int(target[place]) == old[first + place]
    }
    new = np.array([changed.get(place, int(size)) for place, size in enumerate(target)])
    if attribute is not None:
        edit.set_attribute(node, "shape", new.tolist())
    elif changed and fixed is not None:
        removal.set_parameter(node, index, new)
    elif changed:
        removal.set_elements(node, index, changed)


def _split(removal: Removal, node: ir.Node) -> None:
    """Say the sizes: halves need not stay halves."""
    axis = edit.int_attribute(node, "axis", 0)
    if all(removal.kept(value, axis) is None for value in node.outputs):
        return
    sizes = [removal.extent(value, axis) for value in node.outputs]
    if removal.groups.engine.opset < 13:
        edit.set_attribute(node, "split", sizes)
    else:
        node.attributes.pop("num_outputs", None)
        removal.set_parameter(node, 1, np.array(sizes))


def _slice(removal: Removal, node: ir.Node) -> None:
    """Move starts and ends to where the kept positions now stand; what is taken in steps is looked up."""
    data = edit.required(node, 0)
    by_attribute = removal.groups.engine.opset < 10
    read = (
        (lambda i, name: edit.ints_attribute(node, name)) if by_attribute else (lambda i, _: removal.parameter(node, i))
    )
    starts, ends, axes, steps = read(1, "starts"), read(2, "ends"), read(3, "axes"), read(4, "steps")
    if starts is None or ends is None:
        return
    starts, ends, steps = np.array(starts), np.array(ends), np.array(np.ones_like(starts) if steps is None else steps)
    changed = False
    for index, axis in enumerate(range(len(starts)) if axes is None else [int(a) for a in axes]):
        kept = removal.kept(data, axis)
        if kept is None:
            continue
        changed = True
        taken = np.arange(len(kept))[slice(int(starts[index]), int(ends[index]), int(steps[index]))]
        places = (np.cumsum(kept) - 1)[taken[kept[taken]]]
        starts[index] = kept[: taken.min(initial=len(kept))].sum()
        if steps[index] != 1:
            _look_up(removal, node, axis, places)
            starts[index], steps[index] = 0, 1
        ends[index] = starts[index] + len(places)
    if changed and by_attribute:
        edit.set_attribute(node, "starts", starts.tolist())
        edit.set_attribute(node, "ends", ends.tolist())
    elif changed:
        for place, array in ((1, starts), (2, ends), *([(4, steps)] if len(node.inputs) > 4 else [])):
            removal.set_parameter(node, place, array)


def _look_up(removal: Removal, node: ir.Node, axis: int, places: npt.NDArray[np.int64]) -> None:
    """Let a node read these positions of its first input, in this order."""
    data = edit.required(node, 0)
    indices = removal.insert.constant(f"{edit.output_name(node)}_places", places)
    found = removal.insert.node("Gather", [data, indices], attributes={"axis": axis}, before=node, dtype=data.dtype)
    node.replace_input_with(0, found)


def _gather(removal: Removal, node: ir.Node) -> None:
    """Renumber the indices and drop those of removed positions."""
    axis = edit.int_attribute(node, "axis", 0)
    data = edit.required(node, 0)
    kept = removal.kept(data, axis)
    indices = removal.parameter(node, 1)
    if kept is None or indices is None:
        return
    indices %= len(kept)
    first = axis % len(removal.groups.engine.shape(data))
    for place in range(indices.ndim):
        chosen = removal.kept(node.outputs[0], first + place)
        indices = indices if chosen is None else np.compress(chosen, indices, place)
    removal.set_parameter(node, 1, (np.cumsum(kept) - 1)[indices])


def _pad(removal: Removal, node: ir.Node) -> None:
    """Pad by as many channels as are left of those that were added."""
    data, out = edit.required(node, 0), node.outputs[0]
    rank = len(removal.groups.engine.shape(data))
    attribute = edit.ints_attribute(node, "pads")
    pads = np.array(attribute) if attribute is not None else removal.parameter(node, 1)
    if pads is None:
        return
    given = removal.parameter(node, 3)
    axes = list(range(rank)) if given is None else [int(a) % rank for a in given]
    new = pads.copy()
    for index, axis in enumerate(axes):
        kept = removal.kept(out, axis)
        if kept is not None:
            before, after = int(pads[index]), int(pads[index + len(axes)])
            new[index] = kept[:before].sum()
            new[index + len(axes)] = kept[len(kept) - after :].sum()
    if attribute is not None:
        edit.set_attribute(node, "pads", new.tolist())
    elif (new != pads).any():
        removal.set_parameter(node, 1, new)


def _resize(removal: Removal, node: ir.Node) -> None:
    sizes = removal.parameter(node, 3)
    if sizes is not None and len(sizes) == len(removal.groups.engine.shape(node.outputs[0])):
        removal.set_parameter(node, 3, np.array([removal.extent(node.outputs[0], d) for d in range(len(sizes))]))


REWRITERS: dict[str, Callable[[Removal, ir.Node], None]] = {
    **dict.fromkeys(operators.CONVOLUTIONS, _conv),
    **dict.fromkeys(operators.RECURRENT, _recurrent),
    **dict.fromkeys(NORMS, rewrite_norm),
    **dict.fromkeys(HEADS, _heads),
    "com.microsoft::FusedConv": _conv,
    "ConstantOfShape": _target,
    "Expand": _target,
    "Gather": _gather,
    "GroupNormalization": _group_normalization,
    "Pad": _pad,
    "ReduceMean": _reduce_mean,
    "Reshape": _target,
    "Resize": _resize,
    "Slice": _slice,
    "Split": _split,
}
