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
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from threadpoolctl import threadpool_limits

from onnxcompress.graph import edit
from onnxcompress.graph.layer import Layer
from onnxcompress.progress import Progress, silent
from onnxcompress.samples.samples import Samples
from onnxcompress.scratch import temporary_folder
from onnxcompress.statistics.rows import held_out
from onnxcompress.statistics.segments import SegmentedRun

from ..shared import scales
from ..shared.clusters import is_clustered
from ..shared.gptq import Factor, gptq
from ..shared.rows import judging, rows_for_rounding
from ..shared.units import layer_of
from ..static.apply import Application
from ..static.plan import QuantizePlan, WeightScale
from ..static.scheme import Scheme
from .float_outputs import FloatOutputs
from .regression import Collector, Means, Regression

Rounding = Literal["nearest", "gptq"]
Matrix = npt.NDArray[np.float64]
Single = npt.NDArray[np.float32]
Values = npt.NDArray[Any]

DAMPING = 0.01
"""What is added to the diagonal of second moments for rounding, relative to its mean."""

RIDGES = (0.1, DAMPING, 1e-3, 1e-4, 1e-5)
"""What is added to it for fitting; tried until a smaller one is no better on the rows held out."""

FEW_COLUMNS = 1024
"""Beyond, to factor the matrix again is what costs most, and weights are fitted with the factor for rounding."""

SAMPLES = 128
"""How many samples are looked at: half of the time that 256 take, for .1 to .3 dB."""


