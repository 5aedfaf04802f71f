"""The one place that makes onnxruntime sessions."""

from __future__ import annotations

import ctypes
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..errors import ModelError, NoRuntimeError, OptionError
from ..graph import edit, interface
from ..graph.save import weights, without_small_files
from ..scratch import temporary_folder
from . import coded
from .installed import import_onnxruntime
from .provider import NEEDS_CUDA, PLUGINS, PROVIDERS, Provider, load_cuda, running
from .stored import LEAST_BYTES, TYPES, Store, can_be_stored, store

if TYPE_CHECKING:
    import onnxruntime

Array = npt.NDArray[Any]
Dims = tuple[int | str | None, ...]
Optimize = Literal["all", "extended", "basic", "none"]

INLINE_LIMIT = 1_900_000_000
"""Bytes of weights in memory above which a model cannot be one protobuf (2 GB) and goes through a folder."""

BROKEN_FOR_FLOAT8 = ["ClipQuantRewrite", "ReluQuantRewrite"]
"""What onnxruntime (1.32) must not do to a model with QuantizeLinear to 8-bit floats: it takes their zero point for the
lowest value of a type without negative ones, and leaves out the Relu before it."""

SHARED_BYTES = 1 << 28
"""Bytes of weights above which sessions share one copy of them."""

PACKED_SHARE = 1 / 16
"""Share of the bytes of weights from which on integers decide: on weights in the order in which they are stored,
onnxruntime (1.32) runs MatMulNBits, and what it makes one of, 40 to 100 times slower; floats, 1.2 to 1.5 times."""

_INTEGERS = {ir.DataType[f"{sign}INT{bits}"] for sign in ("", "U") for bits in (2, 4, 8)}

_LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "none": "ORT_DISABLE_ALL",
}
_FATAL_ONLY = 4
COMPARABLE = {"bfloat16", "float16", "float32"}
NO_KERNEL = ("Could not find an implementation", "Type 'tensor(bfloat16)'")
"""What onnxruntime says of operators that it cannot run in these types, or expands into such ones."""

NOT_REGISTERED = "is not a registered function/op"
"""What onnxruntime says of an operator that none of its libraries has."""

CUSTOM_OPS = "give its library: --custom-ops LIBRARY, or custom_ops of a Provider; without it, inspect and lint work"


class Port(NamedTuple):
    """An input or output: its dtype (None unless a tensor) and its shape, with names or None for what varies."""

    dtype: np.dtype[Any] | None
    shape: Dims


