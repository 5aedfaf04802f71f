"""The demonstration: a small digit classifier, pruned, distilled and quantized, with the evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files as package_files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import files, registry
from ..display import units
from ..errors import OutputError
from ..pipeline import apply
from ..report import Report
from .data import Split, load_split

if TYPE_CHECKING:
    from ..contract import Pass
    from ..progress import Progress

RECIPE: Sequence[tuple[str, dict[str, Any]]] = (
    ("prune-channels", {"sparsity": 0.5}),
    ("shrink", {}),
    ("distill", {"epochs": 10}),
    ("fold-batch-norm", {}),
    ("quantize", {}),
)
"""Chosen on the validation split. Half of the channels go, and training gives back what that cost."""

ORIGINAL, COMPRESSED, JSON, HTML = "original.onnx", "compressed.onnx", "report.json", "report.html"
DATA, FITTED = "the test split of scikit-learn's digits", "the training split"
SMALLER, POINTS = 4.0, 1.0
"""What the demonstration must show: at least so many times fewer bytes, and at most so many points of top-1 lost."""


@dataclass(frozen=True)
class Demonstration:
    """What the demonstration found, on the test split.

    Attributes
    ----------
    folder : Path
        Where its files are.
    report : Report
    bytes_before, bytes_after : int
        Of the two files.
    """

    folder: Path
    report: Report
    bytes_before: int
    bytes_after: int

    @property
    def lost(self) -> float:
        """Points of top-1 accuracy lost."""
        first, last = self.report.stages[0].metric, self.report.stages[-1].metric
        return 100 * ((first or 0.0) - (last or 0.0))

    @property
    def faster(self) -> float:
        """How many times faster the compressed model is, from the ratio of latencies measured taking turns."""
        return 1 / (self.report.stages[-1].ratio or float("inf"))

    @property
    def holds(self) -> bool:
        """Whether the files show what they should."""
        return self.bytes_before >= SMALLER * self.bytes_after and self.faster > 1 and self.lost <= POINTS + 1e-9

    def lines(self) -> list[str]:
        """Return where the files are, and the verdict."""
        names = ", ".join((ORIGINAL, COMPRESSED, JSON, HTML))
        ratio = units.times(self.bytes_before, self.bytes_after)
        first, last = (100 * (stage.metric or 0.0) for stage in (self.report.stages[0], self.report.stages[-1]))
        return [
            f"In {self.folder}: {names}",
            f"{'Holds' if self.holds else 'FALLS SHORT'}: {ratio} smaller, {self.faster:.2f}× faster, "
            f"top-1 {first:.2f} % → {last:.2f} %.",
        ]


def run_demo(out: str | Path, *, progress: Progress | None = None) -> Demonstration:
    """Compress the digit classifier and write both models and both reports to a folder.

    Passes see the training split; everything is measured on the test split.

    Parameters
    ----------
    out : str or Path
        Made if it is not there. Files of an earlier demonstration in it are replaced.
    progress : callable, optional
        Called as ``progress(what, done, total)``.

    Raises
    ------
    OutputError
        The folder cannot be written, or holds files of something else.
    DataError, TrainingError
        A package that the demonstration needs is not installed; the message names it.
    """
    train, test = _data("train"), _data("test")
    passes: list[Pass] = [registry.make(name, options) for name, options in RECIPE]
    original = package_files("onnxcompress.models").joinpath("digits.onnx").read_bytes()
    folder = _folder(out)
    files.write_bytes(folder / ORIGINAL, original, overwrite=True)
    _, report = apply(
        folder / ORIGINAL,
        passes,
        data=train,
        metric="top1",
        output=folder / COMPRESSED,
        overwrite=True,
        progress=progress,
        evaluate_on=test,
        details=True,
    )
    report.data, report.fitted_to = DATA, FITTED
    report.origin = replace(report.origin, command="onnxcompress demo")
    files.write_text(folder / JSON, report.to_json(), overwrite=True)
    files.write_text(folder / HTML, report.to_html(), overwrite=True)
    return Demonstration(folder, report, len(original), (folder / COMPRESSED).stat().st_size)


def _data(split: Split) -> dict[str, Any]:
    images, labels = load_split(split)
    return {"image": images, "labels": labels}


def _folder(out: str | Path) -> Path:
    folder = files.make_folder(out)
    ours = {ORIGINAL, COMPRESSED, JSON, HTML}
    others = sorted(path.name for path in folder.iterdir() if path.name not in ours)
    if others:
        raise OutputError(f"{folder}: holds other files ({others[0]}); give another folder with --out")
    for name in ours:
        files.check_target(folder / name, overwrite=True)
    return folder
