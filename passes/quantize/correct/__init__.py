"""Setting rounding and biases so that each layer gives what it gave in float."""
