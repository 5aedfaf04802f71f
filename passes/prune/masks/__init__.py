"""Which weights, or which channels of which groups, become zero."""
