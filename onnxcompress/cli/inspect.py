"""``onnxcompress inspect``."""

from __future__ import annotations

from .app import AsJson, ModelPath


def inspect(model: ModelPath, as_json: AsJson = False) -> int:
    """Show what is in MODEL, and what can be pruned."""
    from ..display import console
    from ..inspection import inspect as look

    found = look(model)
    if as_json:
        console.show_text(found.to_json())
        return 0
    from ..display import tables

    console.show(*tables.inspection(found))
    return 0
