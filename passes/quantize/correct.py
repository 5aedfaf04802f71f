"""Round weights and set biases so that each layer, on its quantized input, gives what it gave in float.

Layers are taken in the order of the graph, each on what the quantized layers before it make of the samples, so that a
layer also corrects what those did to its input. For the rows x that a layer reads there and the rows y that it gave in
float, the weights that make ``Σ|y − W x − b|²`` smallest are found near the ones that it has; they are rounded one
column after another, each column's rounding error being made up for by the columns behind it; and the bias takes the
mean of what is left. One sample in four is held out, and decides for each layer whether its weights are fitted and
rounded so, only rounded so, or rounded to the nearest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from threadpoolctl import threadpool_limits

from onnxcompress.graph import edit
from onnxcompress.progress import Progress, silent
from onnxcompress.runtime.fit import nearest
from onnxcompress.runtime.gram import Flags, Moments, grams_of, with_one
from onnxcompress.runtime.samples import Samples
from onnxcompress.runtime.segments import Code, Walk
from onnxcompress.scratch import temporary_folder

from . import scales
from .apply import Application
from .clusters import is_clustered
from .layers import Layer, held_out
from .plan import QuantizePlan, WeightScale
from .rounding import gptq
from .scheme import Scheme
from .teacher import Targets
from .units import bias_of, channel_axis, weight_of

Rounding = Literal["nearest", "compensating"]
Matrix = npt.NDArray[np.float64]

SAMPLES = 128
"""How many samples are looked at: half of the time that 256 take, for .1 to .3 dB."""


def correct(
    model: ir.Model,
    plan: QuantizePlan,
    samples: Samples,
    *,
    rounding: Rounding = "compensating",
    biases: bool = True,
    progress: Progress = silent,
) -> QuantizePlan:
    """Return the plan with integers and biases of its own for each weight.

    Parameters
    ----------
    model : onnx_ir.Model
        The prepared model in float; not changed.
    plan : QuantizePlan
    samples : Samples
        The first 128 are used.
    rounding : {"nearest", "compensating"}
        Whether the rounding of one weight makes up for that of another.
    biases : bool
        Set the biases so that each output is right on average.
    progress : callable
        Called as ``progress(what, done, total)``.

    Raises
    ------
    DataError
        A tensor holds NaN or infinity.

    Notes
    -----
    Bias correction: Nagel et al. 2019, arXiv:1906.04721, section 4.2, by measurement. Error-compensating rounding:
    Frantar et al. 2022, arXiv:2210.17323 (GPTQ), with the covariance of the input in place of its second moments, as
    the bias takes the mean; fitting to the float model's output first: arXiv:2504.02692 (GPTAQ) does it column-wise.
    """
    samples = samples.head(SAMPLES).gathered()
    nodes = {edit.output_name(node): node for node in model.graph}
    # Where a walk cannot stop, inside an If or a Loop, weights are rounded to the nearest.
    outer = [_with_bias(nodes[w.node], w, plan) for w in plan.weights if w.node in nodes]
    plan = dataclasses.replace(plan, weights=(*outer, *(w for w in plan.weights if w.node not in nodes)))
    quantized = model.clone()
    application = Application(quantized, plan)
    application.run()
    order = {name: number for number, name in enumerate(nodes)}
    chosen = sorted((w for w in outer if _can_be_set(nodes[w.node], w)), key=lambda w: order[w.node])
    found = {weight.node: weight for weight in plan.weights}
    # Matrices are small, and threads of BLAS beside those of onnxruntime wait for each other longer than they compute.
    with temporary_folder() as folder, threadpool_limits(1, "blas"):
        layers = [Layer(nodes[weight.node]) for weight in chosen]
        targets = Targets(model, samples, layers, folder / "float")
        walk = Walk(quantized, samples, folder, targets.batch, exact=plan.exact)
        for done, (weight, layer) in enumerate(zip(chosen, layers, strict=True)):
            behind = nodes.get(plan.bias_nodes.get(weight.node, ""))
            moments = _moments(layer, application.node(weight.node), targets, walk)
            if moments is not None:
                found[weight.node] = _corrected(weight, layer, behind, moments, rounding, plan.scheme, biases=biases)
                application.set_weight(found[weight.node])
            progress("correct", done + 1, len(chosen))
    return dataclasses.replace(plan, weights=tuple(found.values()))


def _with_bias(node: ir.Node, weight: WeightScale, plan: QuantizePlan) -> WeightScale:
    """Give a Conv or Gemm without a bias one, so that it can be corrected."""
    if weight.bias_scale is not None or node.op_type == "MatMul" or node.inputs[0] is None:
        return weight
    if plan.scheme.bias == "float":
        outputs = Layer(node).outputs
        known = bias_of(node, None, outputs) is not None
        return weight if known else dataclasses.replace(weight, bias=np.zeros(outputs, np.float32))
    scale = plan.read(str(node.inputs[0].name), weight.node, 0).scale
    return dataclasses.replace(weight, bias_scale=weight.scale * np.float32(scale))


def _can_be_set(node: ir.Node, weight: WeightScale) -> bool:
    """A weight that other nodes read too cannot suit all of them; one of more than two axes is many."""
    value = node.inputs[weight.input]
    transposed = bool(edit.int_attribute(node, "transA", 0))
    matrix = channel_axis(node, weight_of(node).ndim) is not None
    return matrix and value is not None and len(value.uses()) == 1 and not transposed


def _moments(layer: Layer, quantized: ir.Node, targets: Targets, walk: Walk) -> tuple[Moments, Moments] | None:
    """Return the moments of the rows that are fitted, and of those held out; None where the input is constant."""
    walk.advance(edit.output_name(quantized))
    name = str(quantized.inputs[0].name)  # type: ignore[union-attr]
    if not walk.has(name):
        return None
    code = walk.code(name)
    return grams_of(_rows(layer, walk.fetch(name, decode=False), code, targets, walk.samples), name, np.float32)


def _rows(
    layer: Layer, arrays: Iterator[Matrix], code: Code | None, targets: Targets, samples: int
) -> Iterator[tuple[Matrix, Matrix, Flags]]:
    """Yield what the layer reads, with a one, what it gave in float, and which of the rows are held out."""
    first = 0
    for array, (count, y) in zip(arrays, targets.of(layer), strict=True):
        x = layer.inputs_of(array, first, samples, code)
        yield with_one(x), y, held_out(x.shape[-2], first, count)
        first += count


def _corrected(
    weight: WeightScale,
    layer: Layer,
    behind: ir.Node | None,
    moments: tuple[Moments, Moments],
    rounding: Rounding,
    scheme: Scheme,
    *,
    biases: bool,
) -> WeightScale:
    """Choose the integers of a weight, then the bias, if it has one that may be changed."""
    node, array = layer.node, weight_of(layer.node).astype(np.float64)
    biased = biases and (node.op_type != "MatMul" or behind is not None)
    own = bias_of(node, None, layer.outputs)
    constant = (np.zeros(layer.outputs) if own is None else own).reshape(layer.groups, -1)
    fitted, held = moments if biased else (part.without_constant(constant) for part in moments)
    steps = np.broadcast_to(weight.scale.astype(np.float64), layer.outputs).reshape(layer.groups, -1, 1)
    blocks = layer.blocks(array)
    grid = scheme.weight_grid
    best = scales.encode(blocks / steps, np.ones(1, np.float32), grid, zero_point=grid.middle).astype(np.float64)
    best -= grid.middle
    integers: npt.NDArray[Any] | None = None
    if grid is not scales.FLOAT8:
        if rounding == "compensating" and held.count and not is_clustered(array):
            best = _best_of(best, blocks, steps, grid, fitted, held)
        integers = (layer.whole(best) + grid.middle).astype(grid.dtype)
    if not biased:
        return dataclasses.replace(weight, integers=integers)
    bias = _mean_error(best * steps, fitted, held).ravel()
    if behind is not None:  # the layer's output holds the operator's own bias; what is added behind comes on top
        bias = bias + _added(node, behind, layer.outputs)
    stored = bias.astype(np.float32) if weight.bias_scale is None else scales.encode_bias(bias, weight.bias_scale)
    return dataclasses.replace(weight, integers=integers, bias=stored)


def _best_of(
    nearest_ones: Matrix, blocks: Matrix, steps: Matrix, grid: scales.Grid, fitted: Moments, held: Moments
) -> Matrix:
    """Return the integers that are best on the rows held out."""
    weights = [blocks, *_fitted(blocks, fitted, held)]
    together = np.concatenate(weights, 1)  # they share what takes the time, the factors of the covariance
    several = np.concatenate([steps] * len(weights), 1)
    tried = [nearest_ones, *np.split(_rounded(together, several, grid, fitted), len(weights), 1)]
    return tried[int(np.argmin([_error(integers * steps, fitted, held) for integers in tried]))]


def _added(node: ir.Node, behind: ir.Node, outputs: int) -> Matrix:
    total, own = bias_of(node, behind, outputs), bias_of(node, None, outputs)
    assert total is not None
    return np.asarray(total - (0 if own is None else own), np.float64)


def _rounded(blocks: Matrix, steps: Matrix, grid: scales.Grid, moments: Moments) -> Matrix:
    zero = grid.middle
    return gptq(blocks, steps, grid, moments.covariance(), zero_point=zero).astype(np.float64) - zero


def _fitted(blocks: Matrix, fitted: Moments, held: Moments) -> list[Matrix]:
    """Fit each group's weights, near to what they are; zeros stay. Nothing, if none is better than what it is."""
    columns = blocks.shape[-1]
    start = np.concatenate([blocks, _mean_error(blocks, fitted)[..., None]], -1)
    found = nearest(fitted, held, start, weighted=columns)
    return [] if found is start else [np.where(blocks == 0, 0, found[..., :columns])]


def _mean_error(blocks: Matrix, *rows: Moments) -> Matrix:
    """Return the bias that makes each output right on average: (groups, outputs of each)."""
    sums = sum(part.cross[..., -1] - (blocks @ part.own[..., :-1, -1:])[..., 0] for part in rows if part.count)
    return np.asarray(sums / sum(part.count for part in rows), np.float64)


def _error(blocks: Matrix, fitted: Moments, held: Moments) -> float:
    """Return the error of weights, with the bias that goes with them, on the rows held out."""
    return float(held.errors(np.concatenate([blocks, _mean_error(blocks, fitted)[..., None]], -1)).sum())
