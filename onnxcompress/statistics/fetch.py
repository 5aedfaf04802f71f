"""Hands whole tensors of single samples to observers, on all cores or on other machines."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import onnx_ir as ir

from ..machines.workers import Workers
from ..progress import Progress
from ..runtime.session import Array, Session, usable_cores
from ..samples.chunks import Chunk, chunks
from ..samples.samples import Batch, Samples
from .taps import open_taps, split_lots, whole

MOST_CREW = 8
"""Each thread has an observer of its own, which takes memory."""

AT_ONCE = 64
"""Samples that are sent together: what is seen of a few takes as many bytes to send back as what is seen of many."""

K = TypeVar("K", bound=Hashable)
M = TypeVar("M")
S = TypeVar("S", covariant=True)


class Observer(Protocol[K, S]):
    """What looks at tensors; the order in which it sees the samples must not matter."""

    def observe(self, arrays: list[Array], first: int, count: int) -> None:
        """Look at the tensors of `count` samples from number `first` on, and keep none of them."""

    def result(self) -> Mapping[K, S]:
        """Return what was seen so far."""


Make = Callable[[list[str]], Observer[K, M]]
"""Makes an observer of the named tensors; at the top level of a module, or a `functools.partial` of what is."""


def fetch(
    model: ir.Model,
    samples: Samples,
    tensors: list[str],
    make: Make[K, M],
    merge: Callable[[K, M, M], M],
    *,
    what: str,
    progress: Progress,
    limit_bytes: int,
    workers: Workers,
) -> dict[K, M]:
    """Run the samples one at a time and let observers look at tensors.

    Onnxruntime hands over what it computed without copying it, and numpy reduces it faster than nodes in the graph
    do. Several samples run side by side, each on one core, which takes less time than one after the other on all of
    them. A model whose batch is fixed runs whole batches. Workers elsewhere get a chunk of the samples at a time.

    Parameters
    ----------
    model, samples
    tensors : list of str
        Inputs and what nodes compute.
    make : callable
        Several observers are made for the same tensors; each sees some of the samples.
    merge : callable
        Called with a key and what two observers say of it. No order and no grouping must matter to it.
    what : str
        For `progress`.
    progress : callable
    limit_bytes : int
        How many bytes of tensors are fetched at once; more tensors take more than one pass over the samples.
    workers : Workers

    Returns
    -------
    dict
        What the observers saw together.
    """
    fed = {value.name for value in model.graph.inputs}
    given = [name for name in tensors if name in fed]
    taps = [whole(name) for name in tensors if name not in fed]
    first = next(samples.labelled(1))
    session = open_taps(model, taps, 1)[0] if taps else None
    found = session.run(first.feeds) if session else {}
    sizes = {name: 0 if array is None else array.nbytes for name, array in found.items()}
    lots = split_lots(taps, sizes, limit_bytes) or [[]]
    total = (samples.known_count or 0) * len(lots)
    merged: dict[K, M] = {}
    for index, lot in enumerate(lots):
        used = sum(sizes[tap.tensor] for tap in lot)
        cores = usable_cores()
        crew = max(1, min(cores, MOST_CREW, limit_bytes // max(used, 1)))
        view = View(tuple(given if index == 0 else ()), tuple(tap.tensor for tap in lot), cores // crew)
        before = index * (total // len(lots))
        if workers.near:
            if lot and (len(lots) > 1 or view.threads > 1):
                session = None
                session = view.open(model)
            together = _Crew(session, view, make, crew)
            for done in together.run(samples):
                progress(what, done + before, total)
            parts: Iterable[Mapping[K, M]] = (observer.result() for observer in together.idle)
        else:
            session = None
            parts = _elsewhere(workers, model, samples, view, make, partial(_tell, progress, what, before, total))
        for part in parts:
            for key, new in part.items():
                merged[key] = merge(key, merged[key], new) if key in merged else new
    return merged


NOTHING = np.zeros(0, np.float32)


class View(NamedTuple):
    """Which tensors are looked at: inputs, and what nodes compute in a session of so many threads."""

    given: tuple[str, ...]
    fetched: tuple[str, ...]
    threads: int

    @property
    def tensors(self) -> list[str]:
        """Return all, in the order in which observers get them."""
        return [*self.fetched, *self.given]

    def open(self, model: ir.Model) -> Session | None:
        """Open the session that computes them; None where nothing is to be computed."""
        return open_taps(model, [whole(name) for name in self.fetched], self.threads)[0] if self.fetched else None

    def show(self, session: Session | None, batch: Batch, first: int, observer: Observer[Any, Any]) -> None:
        """Run a batch, and let an observer look at it."""
        found = session.run(batch.feeds, list(self.fetched)) if session and self.fetched else {}
        # What is two branches deep and not taken comes back as None.
        arrays = [NOTHING if array is None else array for array in found.values()]
        observer.observe([*arrays, *(batch.feeds[name] for name in self.given)], first, batch.count)


class _Crew:
    """Observers of the same tensors, each at work on one sample at a time."""

    def __init__(self, session: Session | None, view: View, make: Make[Any, Any], count: int) -> None:
        self._session, self._view = session, view
        self.idle = [make(view.tensors) for _ in range(count)]

    def run(self, samples: Samples) -> Iterator[int]:
        """Go through the samples; yield how many are done. Errors come in the order of the samples."""
        waiting: deque[tuple[Future[None], int]] = deque()
        finished = number = 0
        count = len(self.idle)
        with ThreadPoolExecutor(count) as pool:
            try:
                for batch in samples.labelled(1):
                    waiting.append((pool.submit(self._work, batch, number), batch.count))
                    number += batch.count
                    if len(waiting) > 2 * count:
                        finished += _wait(waiting)
                        yield finished
                while waiting:
                    finished += _wait(waiting)
                    yield finished
            finally:
                for future, _ in waiting:
                    future.cancel()

    def _work(self, batch: Batch, number: int) -> None:
        observer = self.idle.pop()
        try:
            self._view.show(self._session, batch, number, observer)
        finally:
            self.idle.append(observer)


def _wait(waiting: deque[tuple[Future[None], int]]) -> int:
    future, count = waiting.popleft()
    future.result()
    return count


class LooksAt:
    """Looks at chunks of samples, wherever it is."""

    def __init__(self, model: ir.Model, view: View, make: Make[Any, Any]) -> None:
        self._view, self._make = view, make
        self._session = view.open(model)

    def __call__(self, chunk: Chunk) -> tuple[int, Mapping[Any, Any]]:
        """Return how many samples there were, and what was seen of them."""
        observer = self._make(self._view.tensors)
        number = chunk.first
        for batch in chunk.labelled(1):
            self._view.show(self._session, batch, number, observer)
            number += batch.count
        return chunk.count, observer.result()


def _tell(progress: Progress, what: str, before: int, total: int, done: int) -> None:
    progress(what, before + done, total)


def _elsewhere(
    workers: Workers, model: ir.Model, samples: Samples, view: View, make: Make[K, M], tell: Callable[[int], None]
) -> Iterator[Mapping[K, M]]:
    done = 0
    for count, seen in workers.map(LooksAt, (model, view, make), chunks(samples, AT_ONCE)):
        done += count
        tell(done)
        yield seen
