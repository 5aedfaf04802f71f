"""Which of a model's inputs takes images, and where its channels, height and width are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError
from ..graph.shapes import fitting_inputs
from .explain import takes
from .inputs import Input
from .roles import LATER, role
from .sources import Request

RANK = 4
COLOURS = (1, 3, 4)
"""Sizes of an axis that may be channels."""


@dataclass(frozen=True)
class ImageInput:
    """The input that takes images.

    Attributes
    ----------
    name, dtype : str, numpy.dtype
    channels : int
    last : bool
        Channels are the last axis (NHWC).
    height, width : int or None
        None for any.
    """

    name: str
    dtype: np.dtype[Any]
    channels: int
    last: bool
    height: int | None
    width: int | None


def find_image_input(request: Request, layout: str | None = None) -> ImageInput:
    """Return the one input that takes images.

    Parameters
    ----------
    request : Request
    layout : str, optional
        NCHW or NHWC, where the shape does not show it.

    Raises
    ------
    DataError
        There is none, there are several, or another input would stay without a value.
    """
    inputs = request.layout.inputs
    images = [item for item in inputs if item.shape is not None and len(item.shape) == RANK and role(item.name) is None]
    others = [item.name for item in inputs if item not in images and not _stands_alone(item)]
    if len(images) != 1 or others:
        what = f"'{others[0]}' would be missing" if images and others else f"{len(images) or 'no'} inputs have 4 axes"
        raise DataError(f"images cannot be fed: {what}; {takes(request.layout)}")
    (item,) = images
    shape = _shape(item, request)
    last = layout == "NHWC" if layout else shape[1] not in COLOURS and shape[3] in COLOURS
    channels, height, width = (shape[3], *shape[1:3]) if last else shape[1:]
    if channels not in (None, *COLOURS):
        raise DataError(f"images cannot be fed: input '{item.name}' has {channels} channels; {takes(request.layout)}")
    return ImageInput(item.name, item.dtype, channels or 3, last, height, width)


def _stands_alone(item: Input) -> bool:
    return role(item.name) in LATER


def _shape(item: Input, request: Request) -> list[int | None]:
    """Return the extents that the model says, and where it leaves channels open, what its weights ask for."""
    shape = [dim if isinstance(dim, int) else None for dim in item.shape or ()]
    if request.model is not None and not {shape[1], shape[3]} & {*COLOURS}:
        asked = fitting_inputs(request.model).get(item.name, ())
        for axis in (1, 3):
            if len(asked) == RANK and shape[axis] is None and asked[axis] in COLOURS:
                shape[axis] = asked[axis]
                break
    return shape
