"""Samples and example feeds that are made up: of shapes that the model runs at, with tokens that it knows."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..errors import DataError, ModelError
from ..graph.shapes import fitting_inputs
from ..runtime.session import Array, Session, open_session
from .inputs import Layout, example_feed, find_layout, model_inputs, random_feeds
from .roles import role, vocabulary
from .sources import Request, Source

COUNT = 16
"""How many there are (more if the model's fixed batch is larger)."""

STRETCHES = (1, 4, 16, 64)
"""A model with strides, windows or padding over a free extent may need more of it than the smallest example has."""

Shapes = dict[str, tuple[int, ...]]


def random_source(request: Request, seed: int) -> Source:
    """Return seeded random values that fit the model."""
    layout = request.layout
    count = max(COUNT, layout.fixed_batch or 1) if layout.batched else 1
    count -= count % (layout.fixed_batch or 1)
    shapes = None if request.model is None else _runnable(request.model, layout)
    tables = {} if request.model is None else _vocabularies(request.model)

    def pieces() -> list[tuple[str, dict[str, Array]]]:
        feeds = random_feeds(layout, count, seed, given=shapes)
        return [("random", plausible(layout, feeds, tables, seed))]

    return Source(lambda: iter(pieces()), "random", random=True)


def _vocabularies(model: ir.Model) -> dict[str, int]:
    found = {value.name or "": vocabulary(value) for value in model.graph.inputs}
    return {name: size for name, size in found.items() if size}


def plausible(layout: Layout, feeds: dict[str, Array], tables: dict[str, int], seed: int) -> dict[str, Array]:
    """Return feeds whose tokens, masks, positions and switches are such as a model meets."""
    random = np.random.default_rng(seed + 1)
    found = dict(feeds)
    for item in layout.inputs:
        array, kind = feeds[item.name], role(item.name)
        if kind == "mask" and array.dtype.kind in "iubf":
            found[item.name] = np.ones_like(array)
        elif kind in ("cache switch", "types"):
            found[item.name] = np.zeros_like(array)
        elif kind == "positions" and array.ndim:
            found[item.name] = np.array(np.broadcast_to(np.arange(array.shape[-1]), array.shape), array.dtype)
        elif item.name in tables and array.dtype.kind in "iu":
            highest = min(tables[item.name], np.iinfo(array.dtype).max)
            found[item.name] = random.integers(0, highest, array.shape).astype(array.dtype)
    return found


def _runnable(model: ir.Model, layout: Layout) -> Shapes | None:
    """Return shapes, of one sample, at which the model runs; None where all are fixed or none was found."""
    if not any(axis != item.batch_axis and not isinstance(dim, int) for item in layout.inputs
               for axis, dim in enumerate(item.shape or (None,))):  # fmt: skip
        return None
    try:
        feed = _plausible_feed(model, layout, open_session(model))
    except ModelError:
        return None
    return None if feed is None else {name: array.shape for name, array in feed.items()}


def _plausible_feed(model: ir.Model, layout: Layout, session: Session) -> dict[str, Array] | None:
    """Return the first plausible feed that runs: small, as the weights ask for, longer; caches full, then empty."""
    tables, fitting = _vocabularies(model), fitting_inputs(model)
    tried = [(STRETCHES[0], {}), (STRETCHES[0], fitting), *((stretch, {}) for stretch in STRETCHES[1:])]
    for empty in ({}, _empty(layout)):
        for stretch, shapes in tried:
            try:
                feed = random_feeds(layout, layout.fixed_batch or 1, 0, stretch, shapes | empty)
                feed = plausible(layout, feed, tables, 0)
                session.run(feed)
            except (ModelError, DataError):
                continue
            return feed
    return None


def _empty(layout: Layout) -> Shapes:
    """Return the shapes of caches that hold nothing yet, and of masks that are as long as the tokens then."""
    found: Shapes = {}
    for item in layout.inputs:
        if role(item.name) == "past" and item.shape is not None:
            open_axes = [
                axis for axis, dim in enumerate(item.shape) if not isinstance(dim, int) and axis != item.batch_axis
            ]
            named = [axis for axis in open_axes if "past" in str(item.shape[axis])] or open_axes[:1]
            sizes = [dim if isinstance(dim, int) else None for dim in item.shape]
            found[item.name] = tuple(0 if axis in named else size or 1 for axis, size in enumerate(sizes))
    return found


def runnable_feed(model: ir.Model, session: Session) -> dict[str, Array]:
    """Return the smallest example feed that `session`, which is of `model`, can run.

    Raises
    ------
    ModelError
        It can run none of them; with what ONNX Runtime said of the smallest.
    """
    first: ModelError | None = None
    for stretch in STRETCHES:
        feed = example_feed(model, stretch=stretch)
        try:
            session.run(feed)
        except ModelError as error:
            first = first or error
        else:
            return feed
    likely = _plausible_feed(model, find_layout(model_inputs(model)), session)
    if likely is None:
        raise ModelError(f"{first}; random values do not fit this model: give samples with --data (data=...)") from None
    return likely


def runnable_feeds(model: ir.Model, session: Session) -> list[dict[str, Array]]:
    """Return the smallest example feed that `session` can run, and one of other values, several samples and sizes.

    Raises
    ------
    ModelError
        As `runnable_feed` does.
    """
    feeds = [runnable_feed(model, session)]
    layout = find_layout(model_inputs(model))
    same = {name: array.shape for name, array in feeds[0].items()}
    count = layout.fixed_batch or OTHER_BATCH
    for stretch, given in ((2, None), (1, None), (1, same)):
        other = random_feeds(layout, count, 1, stretch, given)
        for feed in (other, plausible(layout, other, _vocabularies(model), 1)):
            try:
                session.run(feed)
            except ModelError:
                continue
            return [*feeds, feed]
    return feeds


OTHER_BATCH = 3
"""Samples in the second example feed, where the model takes any number."""
