"""What passes want to know of tensors over the samples, and what collects it."""
