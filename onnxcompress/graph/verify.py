"""The verifier that runs after each pass: a wrong rewrite is an error at once, not a wrong answer later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from ..errors import ModelError, VerifyError
from .weightless import weightless

if TYPE_CHECKING:
    from ..runtime.session import Port, Session

Outputs = dict[str, Any]

ROUNDINGS, MOST_ROUNDING = 4.0, 1e-4
"""A difference of up to so many times the model's own rounding may be rounding; beyond the second it never is."""


class Verifier:
    """Holds what the current model answers to one feed, and checks the next model against it.

    Parameters
    ----------
    model : onnx_ir.Model
        The model that is known to be right.
    feeds : dict, optional
        One feed; by default small random values that fit the inputs.

    Raises
    ------
    ModelError
        ONNX Runtime cannot load or run the model.
    """

    def __init__(self, model: ir.Model, feeds: dict[str, Any] | None = None) -> None:
        from ..runtime.inputs import runnable_feed

        self._strict = _checker_message(model, full=True) is None
        self._session = _open(model)
        self.feeds = runnable_feed(model, self._session) if feeds is None else feeds
        self._outputs = self._session.run(self.feeds)
        self._model = model

    def check(self, model: ir.Model, *, tolerance: float | None = None, retyped: bool = False) -> None:
        """Check `model`, and take it as the one that is known to be right.

        Checked: the ONNX checker (with full shape inference if the model passed that before), ONNX Runtime loads it,
        inputs and outputs have the same names, types and compatible shapes, outputs are finite wherever they were.

        Parameters
        ----------
        model : onnx_ir.Model
        tolerance : float, optional
            Also compare the outputs: ``max|a − b| ≤ tolerance · max|a|`` for each. An output that differs by more is
            still right when the model known to be right differs from itself as much, computed in another order: some
            networks amplify rounding.
        retyped : bool
            Inputs and outputs may have other floating-point types than before.

        Raises
        ------
        VerifyError
            With the first thing that does not hold.
        """
        message = _checker_message(model, full=self._strict)
        if message is not None:
            raise VerifyError(f"the ONNX checker rejects the result: {message}")
        try:
            session = _open(model)
            outputs = session.run(self.feeds)
        except ModelError as error:
            raise VerifyError(f"ONNX Runtime refuses the result: {error}") from None
        _same_ports("input", self._session.inputs, session.inputs, retyped=retyped)
        _same_ports("output", self._session.outputs, session.outputs, retyped=retyped)
        for name, before in self._outputs.items():
            self._check_output(name, before, outputs[name], tolerance)
        self._session, self._outputs, self._model = session, outputs, model

    def _check_output(self, name: str, before: Any, after: Any, tolerance: float | None) -> None:
        if not isinstance(before, np.ndarray) or not isinstance(after, np.ndarray):
            return
        if before.shape != after.shape:
            raise VerifyError(f"output '{name}' has shape {after.shape}, and had {before.shape}")
        if before.dtype.kind != "f":
            if tolerance is not None and not np.array_equal(before, after):
                raise VerifyError(f"output '{name}' changed, which a lossless pass must not do")
            return
        if np.isfinite(before).all() and not np.isfinite(after).all():
            raise VerifyError(f"output '{name}' is no longer finite")
        if tolerance is None or not before.size or not np.isfinite(before).all():
            return
        error = _difference(before, after)
        if not error <= tolerance and not error <= self._rounding(name):
            raise VerifyError(f"output '{name}' differs by {error:.1e} relative; at most {tolerance:.0e} is promised")

    def _rounding(self, name: str) -> float:
        """Return what may be rounding: a few times how far the model is from itself in the order it is written in."""
        from ..runtime.session import open_session

        as_written = open_session(self._model, optimize="none").run(self.feeds)[name]
        return min(ROUNDINGS * _difference(self._outputs[name], as_written), MOST_ROUNDING)


def _open(model: ir.Model) -> Session:
    from ..runtime.session import open_session

    return open_session(model)


def _checker_message(model: ir.Model, *, full: bool) -> str | None:
    try:
        onnx.checker.check_model(ir.to_proto(weightless(model)), full_check=full)
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


def _is_float(port: Port) -> bool:
    return port.dtype is not None and "float" in port.dtype.name


def _compatible(before: Any, after: Any) -> bool:
    if before is None or after is None:
        return True
    both_known = [(a, b) for a, b in zip(before, after, strict=False) if isinstance(a, int) and isinstance(b, int)]
    return len(before) == len(after) and all(a == b for a, b in both_known)


def _difference(before: npt.NDArray[Any], after: npt.NDArray[Any]) -> float:
    """Return the largest difference, relative to the largest value."""
    return float(np.abs(before.astype(np.float64) - after).max()) / (float(np.abs(before).max()) or 1.0)
