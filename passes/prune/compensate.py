"""Make up for removed channels in closed form: what reads them learns to do with the ones that stay."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import scipy.linalg

from onnxcompress.channels.groups import Groups
from onnxcompress.channels.remove import labels_of
from onnxcompress.contract import Refusal
from onnxcompress.errors import PassError
from onnxcompress.graph import edit
from onnxcompress.progress import Progress, silent
from onnxcompress.runtime.gram import Moments, gram_of, rows_of, with_one
from onnxcompress.runtime.samples import Samples
from onnxcompress.runtime.segments import Walk

from .consumers import Consumer, consumer_of, patches
from .masks import ChannelPlan, apply_channels

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float64]

RECOVERY_SAMPLES = 512
"""How many samples are looked at; a convolution makes many rows of each."""

RIDGE = 1e-5
"""Added to the diagonal of a Gram matrix, relative to its mean."""


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

    A convolution gets the weights and the bias that make its outputs on the pruned model, whose earlier layers have
    been fitted already, nearest to its outputs in the original one (least squares). So each layer also corrects what
    the layers before it did to its input.

    For other operators, let x be the channels that they read in the original model and z those that are left of them
    in the pruned one. The matrix M that makes ``E|x - M [z; 1]|²`` smallest is found, and the weights W are replaced
    by W M, the last column going into the bias; for Gemm and MatMul that is the same thing. A transposed convolution,
    and a convolution with too many weights for one matrix, are mixed so too, alike at each position of the kernel.

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

    The fit starts from "nothing changes", so that a ridge draws towards the pruned weights and not towards zero.
    Where a kernel is mixed under padding, borders read zeros where M has a constant; the bias then is right on
    average over the output, not at each border position.
    """
    gone = groups.table(labels_of(groups, channels))
    samples = samples.head(RECOVERY_SAMPLES)
    pruned = model.clone()
    apply_channels(pruned, ChannelPlan(channels=dict(channels)))
    consumers, refused = _consumers(groups, gone)
    result = Compensation({}, {}, ())
    with tempfile.TemporaryDirectory(prefix="onnxcompress-") as folder:
        for name in ("model", "pruned"):
            Path(folder, name).mkdir()
        before, after = Walk(model, samples, Path(folder, "model")), Walk(pruned, samples, Path(folder, "pruned"))
        for done, consumer in enumerate(consumers):
            try:
                _fit(consumer, before, after, result)
            except PassError as error:
                refused.append(Refusal(edit.label(consumer.node), str(error)))
            progress("compensate", done + 1, len(consumers))
    return dataclasses.replace(result, refused=tuple(refused))


def _consumers(groups: Groups, gone: npt.NDArray[np.bool_]) -> tuple[list[Consumer], list[Refusal]]:
    """Return what reads channels that go, in the order of the graph, and what cannot be fitted."""
    order = {node: number for number, node in enumerate(groups.engine.model.graph)}
    found, refused = [], []
    for sink in sorted(groups.sinks, key=lambda s: order[s.node]):
        removed = groups.removed(sink.rows, gone)
        if not removed.any():
            continue
        consumer = consumer_of(groups, sink, removed, gone)
        if isinstance(consumer, Consumer):
            found.append(consumer)
        else:
            refused.append(Refusal(edit.label(sink.node), f"not compensated: {consumer}"))
    return found, refused


