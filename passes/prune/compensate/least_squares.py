"""Make up for removed channels in closed form: what reads them learns to do with the ones that stay.

An operator gets the weights and the bias that make its outputs on the pruned model, whose earlier layers have been
fitted already, nearest to its outputs in the original one (least squares). So each layer also corrects what the
layers before it did to its input.

For a transposed convolution, and for one with too many weights for one matrix, let x be the channels that it reads in
the original model and z those that are left of them in the pruned one. The matrix M that makes ``E|x - M [z; 1]|²``
smallest is found, and the weights W are replaced by W M, alike at each position of the kernel, the last column going
into the bias. Under padding, borders read zeros where M has a constant; the bias then is right on average over the
output, not at each border position.

The fit starts from "nothing changes", so that a ridge draws towards the pruned weights and not towards zero. One
sample in four is held out and decides how strong it is, or that nothing is changed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.channels.groups import Groups
from onnxcompress.channels.removal import labels_of
from onnxcompress.contract import Refusal
from onnxcompress.errors import PassError
from onnxcompress.graph import edit
from onnxcompress.graph.bias import add_to_outputs
from onnxcompress.graph.layer import Layer
from onnxcompress.progress import Progress, silent
from onnxcompress.samples.samples import Samples
from onnxcompress.scratch import temporary_folder
from onnxcompress.statistics.gram import ROWS, Moments, grams_of, with_one
from onnxcompress.statistics.linear_fit import fit_near
from onnxcompress.statistics.rows import Rows, held_out
from onnxcompress.statistics.segments import SegmentedRun

from ..masks.masks import ChannelPlan, apply_channels
from .consumers import Consumer, consumer_of

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float64]

RECOVERY_SAMPLES = 512
"""How many samples are looked at; a convolution makes many rows of each."""

ROWS_FOR_UNKNOWN = 16
"""A convolution is fitted to at least `ROWS` rows, and to so many for each unknown, if there are as many."""

FEWEST = 2
"""Unknowns that may stand against one row."""


@dataclasses.dataclass(frozen=True)
class Compensation:
    """New weights, additions to outputs, and what was left as it is.

    Attributes
    ----------
    weights : dict
        Constant's name → its values after the channels are zeroed.
    biases : dict
        Name of a node's first output → what to add to each of its output channels.
    refused : tuple of Refusal
    """

    weights: dict[str, npt.NDArray[Any]]
    biases: dict[str, Matrix]
    refused: tuple[Refusal, ...]


def compensate(
    model: ir.Model,
    groups: Groups,
    channels: Mapping[str, list[int]],
    samples: Samples,
    *,
    progress: Progress = silent,
) -> Compensation:
    """Fit what reads removed channels to the channels that stay, layer after layer.

    Parameters
    ----------
    model : onnx_ir.Model
        The model as it is before pruning; not changed.
    groups : Groups
        Of that model.
    channels : mapping
        Group's name → channels that become zero.
    samples : Samples
        The first 512 are used; no labels are needed.
    progress : callable
        Called as ``progress(what, done, total)``.

    Returns
    -------
    Compensation

    Raises
    ------
    DataError
        A tensor holds NaN or infinity.

    Notes
    -----
    Least squares after channel pruning: He et al., arXiv:1707.06168; on the pruned model's own inputs: Luo et al.,
    ThiNet, arXiv:1707.06342; in one step with what is removed: Hassibi and Stork, Optimal Brain Surgeon (1993), Kurtic
    et al., ZipLM, arXiv:2302.04089. The column of ones is the bias correction of Nagel et al., arXiv:1906.04721.
    """
    gone = groups.table(labels_of(groups, channels))
    samples = samples.head(RECOVERY_SAMPLES)
    pruned = model.clone()
    apply_channels(pruned, ChannelPlan(channels=dict(channels), interface=groups.engine.interface))
    consumers, refused = _consumers(groups, gone)
    result = Compensation({}, {}, ())
    with temporary_folder() as folder:
        for name in ("model", "pruned"):
            (folder / name).mkdir()
        before, after = SegmentedRun(model, samples, folder / "model"), SegmentedRun(pruned, samples, folder / "pruned")
        for done, consumer in enumerate(consumers):
            try:
                fit(consumer, before, after, result)
            except PassError as error:
                refused.append(Refusal(edit.label(consumer.node), str(error)))
            progress("compensate", done + 1, len(consumers))
    return dataclasses.replace(result, refused=tuple(refused))


def _consumers(groups: Groups, gone: npt.NDArray[np.bool_]) -> tuple[list[Consumer], list[Refusal]]:
    """Return what reads channels that go, in the order of the graph, and what cannot be fitted."""
    order = {node: number for number, node in enumerate(groups.engine.model.graph)}
    found, refused = [], []
    for sink in sorted(groups.sinks, key=lambda s: order[s.node]):
        if not groups.removed(sink.rows, gone).any():
            continue
        consumer = consumer_of(groups, sink, gone)
        if isinstance(consumer, Consumer):
            found.append(consumer)
        else:
            refused.append(Refusal(edit.label(sink.node), f"not compensated: {consumer}"))
    return found, refused


def fit(
    consumer: Consumer, before: SegmentedRun, after: SegmentedRun, result: Compensation, *, total: str = ""
) -> None:
    """Fit one operator, and change it in the pruned model, which the following ones are fitted to.

    With `total`, the sum that its output goes into, it is fitted to what is missing in the other term.
    """
    name = edit.output_name(consumer.node)
    after.advance(name)
    node = next(n for n in after.model.graph if edit.output_name(n) == name)
    layer = Layer(node)
    data, weight = layer.data, layer.value
    if not after.has(str(data.name)):
        raise PassError("not compensated: what it reads is constant")
    if total and consumer.fitted_whole:
        before.advance(total, behind=True)
        targets = _missing(before, after, node, total)
    else:
        before.advance(name, behind=consumer.fitted_whole)
        targets = before.fetch(name if consumer.fitted_whole else str(consumer.data.name))
    rows = _Rows(consumer, before.samples)
    pairs = zip(targets, after.fetch(str(data.name)), strict=True)
    blocks, addition = _solved(consumer, *grams_of(map(rows.of, pairs), str(data.name)))
    dtype = consumer.layer.stored.dtype
    written = consumer.masked(blocks).astype(dtype if dtype.itemsize >= 4 else np.float32)
    result.weights[str(weight.name)] = written
    edit.set_constant(weight, written.astype(dtype))
    if consumer.biased:
        result.biases[name] = np.where(consumer.silent, 0, addition)
        add_to_outputs(after.model.graph, {name: result.biases[name]})


def _missing(before: SegmentedRun, after: SegmentedRun, node: ir.Node, total: str) -> Iterator[Array]:
    """Yield what a node would have to give, so that the sum behind it were the original one."""
    (add, _), *_ = node.outputs[0].uses()
    stream = next(value for value in add.inputs if value is not None and value is not node.outputs[0])
    for wanted, there in zip(before.fetch(total), after.fetch(str(stream.name)), strict=True):
        yield wanted - there


class _Rows:
    """Makes rows of what an operator reads in the pruned model and of what it shall be nearest to in the original one.

    A convolution makes far more rows than are needed; of each sample some positions are drawn, by its number.
    """

    def __init__(self, consumer: Consumer, samples: int) -> None:
        unknowns = len(consumer.kept) * (math.prod(consumer.layer.kernel) if consumer.fitted_whole else 1)
        each = -(-max(ROWS, ROWS_FOR_UNKNOWN * unknowns) // max(samples, 1))
        self._rows = Rows(consumer.layer, each if consumer.layer.is_convolution else None)
        self._consumer = consumer
        self._seen = 0

    def of(self, pair: tuple[Array, Array]) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
        """Return (groups, rows, unknowns), (groups, rows, targets), and which rows are held out."""
        consumer, first, count = self._consumer, self._seen, len(pair[0])
        self._seen += count
        kept = np.flatnonzero(~consumer.removed)
        original, pruned = pair[0], np.take(pair[1], kept, consumer.axis)
        read = self._rows.inputs if consumer.fitted_whole else self._rows.outputs
        x = read(pruned, first, groups=len(consumer.alive))
        y = self._rows.outputs(original, first)[consumer.alive]
        return with_one(x) if consumer.biased else x, y, np.repeat(held_out(first, count), x.shape[1] // count)


def _solved(consumer: Consumer, fitted: Moments, held: Moments) -> tuple[Matrix, Matrix]:
    """Return the new weights of an operator as blocks, and what its output channels gain.

    Raises
    ------
    PassError
        There are too few rows for so many unknowns, or no fit is better on samples held out.
    """
    count, unknowns = fitted.count + held.count, fitted.own.shape[-1]
    if not held.count or FEWEST * count < unknowns:
        raise PassError(f"not compensated: {count} rows of samples for {unknowns} unknowns; give more samples")
    blocks, kept = consumer.blocks(), consumer.kept
    new, addition = np.zeros_like(blocks), np.zeros((consumer.groups, blocks.shape[1]))
    bias, whole = consumer.bias(), consumer.fitted_whole
    if not whole and _has_mask(blocks[consumer.alive][:, :, kept]):
        raise PassError("not compensated: its zeros are a mask, which mixing its input channels would fill")
    starts = np.stack([_start(consumer, blocks[group], bias[group]) for group in consumer.alive])
    fits = fit_near(fitted, held, starts, weighted=starts.shape[2] - consumer.biased, keep_zeros=whole)
    for start, fit, group in zip(starts, fits, consumer.alive, strict=True):
        block, constant = blocks[group], np.zeros(len(start))
        if consumer.biased:
            fit, constant = fit[:, :-1], fit[:, -1] - start[:, -1]
        if whole:
            new[group][:, kept], addition[group] = fit.reshape(block[:, kept].shape), constant
        else:
            new[group][:, kept] = np.einsum("oit,ik->okt", block, fit)
            addition[group] = np.einsum("oit,i,t->o", block, constant, consumer.coverage.ravel())
    if np.array_equal(fits, starts):
        raise PassError(f"not compensated: no fit to {fitted.count} rows does better on samples held out")
    return new, addition.ravel()


def _has_mask(blocks: Matrix) -> bool:
    """Tell whether there are zeros, beside output and input channels that are zero as a whole."""
    zero = blocks == 0
    whole = zero.all((0, 1, 3), keepdims=True) | zero.all((2, 3), keepdims=True)
    return bool((zero & ~whole).any())


def _start(consumer: Consumer, block: Matrix, bias: Matrix) -> Matrix:
    """Return what one group does so far: its weights, or that it mixes nothing; then a column for the constant."""
    kept = consumer.kept
    start = block[:, kept].reshape(len(block), -1) if consumer.fitted_whole else np.eye(block.shape[1])[:, kept]
    constant = bias if consumer.fitted_whole else np.zeros(len(start))
    return np.append(start, constant[:, None], 1) if consumer.biased else start
