"""The kit's language model: how it is fed, and what is said of what became of it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

STEPS = 32
"""Tokens that are decoded one after the other, for the time of one."""


class LanguageModel:
    """`llm.py` of the kit, and its float model."""

    def __init__(self, kit: Path) -> None:
        self.llm = _module(kit / "llm.py")
        self.original: Path = Path(self.llm.FLOAT)
        self.genai = kit / "llm" / "llama_tiny_genai"

    def samples(self, count: int = 512) -> list[dict[str, Any]]:
        """Return calibration feeds, one window each, with an empty cache."""
        session, windows = self.llm.session(self.original), self.llm.windows("calib")[:count]
        return [self.llm.feeds(session, windows[n : n + 1]) for n in range(len(windows))]

    def write_samples(self, path: Path, count: int = 512) -> None:
        """Write the token windows once; whatever else a decoder takes is filled in."""
        if not path.exists():
            np.savez(path, input_ids=self.llm.windows("calib")[:count])

    def judge(self, path: Path) -> dict[str, float]:
        """Return perplexity, KL and SQNR to the float model, and bytes."""
        found: dict[str, float] = self.llm.judge(path)
        return found

    def decoder(self, path: Path) -> Any:
        """Return a function that decodes `STEPS` tokens greedily, one at a time, after 64 of a text."""
        session = self.llm.session(path)
        names = [o.name for o in session.get_outputs()]
        start = self.llm.windows("test")[:1, :64]

        def run() -> None:
            ids, past = start, 0
            feed = self.llm.feeds(session, ids)
            for _ in range(STEPS):
                found = dict(zip(names, session.run(None, feed), strict=True))
                past, ids = past + ids.shape[1], found["logits"][:, -1:].argmax(-1)
                feed = self.llm.feeds(session, ids, past) | {
                    name.replace("present", "past_key_values"): value
                    for name, value in found.items()
                    if name.startswith("present")
                }

        return run


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("kit_llm", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
