"""Scales that each run chooses for itself."""
