"""How onnx is told of onnxruntime's own operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import onnx
import onnx.reference  # reads the schemas once, and fails where two domains have operators of one name
from onnx import shape_inference

from .schemas import MICROSOFT, SIGNATURES, Signature
from .shapes import infer


def register() -> None:
    """Tell onnx of the operators that it does not know; what somebody told it before stays."""
    for signature in SIGNATURES.values():
        if not onnx.defs.has(signature.name, signature.domain):
            schema = signature.schema()
            schema.set_type_and_shape_inference_function(_inference(signature))
            onnx.defs.register_schema(schema)


def _inference(signature: Signature) -> Callable[[shape_inference.InferenceContext], None]:
    return lambda context: infer(signature, context)


@contextmanager
def unknown() -> Iterator[None]:
    """Let onnx forget those of onnxruntime's own domain for a while."""
    for signature in SIGNATURES.values():
        if signature.domain == MICROSOFT and onnx.defs.has(signature.name, signature.domain):
            onnx.defs.deregister_schema(signature.name, 1, signature.domain)
    try:
        yield
    finally:
        register()
