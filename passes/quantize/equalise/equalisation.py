"""Give the channels of a tensor, which share one scale, ranges that are alike: the function stays what it is."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.contract import Change, Context, Refusal
from onnxcompress.graph import edit
from onnxcompress.graph.layer import Layer

from .absorb import find_relus, sums, surplus
from .axes import Scalable
from .scalable import find_scalable
from .smooth_quant import Measured, choose

Array = npt.NDArray[np.float64]

SAMPLES = 64
"""How many samples the means are taken over; the ranges are over all."""


@dataclasses.dataclass(frozen=True)
class Factor:
    """A constant that is multiplied along an axis.

    Attributes
    ----------
    node : str
        The node that reads it, by its first output.
    input : int
    axis : int
    factors : ndarray of float64
        For each position; along the input channels of a grouped convolution, those of all groups.
    """

    node: str
    input: int
    axis: int
    factors: Array


@dataclasses.dataclass(frozen=True)
class Shift:
    """What is added to the bias of a Conv or Gemm (by its first output), before anything is multiplied."""

    node: str
    values: Array


@dataclasses.dataclass(frozen=True)
class Equalisation:
    """What `equalise` decided.

    Attributes
    ----------
    shifts : tuple of Shift
    factors : tuple of Factor
    refused : tuple of Refusal
        Nodes whose input keeps its scale, and why.
    """

    shifts: tuple[Shift, ...] = ()
    factors: tuple[Factor, ...] = ()
    refused: tuple[Refusal, ...] = ()


def equalise(model: ir.Model, context: Context, *, per_channel: bool = True, noise_share: float = 0.5) -> Equalisation:
    """Choose factors for the channels of tensors, and what is moved from biases that are always high.

    Parameters
    ----------
    model : onnx_ir.Model
        Prepared: constants and affine operators folded, shapes inferred. Not changed.
    context : Context
        For the same model, with samples.
    per_channel : bool
        Whether weights will have one scale for each output channel.
    noise_share : float
        The estimated noise must come down to this share, in the layers that read the channels. The estimate is rough:
        whoever measures what becomes of the model's output can try 0.95.

    Returns
    -------
    Equalisation

    Raises
    ------
    DataError
        There are no samples, or a tensor holds NaN or infinity.

    Notes
    -----
    Nagel et al. 2019, arXiv:1906.04721 (cross-layer equalisation, and absorption of high biases, with the smallest
    value of the samples in place of three standard deviations); Meller et al. 2019, arXiv:1902.01917; Xiao et al.
    2022, arXiv:2211.10438 (SmoothQuant). All three are one thing here: channels that the group engine ties together
    are multiplied in what makes them and divided in what reads them. Through a Clip only as far as the samples show
    that its bounds are not reached.
    """
    shifts, taken = _shifts(model, context)
    shifted = model.clone()
    _shift(shifted, shifts)
    scalable = find_scalable(shifted)
    refused = tuple(Refusal(subject, f"not equalised: {reason}") for subject, reason in scalable.refused.items())
    if scalable.size == 1:
        return Equalisation(shifts, (), refused)
    chosen = choose(scalable, _measure(scalable, context, taken), per_channel=per_channel, noise_share=noise_share)
    return Equalisation(shifts, tuple(factors_of(scalable, chosen)), refused)


def apply_equalisation(model: ir.Model, equalisation: Equalisation) -> list[Change]:
    """Carry out, in place, what `equalise` decided about the same prepared model.

    Constants that other nodes read too are copied first.
    """
    _shift(model, equalisation.shifts)
    nodes = {edit.output_name(node): node for node in model.graph}
    insert = edit.Inserter(model.graph)
    by_constant: dict[tuple[str, int], list[Factor]] = {}
    for factor in equalisation.factors:
        by_constant.setdefault((factor.node, factor.input), []).append(factor)
    for (name, index), factors in by_constant.items():
        _replace(insert, nodes[name], index, factors)
    done = [Change(edit.label(nodes[shift.node]), "a high bias moved behind the Relu") for shift in equalisation.shifts]
    if by_constant:
        done.append(Change("model", f"channels of {len(by_constant)} constants scaled alike"))
    return done


def _shifts(model: ir.Model, context: Context) -> tuple[tuple[Shift, ...], dict[str, Array]]:
    """Return the shifts, and what is taken from the channels of each tensor."""
    relus = find_relus(model)
    before = {node: (str(node.inputs[0].name), 1) for node in relus if node.inputs[0] is not None}
    ranges = context.channel_ranges(list(before.values())) if before else {}
    shifts: dict[str, Array] = {}
    taken: dict[str, Array] = {}
    for node, key in before.items():
        shift = surplus(ranges[key].low, ranges[key].high)
        maker = node.inputs[0].producer() if node.inputs[0] is not None else None
        if maker is None or not shift.any():
            continue
        taken[str(node.outputs[0].name)] = shift
        for reader, values in ((maker, -shift), *((r, sums(r, shift)) for r in relus[node])):
            name = edit.output_name(reader)
            shifts[name] = shifts[name] + values if name in shifts else values
    return tuple(Shift(name, values) for name, values in shifts.items()), taken


def _shift(model: ir.Model, shifts: tuple[Shift, ...]) -> None:
    nodes = {edit.output_name(node): node for node in model.graph}
    insert = edit.Inserter(model.graph)
    for shift in shifts:
        layer = Layer(nodes[shift.node])
        bias = (layer.bias + shift.values).astype(layer.stored.dtype)
        given = layer.bias_value
        named = f"{shift.node}_bias" if given is None else str(given.name)
        layer.set_bias(insert.constant(f"{named}_shifted", bias))


def _measure(scalable: Scalable, context: Context, taken: dict[str, Array]) -> dict[tuple[str, int], Measured]:
    clips = [(str(s.node.inputs[0].name), s.axis) for s, _, _ in scalable.clips if s.node.inputs[0] is not None]
    keys = list(dict.fromkeys([*scalable.tensors, *clips]))
    ranges = context.channel_ranges(keys)
    few = context.given(context.samples.head(SAMPLES))
    squares, shares = (few.channel_means(list(scalable.tensors), moment) for moment in ("square", "nonzero"))
    found = {}
    for key in keys:
        low, high = ranges[key].low, ranges[key].high
        seen = np.isfinite(low) & np.isfinite(high)
        shift = taken.get(key[0], np.zeros(len(low)))
        low, high = np.where(seen, low, 0) - shift, np.where(seen, high, 0) - shift
        square = squares[key] - np.square(shift) if key in squares else np.zeros(len(low))
        found[key] = Measured(np.minimum(low, 0), np.maximum(high, 0), np.maximum(square, 0), shares.get(key, square))
    return found


def factors_of(scalable: Scalable, chosen: Array) -> list[Factor]:
    """Say which constants are multiplied by what, where the factors are `chosen`."""
    found = []
    for places, each in ((scalable.producers, chosen), (scalable.added, chosen), (scalable.consumers, 1 / chosen)):
        for place in places:
            factors = each[place.rows]
            if (factors != 1).any():
                found.append(Factor(edit.output_name(place.node), place.input, place.axis, factors))
    return found


def _replace(insert: edit.Inserter, node: ir.Node, index: int, factors: list[Factor]) -> None:
    old = edit.required(node, index)
    given = edit.array(old)
    array = given.astype(np.float64)
    for factor in factors:
        array = _scaled(array, factor)
    if len(old.uses()) == 1 and not old.is_graph_output():
        edit.set_constant(old, array.astype(given.dtype))
        return
    node.replace_input_with(index, insert.constant(f"{old.name}_equalised", array.astype(given.dtype)))


def _scaled(array: Array, factor: Factor) -> Array:
    size = array.shape[factor.axis]
    if len(factor.factors) != size:  # a grouped convolution's input channels
        groups = len(factor.factors) // size
        each = np.repeat(factor.factors.reshape(groups, size), len(array) // groups, axis=0)
        return array * each.reshape(*each.shape, *(1,) * (array.ndim - 2))
    shape = [1] * array.ndim
    shape[factor.axis] = size
    return array * factor.factors.reshape(shape)