class Session:
    """A model ready to run. Made by `open_session`.

    Attributes
    ----------
    inputs, outputs : dict of str to Port
        ``(dtype, shape)`` by name. Inputs that have a default (an initializer) are not among them.
    types : dict of str to str
        The type of each input and output as onnxruntime writes it, such as ``tensor(float)``.
    """

    def __init__(
        self,
        inner: onnxruntime.InferenceSession,
        label: str,
        weights: Sequence[Any] = (),
        scales: Mapping[str, Array] | None = None,
    ) -> None:
        self._inner, self._scales = inner, scales or {}
        self._weights = weights  # what onnxruntime reads and does not own
        self._label = label
        self._cuts = interface.read(inner.get_modelmeta().custom_metadata_map)
        self.inputs = {arg.name: self._port(arg) for arg in inner.get_inputs()}
        self.outputs = {arg.name: self._port(arg) for arg in inner.get_outputs()}
        self.types = {arg.name: str(arg.type) for arg in (*inner.get_inputs(), *inner.get_outputs())}
        self.types |= dict.fromkeys(self._scales, "tensor(float)")

    def run(self, feeds: Mapping[str, Array], outputs: list[str] | None = None) -> dict[str, Any]:
        """Run once.

        Parameters
        ----------
        feeds : mapping of str to ndarray
            Exactly the dtypes and ranks of `inputs`; but float32, float16 and bfloat16 are made of each other, so
            that models that differ in this alone can be compared. Caches that the model keeps as integers are floats
            here, too. Of what was made for the original, what its inputs have lost is cut out.
        outputs : list of str, optional
            Which outputs to compute; all by default.

        Returns
        -------
        dict of str to ndarray
            In the order asked. A sequence comes back as a list, a map as a dict, an empty optional as None.

        Raises
        ------
        ModelError
            onnxruntime refuses the feeds or fails while running.
        """
        onnxruntime = import_onnxruntime()
        names = list(self.outputs) if outputs is None else outputs
        quiet = onnxruntime.RunOptions()
        quiet.log_severity_level = _FATAL_ONLY
        narrow = any(_is_narrow(self.outputs[name].dtype) for name in names if name in self.outputs)
        feeds = {name: self._rounded(name, interface.cut(self._cuts, name, array)) for name, array in feeds.items()}
        with _as_model_error(self._label):
            if narrow or any(_is_narrow(array.dtype) for array in feeds.values() if isinstance(array, np.ndarray)):
                return self._run_narrow(feeds, names, quiet)
            found = dict(zip(names, self._inner.run(names, dict(feeds), quiet), strict=True))
        return found | {name: coded.decode(found[name], self._scales[name]) for name in self._scales.keys() & found}

    def as_here(self, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """Cut outputs of the original down to what this model's inputs and outputs still have."""
        return {name: interface.cut(self._cuts, name, array) for name, array in outputs.items()}

    def _rounded(self, name: str, array: Array) -> Array:
        if not isinstance(array, np.ndarray):
            return array  # a sequence
        if name in self._scales and array.dtype.name in COMPARABLE:
            return coded.encode(array, self._scales[name])
        dtype = self.inputs[name].dtype if name in self.inputs else None
        floats = dtype is not None and {dtype.name, array.dtype.name} <= COMPARABLE
        return array.astype(dtype) if floats else array

    def _port(self, arg: Any) -> Port:
        port = _port(arg)
        return Port(np.dtype(np.float32), port.shape) if arg.name in self._scales else port

    def taken(self, provider: Provider) -> tuple[int, int] | None:
        """Tell how many nodes a provider runs, and of how many; None where onnxruntime does not say (before 1.24)."""
        if not hasattr(self._inner, "get_provider_graph_assignment_info"):
            return None
        found = [(one.ep_name, len(one.get_nodes())) for one in self._inner.get_provider_graph_assignment_info() or ()]
        total = sum(count for _, count in found)
        return (sum(count for name, count in found if name == provider.full_name), total) if total else None

    def end_profile(self) -> Path:
        """Write the profile of the runs so far, if the session was opened with a `profile_prefix`; return where."""
        return Path(self._inner.end_profiling())

    def _run_narrow(self, feeds: Mapping[str, Array], names: list[str], options: Any) -> dict[str, Any]:
        """Run with types that numpy has no dtype of its own for (bfloat16, float8); their bytes are handed over."""
        onnxruntime = import_onnxruntime()
        make = onnxruntime.OrtValue.ortvalue_from_numpy
        make_narrow = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type
        values = {}
        for name, array in feeds.items():
            if _is_narrow(array.dtype):
                raw = np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")
                values[name] = make_narrow(raw, int(ir.DataType.from_numpy(array.dtype)))
            else:
                values[name] = make(np.ascontiguousarray(array).reshape(array.shape))
        found = self._inner.run_with_ort_values(names, values, options)
        return {name: self._fetch(name, value) for name, value in zip(names, found, strict=True)}

    def _fetch(self, name: str, value: Any) -> Any:
        dtype = self.outputs[name].dtype
        if dtype is None or not _is_narrow(dtype):
            return value.numpy()
        shape = tuple(value.shape())
        raw = ctypes.string_at(value.data_ptr(), math.prod(shape) * dtype.itemsize)
        return np.frombuffer(raw, dtype).reshape(shape)


def open_session(
    model: ir.Model | str | Path,
    *,
    optimize: Optimize = "all",
    threads: int = 0,
    exact: bool = False,
    prepack: bool = False,
    optimized_path: Path | None = None,
    profile_prefix: Path | None = None,
    provider: Provider | None = None,
) -> Session:
    """Open a model in onnxruntime.

    Parameters
    ----------
    model : onnx_ir.Model, str or Path
        A model in memory is not changed. Its external weights are read by onnxruntime from where they lie.
    optimize : {"all", "extended", "basic", "none"}
        How far onnxruntime rewrites the graph.
    threads : int
        Threads inside one operator; 0 means all cores that this process may use.
    exact : bool
        Compute in float what stands between DequantizeLinear and QuantizeLinear, for machines whose integer kernels
        lose products; see `onnxcompress.runtime.saturation`.
    prepack : bool
        Let onnxruntime always hold copies of the weights in the order in which its kernels read them. Otherwise models
        whose weights take more than `SHARED_BYTES` go without, unless many of them are integers (`PACKED_SHARE`): all
        their sessions share one copy, and float products take a little longer.
    optimized_path : Path, optional
        Where onnxruntime writes the graph that it made of the model; its large weights go into a file beside it.
    profile_prefix : Path, optional
        Where the name of the profile begins that `Session.end_profile` writes.
    provider : Provider, optional
        Where it runs, by default where `onnxcompress.runtime.provider.running_on` says.

    Returns
    -------
    Session

    Raises
    ------
    ModelError
        onnxruntime cannot load the model.
    NoRuntimeError
        There is no onnxruntime, or its provider cannot be started here.

    Notes
    -----
    onnxruntime's CPU has few kernels for bfloat16. A model that it cannot run for that reason is run with float32
    operators that round each result to bfloat16; its times then say nothing.
    """
    place = provider or running()
    try:
        return _open(model, optimize, threads, exact, prepack, optimized_path, profile_prefix, place)
    except ModelError as error:
        if not any(text in str(error) for text in NO_KERNEL):
            raise
        from .bfloat16 import in_float32

        in_float = in_float32(model if isinstance(model, ir.Model) else ir.load(model))
        if in_float is None:
            raise
    return _open(in_float, optimize, threads, exact, prepack, optimized_path, profile_prefix, place)


def _open(
    model: ir.Model | str | Path,
    optimize: Optimize,
    threads: int,
    exact: bool,
    prepack: bool,
    optimized_path: Path | None,
    profile_prefix: Path | None,
    provider: Provider,
) -> Session:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, _LEVELS[optimize])
    options.intra_op_num_threads = threads or usable_cores()
    options.inter_op_num_threads = 1
    # Otherwise the idle threads of one session go on spinning on the cores that another one is running on.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if exact:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if optimized_path is not None:
        options.optimized_model_filepath = str(optimized_path)
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{optimized_path.name}.data"
        )
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    _register(provider.custom_ops, options)
    label = str(model.graph.name or "model") if isinstance(model, ir.Model) else str(model)
    shared: list[Any] | None = None
    if isinstance(model, ir.Model) and not prepack and optimized_path is None and _shares_weights(model):
        shared = []
        options.add_session_config_entry("session.disable_prepacking", "1")
    with _as_model_error(label), _source(model, options, shared, map_weights=optimized_path is None) as source:
        broken = BROKEN_FOR_FLOAT8 if _has_float8(model) else None
        places = _places(provider, options)
        inner = onnxruntime.InferenceSession(source, options, providers=places, disabled_optimizers=broken)
    _check_started(inner, provider)
    return Session(inner, label, shared or (), coded.scales_of(model) if isinstance(model, ir.Model) else None)


