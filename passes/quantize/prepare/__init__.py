"""The form that a model gets before it is quantized."""
