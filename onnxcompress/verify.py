"""The verifier that runs after each pass: a wrong rewrite is an error at once, not a wrong answer later."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir

from .errors import ModelError, VerifyError
from .graph import edit, interface, settled, shapes
from .graph.checker import check_model
from .graph.weightless import weightless

if TYPE_CHECKING:
    from .runtime.differences import Difference, Pair
    from .runtime.session import Optimize, Port, Session

Feeds = Mapping[str, Any]
Outputs = dict[str, Any]

ROUNDINGS = 4.0
"""A difference of up to so many times the model's own rounding may be rounding."""

MOST = {
    ir.DataType.DOUBLE: 1e-4,
    ir.DataType.FLOAT: 1e-4,
    ir.DataType.FLOAT16: 2e-2,
    ir.DataType.BFLOAT16: 1e-1,
}
"""Coarsest type that a model computes in → a difference beyond which it never is rounding."""

MOST_JUMPING = 5e-2
"""The same for a model with operators that jump, such as QuantizeLinear; and the share of whole numbers that change."""

SINGLE = 8
"""So many Ifs are taken one by one where taking some of them at once does not run."""


class Verifier:
    """Holds what the current model answers to a few feeds, and checks the next model against it.

    Random numbers are replaced by fixed ones in both, so that no pass is blamed for them.

    Parameters
    ----------
    model : onnx_ir.Model
        The model that is known to be right. Must not be changed while it is the one.
    feeds : sequence of dict, optional
        By default small random values that fit the inputs, in several sizes where the model leaves them open.

    Attributes
    ----------
    feeds : list of dict
        Those that the model runs with.
    random : list of str
        The nodes that draw random numbers.

    Raises
    ------
    ModelError
        ONNX Runtime cannot load or run the model.
    """

    def __init__(self, model: ir.Model, feeds: Sequence[Feeds] | None = None) -> None:
        from .samples.random_values import first_runs

        self._strict = _checker_message(model, full=True) is None
        # What the checker says of the model that is known to be right is no pass's fault.
        self._known = None if self._strict else _checker_message(model, full=False)
        self.random = [edit.label(node) for node in settled.random_nodes(model)]
        session = _open(settled.settled(model))
        runs = first_runs(model, session) if feeds is None else [(feed, session.run(feed)) for feed in feeds]
        self.feeds: list[Feeds] = [feed for feed, _ in runs]
        self._take(model, session, [outputs for _, outputs in runs])

    def _take(self, model: ir.Model, session: Session, outputs: list[Outputs]) -> None:
        self._model, self._outputs = model, outputs
        self._inputs_were, self._outputs_were = session.inputs, session.outputs  # a session holds memory
        self.__dict__.pop("_sized_by_data", None)

    def check(
        self,
        model: ir.Model,
        *,
        tolerance: float | None = None,
        retyped: bool = False,
        freezes: bool = False,
        narrows: bool = False,
    ) -> None:
        """Check `model`, and take it as the one that is known to be right; see `compare`."""
        self._take(model, *self.compare(model, tolerance=tolerance, retyped=retyped, freezes=freezes, narrows=narrows))

    def compare(
        self,
        model: ir.Model,
        *,
        tolerance: float | None = None,
        retyped: bool = False,
        freezes: bool = False,
        narrows: bool = False,
    ) -> tuple[Session, list[Outputs]]:
        """Check `model` against the one that is known to be right.

        Checked: the ONNX checker (with full shape inference if the model passed that before), ONNX Runtime loads it,
        inputs and outputs have the same names, types and compatible shapes, inputs with a default keep it, outputs are
        finite where they were.

        Parameters
        ----------
        model : onnx_ir.Model
        tolerance : float, optional
            Also compare the outputs: ``max|a − b| ≤ tolerance · max|a|`` for each where it is finite, NaN and
            infinity at the same places, whole numbers alike; for every feed and every branch of every If. In a model
            that computes in 16 bits the tolerance is a few roundings at least. An output that differs by more is
            still right when the model known to be right differs from itself as much, computed in another order or
            rounded otherwise: some networks amplify rounding.
        retyped : bool
            Inputs and outputs may have other floating-point types than before.
        freezes : bool
            Inputs with a default may be gone.
        narrows : bool
            Inputs and outputs may have lost positions, those that the model's metadata say and no others.

        Returns
        -------
        session, outputs
            Of the model; for each feed.

        Raises
        ------
        VerifyError
            With the first thing that does not hold.
        """
        message = _checker_message(model, full=self._strict)
        if message not in (None, self._known):
            raise VerifyError(f"the ONNX checker rejects the result: {message}")
        try:
            session = _open(settled.settled(model))
            outputs = [session.run(feed) for feed in self.feeds]
        except ModelError as error:
            raise VerifyError(f"ONNX Runtime refuses the result: {error}") from None
        lost = self._lost(model) if narrows else {}
        _same_ports("input", _narrowed(self._inputs_were, lost), session.inputs, retyped=retyped)
        _same_ports("output", _narrowed(self._outputs_were, lost), session.outputs, retyped=retyped)
        if not freezes:
            _same_defaults(self._model, model, retyped=retyped)
        for feed, before, after in zip(self.feeds, self._outputs, outputs, strict=True):
            left = {name: interface.cut(lost, name, array) for name, array in before.items()}
            self._check_outputs(self._model, model, feed, left, after, tolerance)
        if tolerance is not None:
            self._check_branches(model, tolerance)
        return session, outputs

    def _lost(self, model: ir.Model) -> interface.Cuts:
        return interface.since(interface.read(self._model.metadata_props), interface.read(model.metadata_props))

    def _check_branches(self, model: ir.Model, tolerance: float) -> None:
        """Compare with the branches of Ifs taken, all combinations of a few levels; one by one where that fails."""
        left = settled.varying(model)  # a pass may have found out what a condition always is
        ifs = {name: level for name, level in settled.varying(self._model).items() if name in left}
        if not ifs:
            return
        failed = [taken for taken in settled.branches(ifs) if not self._check_branch(model, taken, tolerance)]
        for name in list(ifs)[:SINGLE] if failed else ():
            for branch in (True, False):
                self._check_branch(model, {name: branch}, tolerance)

    def _check_branch(self, model: ir.Model, taken: settled.Branches, tolerance: float) -> bool:
        """Compare with some branches taken; tell whether the model known to be right runs so with what it is fed."""
        known, feed = settled.forced(self._model, taken), self.feeds[0]
        try:
            before = _open(settled.settled(known)).run(feed)
        except ModelError:
            return False
        changed = settled.forced(model, taken)
        try:
            after = _open(settled.settled(changed)).run(feed)
        except ModelError as error:
            raise VerifyError(f"ONNX Runtime refuses the result in a branch that no feed takes: {error}") from None
        self._check_outputs(known, changed, feed, before, after, tolerance)
        return True

    def _check_outputs(
        self,
        known: ir.Model,
        changed: ir.Model,
        feed: Feeds,
        before: Outputs,
        after: Outputs,
        tolerance: float | None,
    ) -> None:
        from .runtime.differences import all_finite, pairs

        for name, value in before.items():
            if tolerance is None and name in self._sized_by_data and not isinstance(value, np.ndarray):
                continue  # a sequence may have another length
            for pair in pairs(name, value, after[name]):
                if pair.before.shape != pair.after.shape:
                    self._check_shape(name, pair, tolerance)
                elif all_finite(pair.before) and not all_finite(pair.after):
                    raise VerifyError(f"output '{pair.name}' is no longer finite")
                elif tolerance is not None:
                    _Values(known, changed, feed, name).check(pair, tolerance)

    def _check_shape(self, name: str, pair: Pair, tolerance: float | None) -> None:
        same_rank = pair.before.ndim == pair.after.ndim
        if tolerance is not None or not same_rank or name not in self._sized_by_data:
            raise VerifyError(f"output '{pair.name}' has shape {pair.after.shape}, and had {pair.before.shape}")

    @cached_property
    def _sized_by_data(self) -> set[str]:
        """The outputs whose size does not follow from the sizes of the inputs."""
        sizes = {name: np.shape(array) for name, array in self.feeds[0].items()}
        return shapes.sized_by_data(self._model, sizes)


