"""Operators that onnxruntime has beside ONNX's own: their schemas, and the types and shapes of what they give."""

from .register import register, unknown

__all__ = ["register", "unknown"]
