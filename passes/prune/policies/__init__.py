"""Which weights an engine's sparse kernels make use of."""
