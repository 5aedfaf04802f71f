"""Samples and example feeds that are made up: of shapes that the model runs at, with tokens that it knows."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from ..errors import DataError, ModelError
from ..graph.shapes import fitting_inputs
from ..runtime.session import Array, Session, open_session
from .inputs import Layout, model_layout, random_feeds
from .roles import past_length, positions, role
from .sources import Request, Source

COUNT = 16
"""How many there are (more if the model's fixed batch is larger)."""

STRETCHES = (1, 4, 16, 64)
"""A model with strides, windows or padding over a free extent may need more of it than the smallest example has."""

Shapes = dict[str, tuple[int, ...]]
Run = tuple[dict[str, Array], dict[str, Any]]
"""What was fed, and what came out."""


def random_source(request: Request, seed: int) -> Source:
    """Return seeded random values that fit the model, with full caches where it takes that many samples so.

    Where a switch chooses between a model with a cache and one without, half of the samples have none.
    """
    layout = request.layout
    count = max(COUNT, layout.fixed_batch or 1) if layout.batched else 1
    count -= count % (layout.fixed_batch or 1)
    switched = any(role(item.name) == "cache switch" for item in layout.inputs) and layout.fixed_batch is None
    sizes = [count // 2, count - count // 2] if switched and layout.batched else [count]
    kinds = [_runnable(request.model, layout, size, empty=number > 0) for number, size in enumerate(sizes)]

    def pieces() -> list[tuple[str, dict[str, Array]]]:
        made = (random_feeds(layout, size, seed, given=shapes) for size, shapes in zip(sizes, kinds, strict=True))
        return [("random", plausible(layout, feeds, seed)) for feeds in made]

    return Source(lambda: iter(pieces()), "random", random=True)


def plausible(layout: Layout, feeds: dict[str, Array], seed: int) -> dict[str, Array]:
    """Return feeds whose tokens, masks, positions and switches are such as a model meets."""
    random = np.random.default_rng(seed + 1)
    found = dict(feeds)
    before = past_length(layout.inputs, feeds)
    for item in layout.inputs:
        array, kind = feeds[item.name], role(item.name)
        if kind == "mask" and array.dtype.kind in "iubf":
            found[item.name] = np.ones_like(array)
        elif kind == "cache switch":
            found[item.name] = np.full_like(array, before > 0)
        elif kind == "types":
            found[item.name] = np.zeros_like(array)
        elif kind == "positions" and array.ndim:
            found[item.name] = positions(array.shape, before, array.dtype)
        elif item.table is not None and array.dtype.kind in "iu":
            highest = min(item.table.rows, np.iinfo(array.dtype).max)
            found[item.name] = random.integers(0, highest, array.shape).astype(array.dtype)
    return found


def _runnable(model: ir.Model | None, layout: Layout, count: int, *, empty: bool) -> Shapes | None:
    """Return shapes at which the model runs on so many samples; None where all are fixed or none was found."""
    if model is None or not any(axis != item.batch_axis and not isinstance(dim, int) for item in layout.inputs
                                for axis, dim in enumerate(item.shape or (None,))):  # fmt: skip
        return None
    try:
        session = open_session(model)
    except ModelError:
        return None
    feed = _plausible_feed(model, layout, session, count, empty=empty)
    feed = feed or _plausible_feed(model, layout, session, layout.fixed_batch or 1, empty=empty)
    return None if feed is None else {name: array.shape for name, array in feed.items()}


def _plausible_feed(
    model: ir.Model, layout: Layout, session: Session, count: int, *, empty: bool = False
) -> dict[str, Array] | None:
    """Return the first plausible feed that runs: small, as the weights ask for, longer; caches full, then empty."""
    fitting = fitting_inputs(model)
    tried = [(STRETCHES[0], {}), (STRETCHES[0], fitting), *((stretch, {}) for stretch in STRETCHES[1:])]
    for caches in (_empty(layout),) if empty else ({}, _empty(layout)):
        for stretch, shapes in tried:
            try:
                feed = plausible(layout, random_feeds(layout, count, 0, stretch, shapes | caches), 0)
                session.run(feed)
            except (ModelError, DataError):
                continue
            return feed
    return None


def _empty(layout: Layout) -> Shapes:
    """Return the shapes of caches that hold nothing yet; masks are as long as the tokens then."""
    return {
        item.name: tuple(
            0 if axis == item.grows else dim if isinstance(dim, int) else 1 for axis, dim in enumerate(item.shape)
        )
        for item in layout.inputs
        if item.grows is not None and item.shape is not None
    }


def example_feed(model: ir.Model, seed: int = 0, stretch: int = 1) -> dict[str, Array]:
    """Return one feed of random values that fits `model`: one sample, or as many as its fixed batch."""
    layout = model_layout(model)
    return plausible(layout, random_feeds(layout, layout.fixed_batch or 1, seed, stretch), seed)


def runnable_feed(model: ir.Model, session: Session) -> dict[str, Array]:
    """Return the smallest example feed that `session`, which is of `model`, can run.

    Raises
    ------
    ModelError
        It can run none of them; with what ONNX Runtime said of the smallest.
    """
    return _smallest(model, session)[0]


def _smallest(model: ir.Model, session: Session) -> Run:
    first: ModelError | None = None
    for stretch in STRETCHES:
        feed = example_feed(model, stretch=stretch)
        try:
            return feed, session.run(feed)
        except ModelError as error:
            first = first or error
    layout = model_layout(model)
    likely = _plausible_feed(model, layout, session, layout.fixed_batch or 1)
    if likely is None:
        raise ModelError(f"{first}; random values do not fit this model: give samples with --data (data=...)") from None
    return likely, session.run(likely)


def first_runs(model: ir.Model, session: Session) -> list[Run]:
    """Run the smallest example feed that `session` can run, and one of other values, several samples and sizes.

    Returns
    -------
    list of (feed, outputs)

    Raises
    ------
    ModelError
        As `runnable_feed` does.
    """
    runs = [_smallest(model, session)]
    layout = model_layout(model)
    same = {name: array.shape for name, array in runs[0][0].items()}
    count = layout.fixed_batch or OTHER_BATCH
    for stretch, given in ((2, None), (1, None), (1, same), (2, _empty(layout))):
        other = random_feeds(layout, count, 1, stretch, given)
        for feed in (other, plausible(layout, other, 1)):
            try:
                return [*runs, (feed, session.run(feed))]
            except ModelError:
                continue
    return runs


OTHER_BATCH = 3
"""Samples in the second example feed, where the model takes any number."""
