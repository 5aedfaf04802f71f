"""Quantization-aware training: float masters behind the integers of a quantized model."""
