"""Random graphs that look like what exporters write: valid by construction, the same for the same seed."""

from __future__ import annotations

from .graph import Varied, varied_graph

__all__ = ["Varied", "varied_graph"]
