"""What a model takes, in words, and the nearest example of how to give it."""

from __future__ import annotations

from .inputs import Input, Layout
from .roles import role

MOST = 4
"""Inputs that are shown; caches have dozens."""


def describe_inputs(layout: Layout) -> str:
    """Return the model's inputs: name, type, shape.

    >>> describe_inputs(Layout((Input("x", np.dtype("float32"), ("N", 3), 0),), None))
    'x: float32 [N, 3]'
    """
    shown = [f"{item.name}: {_dtype(item)} {_shape(item)}" for item in layout.inputs[:MOST]]
    more = len(layout.inputs) - MOST
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def takes(layout: Layout) -> str:
    """Return what a model takes, and how the documentation gives it that."""
    example = nearest_example(layout)
    return f"the model takes {describe_inputs(layout) or 'nothing'}" + (f"; for example {example}" if example else "")


def _dtype(item: Input) -> str:
    return "text" if item.dtype.kind == "O" else str(item.dtype)


def _shape(item: Input) -> str:
    if item.shape is None:
        return "of any shape"
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in item.shape) + "]"


def nearest_example(layout: Layout) -> str:
    """Return how the documentation feeds a model with such inputs."""
    first = layout.inputs[0] if layout.inputs else None
    if first is None:
        return ""
    rank = len(first.shape or ())
    if any(role(item.name) == "ids" for item in layout.inputs) or first.dtype.kind == "O":
        return "--data lines.txt --tokenizer tokenizer.json"
    if rank == 4 and first.dtype.kind in "fu":
        return "--data photos/ --preprocess imagenet"
    if rank in (2, 3) and first.dtype.kind == "f" and _is_long(first):
        return "--data recordings/ --sample-rate 16000"
    arrays = ", ".join(f"{item.name}=..." for item in layout.inputs[:MOST])
    return f"np.savez('samples.npz', {arrays}) and --data samples.npz"


WAVE = 400
"""The shortest window of sound."""


def _is_long(item: Input) -> bool:
    last = (item.shape or (0,))[-1]
    return not isinstance(last, int) or last >= WAVE
