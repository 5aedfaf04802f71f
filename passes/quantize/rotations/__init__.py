"""What the residual stream is rotated by."""
