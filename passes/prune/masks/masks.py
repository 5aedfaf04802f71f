"""Masks: which weights, or which channels of which groups, become zero."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.channels.groups import find_groups
from onnxcompress.channels.removal import labels_of
from onnxcompress.channels.zeroing import makes_divisor_zero, may_be_zero
from onnxcompress.contract import Change, Changes, Plan
from onnxcompress.errors import PassError
from onnxcompress.graph import edit
from onnxcompress.graph.bias import add_to_outputs
from onnxcompress.graph.interface import Interface

from .turning import turn

Keep = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Mask:
    """Which elements of a tensor are kept, one bit each.

    Attributes
    ----------
    shape : tuple of int
    bits : uint8 array
        ``np.packbits`` of the flattened mask, 1 for kept.
    """

    shape: tuple[int, ...]
    bits: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, keep: Keep) -> Mask:
        """Pack a boolean array."""
        return cls(keep.shape, np.packbits(keep))

    def keep(self) -> Keep:
        """Unpack to a boolean array."""
        size = int(np.prod(self.shape))
        return np.unpackbits(self.bits, count=size).reshape(self.shape).astype(bool)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskPlan(Plan):
    """Constant's name → mask."""

    masks: dict[str, Mask] = dataclasses.field(default_factory=dict)

    def parts(self) -> dict[str, MaskPlan]:
        """Return each mask alone."""
        return {name: MaskPlan(masks={name: mask}) for name, mask in self.masks.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChannelPlan(Plan):
    """Which channels become zero, and what makes up for them.

    Attributes
    ----------
    channels : dict
        Group's name → channels, numbered as in `Group.labels`.
    rotations : dict
        Group's name → orthogonal matrix by which its channels are turned before some of them become zero.
    weights, biases : dict
        What is written after that: a constant's name → its values; the name of a node's first output → what to add
        to each of its output channels.
    interface : str
        Whether the channels may be heads of a cache.
    """

    channels: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    rotations: dict[str, npt.NDArray[np.float32]] = dataclasses.field(default_factory=dict)
    weights: dict[str, npt.NDArray[Any]] = dataclasses.field(default_factory=dict)
    biases: dict[str, npt.NDArray[Any]] = dataclasses.field(default_factory=dict)
    interface: Interface = "stays"

    def parts(self) -> dict[str, ChannelPlan]:
        """Return each group alone; none of them where weights were fitted to all that goes."""
        if self.weights or self.biases:
            return {}
        turned = self.rotations
        return {
            name: ChannelPlan(
                channels={name: gone},
                rotations={n: turned[n] for n in (name,) if n in turned},
                interface=self.interface,
            )
            for name, gone in self.channels.items()
        }


def apply_masks(model: ir.Model, plan: MaskPlan) -> Changes:
    """Zero what the masks do not keep."""
    by_name = {value.name: value for value in edit.values(model.graph)}
    done = []
    for name, mask in plan.masks.items():
        value = by_name.get(name)
        tensor = edit.constant(value)
        if value is None or tensor is None or tuple(tensor.shape.numpy()) != tuple(mask.shape):
            raise PassError(
                f"mask '{name}': the model has no constant of that name and shape; was the plan made for it?"
            )
        keep = mask.keep()
        zeros = int(keep.size - keep.sum())
        edit.set_constant(value, np.where(keep, tensor.numpy(), np.zeros((), tensor.numpy().dtype)))
        done.append(Change(name, f"{zeros} of {keep.size} weights zeroed ({zeros / keep.size:.1%})"))
    return Changes(tuple(done), plan.refused, plan.notes)


def apply_channels(model: ir.Model, plan: ChannelPlan) -> Changes:
    """Turn streams, and zero channels: the filters that make them, their biases, and the weights that read them."""
    turn(model, plan.rotations)
    groups = find_groups(model, plan.interface)
    gone = groups.table(labels_of(groups, plan.channels))
    for value, axes in groups.axes.items():
        tensor = edit.constant(value)
        if tensor is None or not may_be_zero(groups, value):
            continue
        array: npt.NDArray[Any] | None = None
        for axis, rows in enumerate(axes):
            if rows is not None and (hit := gone[rows].any(0)).any() and not makes_divisor_zero(groups, value, axis):
                array = tensor.numpy().copy() if array is None else array
                array[(slice(None),) * axis + (hit,)] = 0
        if array is not None:
            edit.set_constant(value, array)
    sizes = {group.name: group.size for group in groups.prunable}
    turned = dict.fromkeys(plan.rotations, ", after turning them to their principal axes")
    done = [Change(n, f"{len(c)} of {sizes[n]} channels zeroed{turned.get(n, '')}") for n, c in plan.channels.items()]
    return Changes((*done, *write_fitted(model, plan.weights, plan.biases, "the channels")), plan.refused, plan.notes)


def write_fitted(
    model: ir.Model, weights: Mapping[str, npt.NDArray[Any]], biases: Mapping[str, npt.NDArray[Any]], to: str
) -> list[Change]:
    """Write what makes up for the channels or blocks that are gone."""
    by_name = {value.name: value for value in edit.values(model.graph)}
    for name, array in weights.items():
        if edit.constant(by_name.get(name)) is None:
            raise PassError(f"weight '{name}': the model has none of that name; was the plan made for it?")
        edit.set_constant(by_name[name], array.astype(edit.array(by_name[name]).dtype))
    add_to_outputs(model.graph, biases)
    return [Change(name, f"weights fitted to {to} that stay") for name in weights]