def _places(provider: Provider, options: Any) -> list[Any] | None:
    """Return what runs the graph, in order: the CPU takes what the other one does not. None where options say it."""
    cpu = PROVIDERS["cpu"]
    if provider.is_cpu:
        return [cpu]
    if "ONNXCOMPRESS_DEBUG" not in os.environ:
        import_onnxruntime().set_default_logger_severity(_FATAL_ONLY)  # `_check_started` says it in one line
    if provider.full_name in NEEDS_CUDA:
        load_cuda()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if provider.full_name in PLUGINS:
        devices = [d for d in import_onnxruntime().get_ep_devices() if d.ep_name == provider.full_name]
        if devices:
            options.add_provider_for_devices(devices[:1], dict(provider.options))
            return None
    return [(provider.full_name, dict(provider.options)), cpu]


def _check_started(inner: onnxruntime.InferenceSession, provider: Provider) -> None:
    """Raise where onnxruntime has fallen back to the CPU in silence, as it does without a driver or a device."""
    if provider.full_name not in inner.get_providers():
        raise NoRuntimeError(
            f"provider '{provider.describe()}': onnxruntime has it and cannot start it on this machine, for want of a "
            "device, a driver or a library; --provider cpu works everywhere"
        )


def _register(libraries: Sequence[str], options: Any) -> None:
    for library in libraries:
        try:
            options.register_custom_ops_library(str(Path(library).resolve()))
        except _errors() as error:
            raise OptionError(f"--custom-ops {library}: onnxruntime cannot load it: {_said(error)}") from None


def _shares_weights(model: ir.Model) -> bool:
    """Tell whether a model is so large that its sessions share one copy of weights, whose order matters little."""
    sizes = [(t.nbytes, t.dtype in _INTEGERS) for t in weights(model)]
    total = sum(size for size, _ in sizes)
    return total > SHARED_BYTES and sum(size for size, integer in sizes if integer) < PACKED_SHARE * total


