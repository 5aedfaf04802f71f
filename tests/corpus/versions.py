"""What older versions of onnxruntime, down to the lowest that is declared, do not do yet."""

from __future__ import annotations

import onnxruntime
import pytest

VERSION = tuple(int(number) for number in onnxruntime.__version__.split(".")[:2])


def skip_before(version: str, why: str, *, when: bool = True) -> None:
    """Skip a test whose subject needs what a later onnxruntime brought, or mended."""
    if when and tuple(map(int, version.split("."))) > VERSION:
        pytest.skip(f"onnxruntime before {version} {why}")
