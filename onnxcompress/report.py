"""The evidence of a run, and the ways to show it: a table for the terminal, and one self-contained HTML page."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .evidence import Evidence

if TYPE_CHECKING:
    from rich.console import RenderableType

    from .plans import PlannedStep


@dataclass
class Report(Evidence):
    """The evidence of one run of a pipeline; see `Evidence` for what it holds.

    Attributes
    ----------
    plans : list of PlannedStep
        What each pass decided; ``apply(model, plans=report.plans)`` does the same again. Not part of the JSON.
    """

    plans: list[PlannedStep] = field(default_factory=list)

    def to_html(self) -> str:
        """Return one page that needs nothing else: stages, bytes by layer, metric against size, what was refused."""
        from .display.page import render

        return render(self)

    def to_table(self) -> RenderableType:
        """Return the stages as a table for the terminal, and what costs the time where the result is not faster."""
        from .display.tables import report

        return report(self)
