"""Tokens taken in steps, as a decoder meets them: first most of a text, then one token, then the rest.

Behind the first step the caches are what the model has left in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ..errors import ModelError
from ..graph.caches import Cache, extent_name, find_caches
from ..runtime.session import Array, Session, open_session
from .batches import Batch, part_of
from .inputs import Input, Layout
from .roles import past_length, positions, role

FIRST = 0.75
"""The share of the tokens that is taken at once, with nothing in the caches."""

FEWEST = 4
"""Tokens from which on a text is taken in steps."""


@dataclass(frozen=True)
class Steps:
    """How a decoder goes on where it left off.

    Attributes
    ----------
    model : onnx_ir.Model
        Which fills the caches.
    layout : Layout
    caches : tuple of Cache
    ids : Input
        The tokens.
    """

    model: ir.Model
    layout: Layout
    caches: tuple[Cache, ...]
    ids: Input

    def of_batches(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield each batch in steps; one whose caches hold something already, or of few tokens, as it is."""
        session: Session | None = None
        for batch in batches:
            tokens = batch.feeds[self.ids.name].shape[-1]
            if tokens < FEWEST or past_length(self.layout.inputs, batch.feeds):
                yield batch
                continue
            session = session or open_session(self.model)
            yield from self._of_batch(session, batch, tokens)

    def _of_batch(self, session: Session, batch: Batch, tokens: int) -> Iterator[Batch]:
        first = max(int(tokens * FIRST), 1)
        step = self._part(batch, {}, 0, first)
        try:
            outputs = session.run(step.feeds)
            steps = [step, one := self._part(batch, self._left(step, outputs), first, first + 1)]
            outputs = session.run(one.feeds)
            rest = self._part(batch, self._left(one, outputs), first + 1, tokens)
            session.run(rest.feeds)
        except ModelError:
            if batch.count == 1:
                yield batch
                return
            # Some operators take several tokens behind a cache of one sample only.
            for number in range(batch.count):
                single = part_of(self.layout.inputs, batch, number, number + 1)
                yield from self._of_batch(session, single, tokens)
            return
        yield from (*steps, rest)

    def _left(self, step: Batch, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the caches as a step leaves them; one that comes back empty, or not at all, stays as it was."""
        found = {}
        for cache in self.caches:
            before = step.feeds[cache.past.name or ""]
            after = None if cache.present is None else outputs.get(cache.present.name or "")
            kept = after is None or (cache.steady and before.size and after.shape != before.shape)
            found[cache.past.name or ""] = before if after is None or kept else after
        return found

    def _part(self, batch: Batch, caches: Mapping[str, Array], start: int, stop: int) -> Batch:
        """Return the feeds of some tokens, with the caches that those before them left."""
        feeds = dict(batch.feeds) | dict(caches)
        tokens = batch.feeds[self.ids.name].shape
        for item in self.layout.inputs:
            array, kind = batch.feeds[item.name], role(item.name)
            if kind == "cache switch":
                feeds[item.name] = np.full_like(array, start > 0)
            elif kind == "mask" and self._covers(item):
                feeds[item.name] = array[..., :stop]
            elif item is self.ids or (kind in ("types", "positions") and array.shape[-1:] == tokens[-1:]):
                feeds[item.name] = array[..., start:stop]
            elif kind == "positions":
                feeds[item.name] = positions(array.shape, start, array.dtype)
        labels = batch.labels
        if labels is not None and labels.shape == tokens:
            labels = labels[:, start:stop]
        return replace(batch, feeds=feeds, labels=labels)

    def _covers(self, item: Input) -> bool:
        """Tell whether a mask is over these tokens, and not over those of an encoder."""
        shape, own = item.shape or (None,), self.ids.shape or (None,)
        name = extent_name(item.name, len(shape) - 1, shape[-1])
        return name in self.layout.derived or name == extent_name(self.ids.name, len(own) - 1, own[-1])


def find_steps(model: ir.Model, layout: Layout) -> Steps | None:
    """Return how a model goes on where it left off; None where it has no caches that come back longer."""
    caches = tuple(find_caches(model.graph))
    growing = [cache for cache in caches if cache.grows is not None and not cache.steady]
    ids = [item for item in layout.inputs if role(item.name) == "ids" and len(item.shape or ()) > 1]
    own = [item for item in ids if "decoder" in item.name] or ids
    if layout.fixed_batch is not None or not growing or any(c.present is None for c in growing) or len(own) != 1:
        return None
    return Steps(model, layout, caches, own[0]) if not isinstance((own[0].shape or (0,))[-1], int) else None
