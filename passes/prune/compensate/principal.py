"""Turn residual streams to their principal axes, so that the channels that go are those with least in them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.channels.groups import Group, find_groups
from onnxcompress.channels.rotation import find_streams, rotate
from onnxcompress.machines.workers import Workers
from onnxcompress.progress import Progress, silent
from onnxcompress.samples.samples import Samples
from onnxcompress.statistics.gram import Moments, collect_grams

from .least_squares import RECOVERY_SAMPLES

Matrix = npt.NDArray[np.float64]
Rotations = dict[str, npt.NDArray[np.float32]]


def principal_axes(
    model: ir.Model,
    among: Collection[str],
    samples: Samples,
    *,
    progress: Progress = silent,
    workers: Workers | None = None,
) -> Rotations:
    """Return a rotation for each stream that can be turned: its channels then are its principal axes, largest first.

    What counts is what the readers read, each normalised tensor as much as every other.

    Parameters
    ----------
    model : onnx_ir.Model
        Not changed.
    among : collection of str
        Names of the groups that may be turned.
    samples : Samples
        The first 512 are used; no labels are needed.
    progress : callable
        Called as ``progress(what, done, total)``.
    workers : Workers, optional
        Who goes through the samples; this process by default.

    Returns
    -------
    dict of str to (size, size) float32 array
        Group's name → orthogonal matrix, as `onnxcompress.channels.rotation.rotate` takes it.

    Notes
    -----
    Ashkboos et al., SliceGPT, arXiv:2401.15024, with one rotation for a whole stream, so that nothing is computed on
    the way from block to block.
    """
    plain = model.clone()
    streams = {name: s for name, s in find_streams(find_groups(plain)).items() if name in among}
    for stream in streams.values():  # scales go into the readers: what they read then is the normalised stream
        list(rotate(stream))
    reads = [read for stream in streams.values() for read in stream.read.values()]
    few = samples.head(RECOVERY_SAMPLES)
    grams = collect_grams(plain, few, reads, progress=progress, workers=workers)
    return {
        name: _axes(stream.group, {value: grams[read] for value, read in stream.read.items()})
        for name, stream in streams.items()
    }


def _axes(group: Group, grams: Mapping[ir.Value, Moments]) -> npt.NDArray[np.float32]:
    index = {member.value: member.index for member in group.members if member.role == "activation"}
    total = np.zeros((group.size, group.size))
    for value, moments in grams.items():
        square, at = moments.own[:-1, :-1], index[value]
        total[np.ix_(at, at)] += square / (np.trace(square) or 1.0)
    vectors = np.linalg.eigh(total)[1][:, ::-1]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], 0)
    return np.asarray(vectors * np.where(largest < 0, -1, 1), np.float32)
