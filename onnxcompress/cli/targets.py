"""``onnxcompress targets``."""

from __future__ import annotations

from .app import AsJson


def targets(as_json: AsJson = False) -> int:
    """List the engines that lint and quantize know."""
    from ..display import console
    from ..targets.target import load_target, target_names

    found = [load_target(name) for name in target_names()]
    if as_json:
        console.show_text(console.to_json(found))
        return 0
    from ..display import tables
    from ..errors import NoRuntimeError
    from ..targets.here import local_target

    try:
        here = local_target()
    except NoRuntimeError:
        here = ""  # nothing runs here yet
    console.show(tables.targets(found, here))
    return 0