class _Values:
    """Compares an output of two models, and looks closer where it differs: it may be rounding."""

    def __init__(self, known: ir.Model, changed: ir.Model, feed: Feeds, name: str) -> None:
        self._known, self._changed, self._feed, self._name = known, changed, feed, name

    def check(self, pair: Pair, tolerance: float) -> None:
        """Raise `VerifyError` if two arrays differ by more than is promised, and by more than rounding explains."""
        from .runtime import rounding
        from .runtime.differences import difference

        found = difference(pair.before, pair.after)
        if found.error <= tolerance and not found.changed:
            return
        dtype = rounding.coarsest(self._known)
        if dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
            tolerance = max(tolerance, ROUNDINGS * rounding.unit(dtype))
        own = self._own(pair, dtype, tolerance)
        if found.changed > own.changed:
            raise VerifyError(
                f"output '{pair.name}' changed in {found.changed:.2%} of its elements, and a lossless pass changes none"
            )
        if found.error > max(tolerance, own.error):
            raise VerifyError(
                f"output '{pair.name}' differs by {found.error:.1e} relative; at most {tolerance:.0e} is promised"
            )

    def _own(self, pair: Pair, dtype: ir.DataType, tolerance: float) -> Difference:
        """Return what may be rounding: a few times how far the model is from itself, rounded otherwise."""
        from .runtime import rounding
        from .runtime.differences import Difference

        model, most = settled.settled(self._known), Difference(0.0, 0.0)
        first = _open(model).run(self._feed)[self._name]
        for other in rounding.otherwise(model, self._feed, dtype):
            found = self._between(pair, first, other[self._name])
            if math.isfinite(found.error):
                most = Difference(*map(max, most, found))
        limit, jumps, agree = MOST[dtype], rounding.jumps(model), self._agree_as_written(model, pair, tolerance)
        if agree and rounding.orders(model):  # of two detections that are nearly as good, either may come first
            return Difference(math.inf, 1.0)
        if jumps or agree:
            limit = max(limit, MOST_JUMPING)
        return Difference(min(ROUNDINGS * most.error, limit), min(ROUNDINGS * most.changed, MOST_JUMPING))

    def _agree_as_written(self, model: ir.Model, pair: Pair, tolerance: float) -> bool:
        """Tell whether the models agree without ONNX Runtime's own rewriting, which rounds to 8 bits now and then."""
        both = (_open(m, optimize="none").run(self._feed) for m in (model, settled.settled(self._changed)))
        before, after = (outputs[self._name] for outputs in both)
        found = self._between(pair, before, after)
        return found.error <= tolerance and not found.changed

    def _between(self, pair: Pair, before: Any, after: Any) -> Difference:
        """Return the difference of what two runs give in the place of a pair."""
        from .runtime.differences import Difference, difference, pairs

        for found in pairs(self._name, before, after):
            if found.name == pair.name and found.before.shape == found.after.shape:
                return difference(found.before, found.after)
        return Difference(math.inf, 1.0)


