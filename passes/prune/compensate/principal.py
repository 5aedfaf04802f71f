"""Turn residual streams to their principal axes, so that the channels that go are those with least in them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.channels.groups import Group, find_groups
from onnxcompress.channels.rotation import rotate
from onnxcompress.channels.streams import find_streams
from onnxcompress.contract import Refusal
from onnxcompress.graph import edit
from onnxcompress.machines.workers import Workers
from onnxcompress.progress import Progress, silent
from onnxcompress.samples.samples import Samples
from onnxcompress.statistics.gram import Moments, collect_grams

from .least_squares import RECOVERY_SAMPLES

Matrix = npt.NDArray[np.float64]
Rotations = dict[str, npt.NDArray[np.float32]]

STAYS = "the residual stream is not turned to its principal axes"


def principal_axes(
    model: ir.Model,
    among: Collection[str],
    samples: Samples,
    *,
    progress: Progress = silent,
    workers: Workers | None = None,
) -> tuple[Rotations, list[Refusal]]:
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
    list of Refusal
        Residual streams that stay as they are: the node at fault, and why.

    Notes
    -----
    Ashkboos et al., SliceGPT, arXiv:2401.15024, with one rotation for a whole stream, so that nothing is computed on
    the way from block to block.
    """
    plain = model.clone()
    found = find_groups(plain)
    groups = {group.name: group for group in found.prunable if group.name in among}
    streams, stay = find_streams(found)
    refused = [Refusal(error.subject, f"{STAYS}: {error}") for error in stay if error.stream in groups]
    refused += [
        Refusal(edit.label(stream.mean), f"{STAYS}: it needs the mean over the channels, which they do not keep")
        for stream in streams
        if stream.mean is not None and stream.residual and stream.name in groups
    ]
    streams = [stream for stream in streams if stream.mean is None and stream.read and stream.name in groups]
    for stream in streams:  # factors go into the readers: what they read then is the normalised stream
        rotate(stream)
    reads = [read for stream in streams for read in stream.read.values()]
    few = samples.head(RECOVERY_SAMPLES)
    grams = collect_grams(plain, few, reads, progress=progress, workers=workers) if reads else {}
    axes = {
        stream.name: _axes(groups[stream.name], {value: grams[read] for value, read in stream.read.items()})
        for stream in streams
    }
    return axes, refused


def _axes(group: Group, grams: Mapping[ir.Value, Moments]) -> npt.NDArray[np.float32]:
    index = {member.value: member.index for member in group.members if member.role == "activation"}
    total = np.zeros((group.size, group.size))
    for value, moments in grams.items():
        square, at = moments.own[:-1, :-1], index[value]
        total[np.ix_(at, at)] += square / (np.trace(square) or 1.0)
    vectors = np.linalg.eigh(total)[1][:, ::-1]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], 0)
    return np.asarray(vectors * np.where(largest < 0, -1, 1), np.float32)