def _fit(consumer: Consumer, before: Walk, after: Walk, result: Compensation) -> None:
    """Fit one operator, and change it in the pruned model, which the following ones are fitted to."""
    name = edit.output_name(consumer.node)
    after.advance(name)
    node = next(n for n in after.model.graph if edit.output_name(n) == name)
    data, weight = node.inputs[0], node.inputs[1]
    assert data is not None and weight is not None
    if not after.has(str(data.name)):
        raise PassError("not compensated: what it reads is constant")
    kept = np.flatnonzero(~consumer.removed)
    if consumer.refittable(len(kept)):
        before.advance(name, behind=True)
        pairs = _patch_pairs(consumer, before.fetch(name), after.fetch(str(data.name)), kept)
    else:
        before.advance(name)
        pairs = _channel_pairs(consumer, before.fetch(str(consumer.data.name)), after.fetch(str(data.name)), kept)
    new, addition = _solved(consumer, kept, gram_of(pairs, str(data.name)))
    written = consumer.masked(new).astype(consumer.dtype if consumer.dtype.itemsize >= 4 else np.float32)
    result.weights[str(consumer.value.name)] = written
    edit.set_constant(weight, written.astype(consumer.dtype))
    if consumer.biased:
        result.biases[name] = np.where(consumer.silent, 0, addition)
        edit.add_to_output(after.model.graph, name, result.biases[name])


def _channel_pairs(
    consumer: Consumer, before: Iterator[Array], after: Iterator[Array], kept: Indices
) -> Iterator[tuple[Array, Array]]:
    """Yield rows of [channels that are left; 1] and of the original's channels, at the same positions."""
    for original, pruned in zip(before, after, strict=True):
        yield with_one(rows_of(pruned, consumer.axis)[:, kept]), rows_of(original, consumer.axis)


def _patch_pairs(
    consumer: Consumer, before: Iterator[Array], after: Iterator[Array], kept: Indices
) -> Iterator[tuple[Array, Array]]:
    """Yield rows of [what a convolution's kernel covers; 1] and of its outputs in the original model."""
    for original, pruned in zip(before, after, strict=True):
        yield with_one(patches(consumer.node, pruned[:, kept], consumer.kernel)), rows_of(original, 1)


def _solved(consumer: Consumer, kept: Indices, moments: Moments) -> tuple[Matrix, Matrix]:
    """Return the new weights of an operator, and what its output channels gain."""
    weight, addition = np.zeros_like(consumer.weight), np.zeros(consumer.outputs)
    refit = consumer.refittable(len(kept))
    taps = math.prod(consumer.kernel) if refit else 1
    for part in consumer.parts():
        inside = np.flatnonzero((kept >= part.data.start) & (kept < part.data.stop))
        if not len(inside):
            continue
        columns = (inside[:, None] * taps + np.arange(taps)).ravel()
        columns = np.append(columns, len(kept) * taps) if consumer.biased else columns
        own, local = moments.own[np.ix_(columns, columns)], kept[inside] - part.data.start
        if refit:
            start = consumer.unrolled(part, local)[:, : len(columns)]
            found = _solve(own, moments.cross[part.output][:, columns], start, moments.count, len(inside) * taps)
            weight[part.weight], addition[part.output] = consumer.rolled(part, local, found)
        else:
            start = np.zeros((part.data.stop - part.data.start, len(columns)))
            start[local, np.arange(len(inside))] = 1
            found = _solve(own, moments.cross[part.data][:, columns], start, moments.count, len(inside))
            found = found if consumer.biased else np.pad(found, ((0, 0), (0, 1)))
            weight[part.weight], addition[part.output] = consumer.mixed(part, local, found)
    return weight, addition


def _solve(own: Matrix, cross: Matrix, start: Matrix, count: int, weighted: int) -> Matrix:
    """Return the S near `start` with the smallest ``|y - S x|²``, where ``own = Σ x xᵀ`` and ``cross = Σ y xᵀ``.

    The ridge is on the first `weighted` columns, not on the one of ones.

    Raises
    ------
    PassError
        There are fewer rows than unknowns, or the normal equations have no solution.
    """
    if count < len(own):
        raise PassError(f"not compensated: {count} rows of samples for {len(own)} unknowns; give more samples")
    ridge = np.zeros(len(own))
    ridge[:weighted] = RIDGE * np.diag(own)[:weighted].mean()
    try:
        factor = scipy.linalg.cho_factor(own + np.diag(ridge))
    except scipy.linalg.LinAlgError:
        raise PassError("not compensated: what it reads is the same for every sample") from None
    return np.asarray(start + scipy.linalg.cho_solve(factor, (cross - start @ own).T).T, np.float64)