def _open(model: ir.Model, optimize: Optimize = "all") -> Session:
    from .runtime.provider import on_cpu
    from .runtime.session import open_session

    return open_session(model, optimize=optimize, provider=on_cpu())


def _checker_message(model: ir.Model, *, full: bool) -> str | None:
    try:
        check_model(ir.to_proto(weightless(model)), full=full)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        return " ".join(str(error).split())[:400]
    return None


def _same_ports(kind: str, before: dict[str, Port], after: dict[str, Port], *, retyped: bool) -> None:
    if list(before) != list(after):
        raise VerifyError(f"the {kind}s changed: {', '.join(before)} before, {', '.join(after)} after")
    for name, port in before.items():
        other = after[name]
        if port.dtype != other.dtype and not (retyped and _is_float(port) and _is_float(other)):
            raise VerifyError(f"{kind} '{name}' changed its type from {port.dtype} to {other.dtype}")
        if not _compatible(port.shape, other.shape):
            raise VerifyError(f"{kind} '{name}' changed its shape from {port.shape} to {other.shape}")


def _narrowed(ports: dict[str, Port], lost: interface.Cuts) -> dict[str, Port]:
    """Return inputs or outputs without the positions that were lost."""
    found = dict(ports)
    for name, axes in lost.items():
        if name in found and found[name].shape is not None:
            left = {axis: len(places) for axis, (_, places) in axes.items()}
            shape = tuple(left.get(axis, dim) for axis, dim in enumerate(found[name].shape or ()))
            found[name] = found[name]._replace(shape=shape)
    return found


def _is_float(port: Port) -> bool:
    return port.dtype is not None and "float" in port.dtype.name


def _compatible(before: Any, after: Any) -> bool:
    if before is None or after is None:
        return True
    both_known = [(a, b) for a, b in zip(before, after, strict=False) if isinstance(a, int) and isinstance(b, int)]
    return len(before) == len(after) and all(a == b for a, b in both_known)


def _same_defaults(before: ir.Model, after: ir.Model, *, retyped: bool) -> None:
    """Inputs that need not be given stay, with what they are then."""
    if (before.ir_version or 0) < edit.EXPLICIT_INITIALIZERS:
        return  # nobody could set them
    known = {value.name: value.const_value for value in edit.defaults(after.graph)}
    for value in edit.defaults(before.graph):
        tensor, other = value.const_value, known.get(value.name)
        if other is None:
            raise VerifyError(f"the input '{value.name}', which has a default, is gone")
        if tensor is None or tensor is other:
            continue
        if tensor.dtype != other.dtype and not retyped:
            raise VerifyError(f"the default of input '{value.name}' is {other.dtype.name.lower()} now")
        if not np.array_equal(tensor.numpy().astype(other.dtype.numpy()), other.numpy()):
            raise VerifyError(f"the default of input '{value.name}' changed")
