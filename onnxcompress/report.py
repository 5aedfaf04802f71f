"""What was done, refused and measured: as data, JSON, a table for the terminal, and one self-contained HTML page."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from .contract import Change, Refusal

if TYPE_CHECKING:
    from rich.table import Table


@dataclass
class Stage:
    """What was measured of the model at one point of the pipeline.

    Attributes
    ----------
    name : str
        "original", or the pass that made it.
    bytes, parameters, macs : int
        Of the saved model; multiply-accumulates of one sample.
    metric, agreement : float or None
        The metric, and the share of samples on which it decides as the original does.
    milliseconds, ratio : float or None
        Median latency of one sample, all stages interleaved in one process, and its ratio to the original's.
    """

    name: str
    bytes: int
    parameters: int
    macs: int
    metric: float | None = None
    agreement: float | None = None
    milliseconds: float | None = None
    ratio: float | None = None


@dataclass
class Step:
    """What one pass did.

    Attributes
    ----------
    name, options :
        The pass.
    done : list of Change
    refused : list of Refusal
    """

    name: str
    options: dict[str, Any]
    done: list[Change]
    refused: list[Refusal]


@dataclass
class Report:
    """The evidence of one run of a pipeline.

    Attributes
    ----------
    metric : str or None
        The metric's name; None when there were no samples.
    data : str or None
        Where the samples came from; "random" samples say nothing about the model's job.
    random : bool
    samples : int
        How many samples were scored.
    seed : int
    steps : list of Step
    stages : list of Stage
        The original first.
    layers : dict
        Layer → bytes of its weights (before, after).
    versions : dict
        Package → version.
    """

    metric: str | None = None
    data: str | None = None
    random: bool = False
    samples: int = 0
    seed: int = 0
    steps: list[Step] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    layers: dict[str, tuple[int, int]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return one JSON document; numbers that JSON lacks (NaN, infinity) become null."""
        return msgspec.json.format(msgspec.json.encode(asdict(self)), indent=2).decode()

    def to_html(self) -> str:
        """Return one page that needs nothing else: stages, bytes by layer, metric against size, what was refused."""
        import jinja2

        template = Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8")
        environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        return environment.from_string(template).render(report=self, chart=_chart(self.stages))

    def to_table(self) -> Table:
        """Return the stages as a table for the terminal."""
        from rich.table import Table

        table = Table(title="random data: the metric says nothing about the model's job" if self.random else None)
        for name in (
            "stage",
            self.metric or "metric",
            "agreement",
            "parameters",
            "MACs",
            "bytes",
            "ms",
            "latency ratio",
        ):
            table.add_column(name, justify="left" if name == "stage" else "right")
        for stage in self.stages:
            table.add_row(
                stage.name,
                _text(stage.metric, ".4f"),
                _text(stage.agreement, ".4f"),
                f"{stage.parameters:,}",
                f"{stage.macs:,}",
                f"{stage.bytes:,}",
                _text(stage.milliseconds, ".3f"),
                _text(stage.ratio, ".2f"),
            )
        return table


def _text(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


@dataclass(frozen=True)
class Point:
    """One stage in the chart of metric against size, in the drawing's own units."""

    x: float
    y: float
    stage: Stage


def _chart(stages: list[Stage]) -> list[Point]:
    """Place the stages in a drawing of 560 × 220: bytes from 0 to the right, the metric's own range upwards."""
    scored = [stage for stage in stages if stage.metric is not None]
    if not scored:
        return []
    low, high = min(s.metric or 0 for s in scored), max(s.metric or 0 for s in scored)
    margin = max((high - low) * 0.2, 1e-3)
    largest = max(stage.bytes for stage in scored)
    return [
        Point(
            40 + 500 * stage.bytes / largest,
            200 - 180 * ((stage.metric or 0) - low + margin) / (high - low + 2 * margin),
            stage,
        )
        for stage in scored
    ]
