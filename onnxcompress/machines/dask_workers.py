"""Workers on other machines, or in other processes: those of a Dask cluster."""

from __future__ import annotations

import asyncio
import logging
from asyncio import TimeoutError as Late
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ClusterError, OnnxCompressError, OptionError
from ..runtime.provider import running
from ..runtime.saturation import products_saturate
from .crew import Crew, Failed, check_versions, describe, pack, run, same
from .workers import Here, Workers

if TYPE_CHECKING:
    from distributed import Client, Future

T = TypeVar("T")
R = TypeVar("R")

PATIENCE = 5.0
"""Seconds until a cluster must have answered, and have a worker."""

ALONE = 30.0
"""Seconds without any worker after which the rest is done here."""

NO_DASK = 'a scheduler needs Dask; get it with: pip install "onnxcompress[cluster]"'

END = object()


class DaskWorkers:
    """Workers of a Dask cluster; a context manager.

    Items go to the workers a few at a time, and what comes of them comes back in order. Where a worker dies, Dask does
    its items again elsewhere. Where the cluster goes away, what is left is done here.

    Parameters
    ----------
    address : str or distributed.Client
        Of the scheduler, ``tcp://host:8786``; whatever Dask takes. A client is not closed.

    Raises
    ------
    OptionError
        Dask is not installed, or the address is none.
    ClusterError
        Nobody answers, there is no worker, or one has other versions than are installed here.
    """

    def __init__(self, address: str | Client) -> None:
        try:
            import distributed  # noqa: F401
        except ImportError:
            raise OptionError(NO_DASK) from None
        self.near = False
        self.notes: list[str] = []
        self._owned = isinstance(address, str)
        # Any: its methods have no types.
        self._client: Any = _connect(address) if isinstance(address, str) else address
        self._name = address if isinstance(address, str) else str(getattr(address.scheduler, "address", "the cluster"))
        self._gone = False
        self._sent: tuple[Any, Sequence[Any], Any] | None = None
        try:
            self.saturating = self._look()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> DaskWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the cluster; it goes on running."""
        if self._owned:
            self._client.close(timeout=2)

    def _look(self) -> bool:
        """Check the workers that are there; tell whether any of them loses products of integers."""
        try:
            self._client.wait_for_workers(1, timeout=PATIENCE)
            found = self._client.run(describe, on_error="return")
        except Late:
            raise ClusterError(
                f"{self._name}: the cluster has no worker; start some: dask worker {self._name}"
            ) from None
        except _lost() as error:
            raise ClusterError(f"{self._name}: the cluster went away: {error}") from None
        here = describe()
        for address, machine in found.items():
            if isinstance(machine, Exception):
                raise ClusterError(
                    f"{self._name}: the worker {address} has no onnxcompress that runs: {machine}; "
                    f"install onnxcompress {here.versions['onnxcompress']} there"
                )
            check_versions(machine, here.versions)
        lossy = sorted({machine.name for machine in found.values() if machine.saturates})
        if lossy and not products_saturate():
            self.notes.append(
                f"The CPU of {', '.join(lossy)} loses products of 8-bit integers (it has no VNNI), so that models are "
                "judged with exact ones"
            )
        return bool(lossy)

    def map(self, make: Callable[..., Callable[[T], R]], given: Sequence[Any], items: Iterable[T]) -> Iterator[R]:
        """See `Workers.map`."""
        rest = iter(items)
        waiting: deque[tuple[T, Future[Any] | None]] = deque()
        crew = None if self._gone else self._send(make, given)
        work: Callable[[T], R] | None = None
        try:
            most = 2 * self._threads() + 1
            while True:
                while len(waiting) < most and (item := next(rest, END)) is not END:
                    waiting.append((item, self._submit(crew, item)))  # type: ignore[arg-type]
                if not waiting:
                    return
                item, future = waiting.popleft()
                answer = self._answer(future)
                if answer is not END:
                    yield answer
                    continue
                if work is None:
                    work, most = make(*given), 1
                yield work(item)
        finally:
            for _, future in waiting:
                if future is not None and not self._gone:
                    self._client.cancel(future)

    def _send(self, make: Callable[..., Any], given: Sequence[Any]) -> Future[Any] | None:
        """Let the cluster have what all items need: as tasks, so that it can make again what a dying worker held.

        The last crew is kept: what is given anew finds what it has done so far.
        """
        if self._sent is not None and self._sent[0] is make and self._sent[1] is given:
            return self._sent[2]  # type: ignore[no-any-return]
        sent = [self._task(same, pack(value)) for value in given]
        crew = self._task(Crew, describe().versions, running(), make, *sent)
        self._sent = make, given, crew
        return crew

    def _submit(self, crew: Future[Any] | None, item: Any) -> Future[Any] | None:
        return None if crew is None else self._task(run, crew, item)

    def _task(self, function: Callable[..., Any], *args: Any) -> Future[Any] | None:
        """Give the cluster a task; None where it is gone."""
        import dask

        if self._gone:
            return None
        try:
            # Samples and models are sent with the tasks, once each; Dask would warn of it.
            with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TiB"}):
                task: Future[Any] = self._client.submit(function, *args, pure=False)
                return task
        except _lost() as error:
            self._leave(error)
            return None

    def _answer(self, future: Future[Any] | None) -> Any:
        """Wait for what came of an item; `END` where the cluster is gone."""
        if future is None or self._gone:
            return END
        alone = 0.0
        while True:
            try:
                found = future.result(timeout=PATIENCE)
            except Late:
                alone = 0.0 if self._threads() else alone + PATIENCE
                if self._gone or alone > ALONE:
                    self._leave("it has no worker any more")
                    return END
                continue
            except _lost() as error:
                self._leave(error)
                return END
            except Exception as error:
                raise self._explained(error) from error
            if isinstance(found, Failed):
                raise found.error
            return found

    def _threads(self) -> int:
        try:
            return 0 if self._gone else sum(self._client.nthreads().values())
        except _lost() as error:
            self._leave(error)
            return 0

    def _leave(self, why: object) -> None:
        if not self._gone:
            self._gone = True
            reason = " ".join(str(why).split())[:200] or type(why).__name__
            self.notes.append(f"The cluster {self._name} went away, and what was left was done here: {reason}")
            self.close()

    def _explained(self, error: Exception) -> OnnxCompressError:
        from distributed import KilledWorker

        if isinstance(error, KilledWorker):
            times = error.allowed_failures + 1
            return ClusterError(
                f"{self._name}: {times} workers died over one piece of work, out of memory perhaps; "
                "give each more memory, or fewer threads"
            )
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        return ClusterError(
            f"{self._name}: {type(cause).__name__}: {' '.join(str(cause).split())[:300]}; "
            "the same packages must be installed on the scheduler and the workers as here"
        )


@contextmanager
def workers_at(address: str | None) -> Iterator[Workers]:
    """Work with the cluster whose scheduler is at an address, or without one here."""
    if address is None:
        yield Here()
    else:
        with DaskWorkers(address) as workers:
            yield workers


def _connect(address: str) -> Any:
    import distributed

    logger = logging.getLogger("distributed.client")
    logger.setLevel(logging.CRITICAL)  # what it would say of a cluster that is gone is said in a note
    _knock(address)
    return distributed.Client(address, timeout=PATIENCE, set_as_default=False)  # type: ignore[no-untyped-call]


def _knock(address: str) -> None:
    """Raise an error unless a scheduler answers; a client that finds none goes on waiting while it is thrown away."""
    from distributed import Security
    from distributed.comm import core

    security: Any = Security()  # type: ignore[no-untyped-call]

    async def greet() -> None:
        connect: Any = core.connect
        comm = await connect(address, timeout=PATIENCE, **security.get_connection_args("client"))
        await comm.close()

    try:
        with ThreadPoolExecutor(1) as pool:  # in a thread: a notebook has a loop running in this one
            pool.submit(asyncio.run, greet()).result()
    except (OSError, Late) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ClusterError(f"scheduler '{address}': nobody answers there: {reason}") from None
    except (ValueError, TypeError) as error:
        raise OptionError(f"scheduler '{address}': expected an address such as tcp://host:8786: {error}") from None
    except (MemoryError, RuntimeError, EOFError) as error:
        raise ClusterError(f"scheduler '{address}': what answers there is no scheduler of Dask") from error


def _lost() -> tuple[type[BaseException], ...]:
    """Return what is raised where a cluster is gone."""
    from distributed import CancelledError
    from distributed.client import ClosedClientError

    return CancelledError, ClosedClientError, OSError