def _has_float8(model: ir.Model | str | Path) -> bool:
    if not isinstance(model, ir.Model):
        return False  # from a file it is only timed
    types = (v.const_value.dtype for v in model.graph.initializers.values() if v.const_value is not None)
    return any(dtype.name.startswith("FLOAT8") for dtype in types)


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _source(
    model: ir.Model | str | Path, options: Any, shared: list[Any] | None, *, map_weights: bool
) -> Iterator[str | bytes]:
    """What onnxruntime is to open: a path, or the bytes of a model in memory, without weights that lie in files.

    With a list `shared`, onnxruntime reads such weights where this process has them, and the list keeps them there.
    """
    if not isinstance(model, ir.Model):
        if not Path(model).is_file():
            raise ModelError(f"{model}: no such file")
        yield str(model)
        return
    values = [value for graph in model.graphs() for value in graph.initializers.values()]
    files = store() if map_weights else None
    with _mapped(values, files) as root:
        kept = (value.const_value for value in values)
        inline = sum(t.nbytes for t in kept if t is not None and not isinstance(t, ir.ExternalTensor))
        if inline <= INLINE_LIMIT and root is not None:
            if root:
                options.add_session_config_entry("session.model_external_initializers_file_folder_path", root)
            source = ir.to_proto(model).SerializeToString()
        else:
            source = None
        main = model.graph.initializers
        in_files = {name: value for name, value in main.items() if isinstance(value.const_value, ir.ExternalTensor)}
    if source is not None:
        if shared is not None:
            _share(in_files, files, options, shared)
        yield source
        return
    with temporary_folder() as place:
        path = place / "model.onnx"
        ir.save(without_small_files(model), path, external_data="model.data")
        yield str(path)


@contextmanager
def _mapped(values: list[ir.Value], files: Store | None) -> Iterator[str | None]:
    """Let values refer meanwhile to files below one folder, since onnxruntime looks into one only; yields which.

    In the bytes of a model, a weight is copied several times before it is used, and then once more by each session.
    Empty where no weight lies in a file; None where no folder holds them all.
    """
    before = [(value, value.const_value) for value in values]
    places: list[tuple[ir.Value, ir.TensorProtocol, Path, int]] = []
    for value, tensor in before:
        if isinstance(tensor, ir.ExternalTensor):
            places.append((value, tensor, Path(tensor.path).resolve(), tensor.offset or 0))
        elif files is not None and tensor is not None and can_be_stored(value):
            name = files.keep(tensor)
            if name is not None:
                places.append((value, tensor, (files.folder / name).resolve(), 0))
    try:
        root = _common_folder([path for _, _, path, _ in places])
        for value, tensor, path, offset in places if root is not None else ():
            stored = ir.ExternalTensor(
                path.relative_to(root or "").as_posix(),
                offset,
                tensor.nbytes,
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=str(value.name),
            )
            edit.store_elsewhere(value, stored)
        yield root
    finally:
        for value, tensor in before:
            edit.store_elsewhere(value, tensor)


def _common_folder(paths: list[Path]) -> str | None:
    try:
        return os.path.commonpath([path.parent for path in paths]) if paths else ""
    except ValueError:
        return None  # on different drives


def _share(values: Mapping[str, ir.Value], files: Store | None, options: Any, shared: list[Any]) -> None:
    """Give onnxruntime the arrays of weights that lie in files: this process maps each of them once."""
    onnxruntime = import_onnxruntime()
    for name, value in values.items():
        tensor = value.const_value
        if tensor is None or tensor.dtype not in TYPES or tensor.nbytes < LEAST_BYTES or value.is_graph_input():
            continue
        array = tensor.numpy() if files is None else files.array(tensor)
        made = onnxruntime.OrtValue.ortvalue_from_numpy(array)
        options.add_initializer(name, made)
        shared += [made, array]


@cache
def _errors() -> tuple[type[Exception], ...]:
    """The exceptions of onnxruntime itself, which share no base class, and what its Python layer raises."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*found, RuntimeError, ValueError)


@contextmanager
def _as_model_error(label: str) -> Iterator[None]:
    try:
        yield
    except (ir.serde.SerdeError, OSError) as error:
        raise ModelError(f"{label}: cannot be written for onnxruntime: {error}") from error
    except _errors() as error:
        said = _said(error)
        hint = f"; {CUSTOM_OPS}" if NOT_REGISTERED in said else ""
        raise ModelError(f"{label}: onnxruntime: {said}{hint}") from error


def _said(error: BaseException) -> str:
    return " ".join(re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error)).split())


def _is_narrow(dtype: np.dtype[Any] | None) -> bool:
    return dtype is not None and dtype.kind == "V"


def _port(arg: Any) -> Port:
    shape = tuple(None if isinstance(dim, int) and dim < 0 else dim for dim in arg.shape or ())
    match = re.fullmatch(r"tensor\((\w+)\)", arg.type)
    name = match.group(1).upper() if match else ""
    dtype = ir.DataType[name].numpy() if name in ir.DataType.__members__ else None
    return Port(dtype, shape)
