"""What runs in the processes of a cluster."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import version
from threading import Lock
from typing import Any, NamedTuple

import onnx_ir as ir

from ..errors import ClusterError, OnnxCompressError, OptionError
from ..runtime.provider import Provider, running_on
from .packed import Packed


class Machine(NamedTuple):
    """What must be the same on all machines, and what may differ."""

    versions: dict[str, str]
    saturates: bool
    name: str


def describe() -> Machine:
    """Describe this machine."""
    from ..runtime.installed import import_onnxruntime
    from ..runtime.saturation import products_saturate

    versions = {"onnxcompress": version("onnxcompress"), "onnxruntime": str(import_onnxruntime().__version__)}
    return Machine(versions, products_saturate(), platform.node())


class Failed(NamedTuple):
    """What was raised; so that it is not taken for an error of Dask."""

    error: Exception


def pack(value: Any) -> Any:
    """Return `value` as it can be sent."""
    return Packed.of(value) if isinstance(value, ir.Model) else value


class Crew:
    """What is called with each item in one process; made when the first comes, and kept while there are more.

    Sent anywhere, it takes along what it is made of, and is made anew there.
    """

    def __init__(
        self, versions: dict[str, str], provider: Provider, make: Callable[..., Callable[[Any], Any]], *given: Any
    ) -> None:
        self._provider = provider
        self._made_of = versions, provider, make, *given
        self._lock = Lock()
        self._work: Callable[[Any], Any] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Crew, self._made_of

    def __call__(self, item: Any) -> Any:
        """Do one item; an error comes back as `Failed`."""
        try:
            with running_on(self._provider):
                return self._ready()(item)
        except OptionError as error:
            return Failed(OptionError(f"{error} (on {platform.node()}; files that options name must be there too)"))
        except OnnxCompressError as error:
            return Failed(error)
        except (ImportError, MemoryError, OSError) as error:
            return Failed(ClusterError(f"a worker on {platform.node()} failed: {type(error).__name__}: {error}"))

    def _ready(self) -> Callable[[Any], Any]:
        with self._lock:
            if self._work is None:
                versions, _, make, *given = self._made_of
                check_versions(describe(), versions)
                self._work = make(*(value.unpack() if isinstance(value, Packed) else value for value in given))
            return self._work


def check_versions(machine: Machine, here: dict[str, str]) -> None:
    """Raise `ClusterError` where a machine has other versions, whose numbers may differ."""
    for name, expected in here.items():
        if machine.versions[name] != expected:
            there = f"{name} {machine.versions[name]}"
            raise ClusterError(f"a worker on {machine.name} has {there}, and here is {expected}; install the same")


def run(crew: Crew, item: Any) -> Any:
    """Do one item."""
    return crew(item)


def same(value: Any) -> Any:
    """Return what was sent."""
    return value
