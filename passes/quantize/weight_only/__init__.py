"""Weights stored as integers of few bits, computed in float."""
