"""Where sessions run: an execution provider of onnxruntime, with its options, and libraries of custom operators.

What is measured, calibrated and judged runs where the user says. What checks that a rewrite is right, and what is
computed beforehand (folded constants, gradients), runs on the CPU always.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache, wraps
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import ParamSpec, TypeVar

from ..errors import NoRuntimeError, OptionError, did_you_mean
from .installed import import_onnxruntime

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "nvtensorrtrtx": "NvTensorRTRTXExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "directml": "DmlExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "dnnl": "DnnlExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
    "cann": "CANNExecutionProvider",
    "vitisai": "VitisAIExecutionProvider",
    "acl": "ACLExecutionProvider",
    "nnapi": "NnapiExecutionProvider",
}
"""What users call a provider → what onnxruntime does."""

EXTRAS = {"cpu": "cpu", "cuda": "gpu", "tensorrt": "gpu", "openvino": "openvino", "directml": "directml", "qnn": "qnn"}
"""Provider → the extra of this package that brings it."""


P = ParamSpec("P")
R = TypeVar("R")
NoneType = type(None)


NEEDS_CUDA = {"CUDAExecutionProvider", "TensorrtExecutionProvider"}

PLUGINS = {"QNNExecutionProvider": "onnxruntime_qnn"}
"""Provider → the package that brings it as a library of its own, beside whichever onnxruntime is installed."""


@dataclass(frozen=True)
class Provider:
    """Where sessions run; plain data, so that it can be sent to another process.

    Attributes
    ----------
    name : str
        One of `PROVIDERS`, or a name as onnxruntime writes it.
    options : tuple of (str, str)
        As onnxruntime's documentation of the provider lists them.
    custom_ops : tuple of str
        Libraries of operators, registered in every session.
    """

    name: str = "cpu"
    options: tuple[tuple[str, str], ...] = ()
    custom_ops: tuple[str, ...] = ()

    @classmethod
    def parse(cls, name: str | None, options: Iterable[str] = (), custom_ops: Iterable[str | Path] = ()) -> Provider:
        """Make one of what a command line gives: a name, ``KEY=VALUE`` and paths; what is left out is as it was.

        Raises
        ------
        OptionError
            There is no provider of this name, an option lacks its '=', or a library is not there.
        """
        before = running()
        pairs = []
        for text in options:
            key, equals, value = text.partition("=")
            if not equals or not key:
                raise OptionError(f"--provider-option {text!r}: expected KEY=VALUE, such as device_type=CPU")
            pairs.append((key.strip(), value.strip()))
        name = before.name if name is None else name
        kept = before.options if name == before.name else ()
        return cls(name, (*kept, *pairs), (*before.custom_ops, *map(str, custom_ops))).checked()

    @property
    def full_name(self) -> str:
        """The name as onnxruntime writes it."""
        return PROVIDERS.get(self.name.lower(), self.name)

    @property
    def is_cpu(self) -> bool:
        """Whether it is onnxruntime's own provider for the CPU."""
        return self.full_name == PROVIDERS["cpu"]

    def checked(self) -> Provider:
        """Return this, or raise `OptionError` or `NoRuntimeError` where it cannot be had here."""
        if self.full_name not in {*PROVIDERS.values(), *(there := available())}:
            known = [*PROVIDERS]
            raise OptionError(
                f"provider '{self.name}': unknown{did_you_mean(self.name, known)}; here there is {', '.join(there)}"
            )
        if self.full_name not in there and self.name.lower() not in there:
            raise NoRuntimeError(
                f"provider '{self.name}': the onnxruntime that is installed does not have it, only {', '.join(there)}"
                f"{_how_to_get(self.name.lower())}"
            )
        for library in self.custom_ops:
            if not Path(library).is_file():
                raise OptionError(f"--custom-ops {library}: no such file")
        if self.is_cpu and self.options:
            raise OptionError(f"provider 'cpu' takes no options, got {self.options[0][0]}")
        return self

    def describe(self) -> str:
        """Say in a few words where sessions run."""
        options = ", ".join(f"{key}={value}" for key, value in self.options)
        return f"{self.name} ({options})" if options else self.name


CPU = Provider()
_RUNNING: ContextVar[Provider] = ContextVar("provider", default=CPU)


def running() -> Provider:
    """Return where sessions that are opened now run."""
    return _RUNNING.get()


def on_cpu() -> Provider:
    """Return the CPU, with the custom operators of now: where a rewrite is checked, and constants are folded."""
    return replace(running(), name="cpu", options=())


@contextmanager
def running_on(provider: Provider | str | None) -> Iterator[Provider]:
    """Let sessions that are opened in the block run there; None leaves it as it is.

    Raises
    ------
    OptionError, NoRuntimeError
        There is no such provider, here or at all.
    """
    chosen = running() if provider is None else provider
    if isinstance(chosen, str):
        chosen = replace(running(), name=chosen, options=())
    token = _RUNNING.set(chosen if provider is None else chosen.checked())
    try:
        yield chosen
    finally:
        _RUNNING.reset(token)


def runs_on_provider(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function with a keyword `provider` run as a whole where that says."""

    @wraps(function)
    def run(*args: P.args, **options: P.kwargs) -> R:
        provider = options.get("provider")
        if not isinstance(provider, (Provider, str, NoneType)):
            raise OptionError(f"provider: expected a name or a Provider, got {type(provider).__name__}")
        with running_on(provider):
            return function(*args, **options)

    return run


def available() -> list[str]:
    """Return the providers of the onnxruntime that is installed, by the names that users give."""
    _load_plugins()
    short = {full: name for name, full in PROVIDERS.items()}
    found = [short.get(name, name) for name in import_onnxruntime().get_available_providers()]
    return [name for name in found if name != "AzureExecutionProvider"]  # calls a service, computes nothing


@cache
def _load_plugins() -> None:
    """Let onnxruntime know of providers that packages of their own bring."""
    runtime = import_onnxruntime()
    for name, package in PLUGINS.items():
        if name in runtime.get_available_providers() or find_spec(package) is None:
            continue
        try:
            runtime.register_execution_provider_library(name, import_module(package).get_library_path())
        except Exception as error:  # noqa: BLE001 - onnxruntime's errors share no base, and the package may raise any
            warnings.warn(f"{package} cannot be loaded: {' '.join(str(error).split())[:300]}", stacklevel=2)


@cache
def load_cuda() -> None:
    """Let onnxruntime find the libraries of CUDA and cuDNN that pip has installed, where the system does not look."""
    if (preload := getattr(import_onnxruntime(), "preload_dlls", None)) is not None:
        with redirect_stdout(StringIO()):  # it prints what is missing, which a session that does not start says, too
            preload()


def _how_to_get(name: str) -> str:
    extra = EXTRAS.get(name)
    return f'; pip install "onnxcompress[{extra}]" in an environment of its own brings it' if extra else ""
