"""Quantizing no more than a largest drop of the metric allows."""
