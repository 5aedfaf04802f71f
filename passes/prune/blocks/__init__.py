"""Residual blocks: found on the graph, chosen, left out."""
