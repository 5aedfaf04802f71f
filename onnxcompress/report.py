"""The evidence of a run, and the ways to show it: a table for the terminal, and one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .evidence import Evidence

if TYPE_CHECKING:
    from pathlib import Path

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
        """Return one page that needs nothing else; it has more where `apply` was called with ``details=True``."""
        from .display.page import render

        return render(self)

    def to_markdown(self) -> str:
        """Return what a pull request wants to know: the verdict, the stages, what was left alone."""
        from .display.markdown import render

        return render(self)

    def _repr_html_(self) -> str:
        """Return what notebooks show: headlines and stages."""
        from .display.page import notebook

        return notebook(self)

    def to_file(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the evidence in the form that the name's end asks for: ``.html``, ``.json`` or ``.md``.

        Raises
        ------
        OutputError
            The name ends in something else, or the file cannot be written.
        """
        from . import files

        form = files.check_suffix(path, FORMS)
        files.write_text(path, FORMS[form](self), overwrite=overwrite)

    def to_table(self) -> RenderableType:
        """Return the stages as a table for the terminal, and what costs the time where the result is not faster."""
        from .display.tables import report

        return report(self)


FORMS: dict[str, Callable[[Report], str]] = {
    ".html": Report.to_html,
    ".json": Report.to_json,
    ".md": Report.to_markdown,
}
"""What a file of each name's end holds."""