def correct(
    model: ir.Model,
    plan: QuantizePlan,
    samples: Samples,
    *,
    how: Callable[[str], tuple[Rounding, bool]] = lambda _: ("gptq", True),
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
    how : callable
        Node → whether the rounding of one weight makes up for that of another ("nearest" or "gptq"), and whether the
        biases are set so that each output is right on average.
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
    # Where a run cannot stop, inside an If or a Loop, weights are rounded to the nearest.
    wanted = {w.node for w in plan.weights if w.node in nodes and how(w.node) != ("nearest", False)}
    outer = [_with_bias(nodes[w.node], w, plan) for w in plan.weights if w.node in wanted]
    plan = dataclasses.replace(plan, weights=(*outer, *(w for w in plan.weights if w.node not in wanted)))
    order = {name: number for number, name in enumerate(nodes)}
    chosen = sorted((w for w in outer if _can_be_set(nodes[w.node], w)), key=lambda w: order[w.node])
    layers = [layer_of(nodes[weight.node]) for weight in chosen]

    def job(number: int) -> _Job:  # made when it is its turn: it holds the weight as an array
        weight = chosen[number]
        added, (rounding, biases) = plan.bias_nodes.get(weight.node), how(weight.node)
        behind = None if added is None else nodes[added]
        return _Job(weight, layers[number], behind, plan.scheme, rounding, biases=biases)

    found = {weight.node: weight for weight in plan.weights} | _in_order(job, layers, model, plan, samples, progress)
    return dataclasses.replace(plan, weights=tuple(found.values()))


def _in_order(
    jobs: Callable[[int], _Job],
    layers: list[Layer],
    model: ir.Model,
    plan: QuantizePlan,
    samples: Samples,
    progress: Progress,
) -> dict[str, WeightScale]:
    """Set one layer after another, each on what the quantized layers before it give."""
    quantized, found = model.clone(), dict[str, WeightScale]()
    application = Application(quantized, plan)
    application.run()
    # Matrices are small, and threads of BLAS beside those of onnxruntime wait for each other longer than they compute.
    with temporary_folder() as folder, threadpool_limits(1, "blas"):
        float_outputs = FloatOutputs(model, samples, layers, folder / "float")
        segmented = SegmentedRun(quantized, samples, folder, float_outputs.batch, exact=plan.scheme.saturates())
        for number in range(len(layers)):
            job = jobs(number)
            node = application.node(job.weight.node)
            segmented.advance(edit.output_name(node))
            read = node.inputs[0]
            if read is not None and segmented.has(str(read.name)):
                found[job.weight.node] = job.run(float_outputs, segmented, str(read.name))
                application.set_weight(found[job.weight.node])
            progress("correct", number + 1, len(layers))
    return found


def _with_bias(node: ir.Node, weight: WeightScale, plan: QuantizePlan) -> WeightScale:
    """Give a Conv or Gemm without a bias one, so that it can be corrected."""
    layer = layer_of(node)
    if weight.bias_scale is not None or not layer.takes_bias:
        return weight
    if plan.scheme.bias == "float":
        known = layer.bias_value is not None
        return weight if known else dataclasses.replace(weight, bias=np.zeros(layer.outputs, np.float32))
    scale = plan.read(str(layer.data.name), weight.node, 0).scale
    return dataclasses.replace(weight, bias_scale=weight.scale * np.float32(scale))


def _can_be_set(node: ir.Node, weight: WeightScale) -> bool:
    """A weight that other nodes read too cannot suit all of them; one of more than two axes is many."""
    layer, value = layer_of(node), node.inputs[weight.input]
    return not layer.is_stack and value is not None and len(value.uses()) == 1 and not layer.transposes_input


class _Job:
    """Finds the integers of one weight, and the bias that goes with them, if it may be changed."""

    def __init__(
        self,
        weight: WeightScale,
        layer: Layer,
        behind: ir.Node | None,
        scheme: Scheme,
        rounding: Rounding,
        *,
        biases: bool,
    ) -> None:
        self.weight, self.layer, self.behind, self.grid = weight, layer, behind, scheme.weight_grid
        self.array = layer.single_weight
        self.biased = biases and (layer.takes_bias or behind is not None)
        even = self.grid is not scales.FLOAT8
        self.compensating = even and rounding == "gptq" and not is_clustered(self.array)

    def run(self, float_outputs: FloatOutputs, segmented: SegmentedRun, name: str) -> WeightScale:
        """Choose them, by what the layer reads where the run stands (the tensor `name`), and what it gave in float."""
        layer, grid = self.layer, self.grid
        rows = Collector(name, None if self.biased else self._own_bias, moments=self.compensating)
        if not self._collect(rows, float_outputs, segmented, name):
            return self.weight
        blocks = layer.blocks(self.array)
        steps = np.broadcast_to(self.weight.scale.astype(np.float64), layer.outputs).reshape(layer.groups, -1, 1)
        best = scales.encode(blocks / steps, np.ones(1, np.float32), grid, zero_point=grid.middle)
        if self.compensating:
            best = _best_of(best, blocks.astype(np.float32, copy=False), steps, grid, rows)
        integers = None if grid is scales.FLOAT8 else layer.whole(best)
        bias = self._bias((best.astype(np.float64) - grid.middle) * steps, rows.means()) if self.biased else None
        bias = self.weight.bias if bias is None else bias
        return dataclasses.replace(self.weight, integers=integers, bias=bias)

    def _collect(self, rows: Collector, float_outputs: FloatOutputs, segmented: SegmentedRun, name: str) -> bool:
        """Gather rows of both models; tell whether there are any.

        Where how many there are depends on the data, integers may keep others than floats do: such batches say nothing.
        """
        layer, code, first, some = self.layer, segmented.code(name), 0, False
        drawn = rows_for_rounding(layer, segmented.samples)
        for array, (count, y) in zip(segmented.fetch(name, decode=False), float_outputs.of(layer), strict=True):
            if len(array) == count > 0:
                some = True
                x = drawn.inputs(array, first, code)
                rows.add(x, y, held_out(first, count), judging(x.shape[1] // count, layer.columns, segmented.samples))
            first += count
        return some

    @property
    def _own_bias(self) -> Matrix:
        return self.layer.bias.reshape(self.layer.groups, -1)

    def _bias(self, weights: Matrix, means: Means) -> npt.NDArray[Any]:
        """Return the bias, as it is stored, that makes each output right on average."""
        x, y = means
        bias = (y - (weights @ x[..., None])[..., 0]).ravel()
        if self.behind is not None:  # the layer's output holds its own bias; what is added behind comes on top
            bias = bias + self.layer.added_behind(self.behind)
        scale = self.weight.bias_scale
        return bias.astype(np.float32) if scale is None else scales.encode_bias(bias, scale)


def _best_of(nearest_ones: Values, blocks: Single, steps: Matrix, grid: scales.Grid, rows: Collector) -> Values:
    """Return the integers that are best on the rows held out."""
    found = rows.regression()
    if found.held is None:
        return nearest_ones
    right = found.cross - blocks @ found.own
    factor = Factor(found.own, DAMPING)
    if blocks.shape[-1] > FEW_COLUMNS:
        found.drop_own()
    weights = [blocks, *_fitted(blocks, right, factor, found)]
    together, several = np.concatenate(weights, 1), np.concatenate([steps] * len(weights), 1)
    integers = gptq(together, several, grid, factor, zero_point=grid.middle).astype(grid.dtype)
    tried = [nearest_ones, *np.split(integers, len(weights), 1)]
    single = steps.astype(np.float32)
    return tried[int(np.argmin([found.error((each.astype(np.float32) - grid.middle) * single) for each in tried]))]


def _fitted(blocks: Single, right: Single, factor: Factor, rows: Regression) -> list[Single]:
    """Fit each group's weights: as near to what they are as is best for the rows held out; zeros stay."""
    before = rows.residual(blocks)
    best, most = blocks, np.zeros(len(blocks))
    for ridge in RIDGES if blocks.shape[-1] <= FEW_COLUMNS else (DAMPING,):
        step = (factor if ridge == DAMPING else Factor(rows.own, ridge)).divide(right)
        change = before - rows.residual(blocks + step)
        square, product = (np.einsum("gno,gno->g", change, other).astype(np.float64) for other in (change, before))
        length = np.clip(product / np.where(square > 0, square, 1), 0, 1)
        gained = length * (2 * product - length * square)
        better = gained > most
        if not better.any():
            break
        length = length[:, None, None].astype(np.float32)
        best = np.where(better[:, None, None], blocks + length * step, best)
        most = np.where(better, gained, most)
    return [np.where(blocks == 0, 0, best)] if most.any() else []
