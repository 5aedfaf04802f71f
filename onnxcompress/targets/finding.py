"""One thing that an engine would not take as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Effect = Literal["rejected", "float", "advice"]
EFFECTS: tuple[Effect, ...] = ("rejected", "float", "advice")


@dataclass(frozen=True)
class Finding:
    """One thing that an engine would not take as it is.

    Attributes
    ----------
    rule : str
        The rule's name.
    effect : {"rejected", "float", "advice"}
        The engine refuses the model or computes something else; it computes this in float, or converts back and
        forth; or it does as told, with a known drawback.
    node : str
        The node's name (or its first output's) and operator, or "model".
    reason : str
    """

    rule: str
    effect: Effect
    node: str
    reason: str
