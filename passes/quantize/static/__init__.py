"""Static quantization: which tensors, with which scales."""
