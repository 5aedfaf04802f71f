"""Where a group's channels can be watched: the activations that operators read or that an activation function makes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxcompress.channels.groups import Group, Groups, Member
from onnxcompress.graph import edit

TensorAxis = tuple[str, int]
"""A tensor's name and one of its axes."""

ZEROING = {"Clip", "HardSwish", "Relu", "Shrink", "ThresholdedRelu"}
"""Activation functions that make zeros."""


def tensor_axis(member: Member) -> TensorAxis:
    """Return how statistics call a member."""
    return str(member.value.name), member.axis


def read_members(groups: Groups, group: Group) -> list[Member]:
    """Return the activations that operators sum over along the group's channels."""
    return [m for m in group.members if (m.value, m.axis) in groups.summed_data]


def activated_members(groups: Groups, group: Group) -> list[Member]:
    """Return what activation functions that make zeros return; where there are none, what operators read."""
    producers = [(m, m.value.producer()) for m in group.members if m.role == "activation"]
    found = [m for m, node in producers if node is not None and edit.op_of(node) in ZEROING]
    return found or read_members(groups, group)


def by_channel(member: Member, values: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
    """Average values, one for each position of a member's axis, over the positions of each channel."""
    positions, where = member.places
    return np.bincount(where, values[positions], size) / np.maximum(np.bincount(where, minlength=size), 1)


def places_of(index: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Return for each channel the positions at which it stands, as (size, most), filled up with -1.

    >>> places_of(np.array([1, 0, -1, 1]), 2).tolist()
    [[1, -1], [0, 3]]
    """
    positions = np.flatnonzero(index >= 0)
    channels = index[positions]
    order = np.argsort(channels, kind="stable")
    counts = np.bincount(channels, minlength=size)
    nth = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    places = np.full((size, int(counts.max(initial=1))), -1)
    places[channels[order], nth] = positions[order]
    return places
