"""Hands whole tensors of single samples to observers, on all cores."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

import numpy as np
import onnx_ir as ir

from ..progress import Progress
from ..runtime.session import Array, Session, usable_cores
from ..samples.samples import Batch, Samples
from .taps import open_taps, split_lots, whole

MOST_WORKERS = 8
"""Each has observers of its own, which take memory."""


class Observer(Protocol):
    """What looks at tensors; the order in which it sees the samples must not matter."""

    def observe(self, arrays: list[Array], first: int, count: int) -> None:
        """Look at the tensors of `count` samples from number `first` on, and keep none of them."""


O = TypeVar("O", bound=Observer)  # noqa: E741


def fetch(
    model: ir.Model,
    samples: Samples,
    tensors: list[str],
    make: Callable[[list[str]], O],
    *,
    what: str,
    progress: Progress,
    limit_bytes: int,
) -> list[O]:
    """Run the samples one at a time and let observers look at tensors.

    Onnxruntime hands over what it computed without copying it, and numpy reduces it faster than nodes in the graph
    do. Several samples run side by side, each on one core, which takes less time than one after the other on all of
    them. A model whose batch is fixed runs whole batches.

    Parameters
    ----------
    model, samples
    tensors : list of str
        Inputs and what nodes compute.
    make : callable
        Makes an observer of the named tensors; several are made for the same ones.
    what : str
        For `progress`.
    progress : callable
    limit_bytes : int
        How many bytes of tensors are fetched at once; more tensors take more than one pass over the samples.

    Returns
    -------
    list of observers
        All that were made; each saw some of the samples.
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
    observers: list[O] = []
    for index, lot in enumerate(lots):
        used = sum(sizes[tap.tensor] for tap in lot)
        cores = usable_cores()
        workers = max(1, min(cores, MOST_WORKERS, limit_bytes // max(used, 1)))
        if lot and (len(lots) > 1 or cores // workers > 1):
            session = None
            session = open_taps(model, lot, cores // workers)[0]
        crew = _Crew(session, given if index == 0 else [], [tap.tensor for tap in lot], make, workers)
        for done in crew.run(samples):
            progress(what, done + index * (total // len(lots)), total)
        observers += crew.idle
    return observers


NOTHING = np.zeros(0, np.float32)


class _Crew(Generic[O]):
    """Observers of the same tensors, each at work on one sample at a time."""

    def __init__(
        self,
        session: Session | None,
        given: list[str],
        fetched: list[str],
        make: Callable[[list[str]], O],
        workers: int,
    ) -> None:
        self.session, self.given, self.fetched = session, given, fetched
        self.idle = [make([*fetched, *given]) for _ in range(workers)]

    def run(self, samples: Samples) -> Iterator[int]:
        """Go through the samples; yield how many are done. Errors come in the order of the samples."""
        waiting: deque[tuple[Future[None], int]] = deque()
        finished = number = 0
        workers = len(self.idle)
        with ThreadPoolExecutor(workers) as pool:
            try:
                for batch in samples.labelled(1):
                    waiting.append((pool.submit(self._work, batch, number), batch.count))
                    number += batch.count
                    if len(waiting) > 2 * workers:
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
            found = self.session.run(batch.feeds, self.fetched) if self.session and self.fetched else {}
            # What is two branches deep and not taken comes back as None.
            arrays = [NOTHING if array is None else array for array in found.values()]
            arrays += [*(batch.feeds[name] for name in self.given)]
            observer.observe(arrays, number, batch.count)
        finally:
            self.idle.append(observer)


def _wait(waiting: deque[tuple[Future[None], int]]) -> int:
    future, count = waiting.popleft()
    future.result()
    return count
