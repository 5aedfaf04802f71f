"""The evidence of a run in Markdown, short enough for a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from . import units
from .page import Reason, reasons, tiles

if TYPE_CHECKING:
    from ..evidence import Evidence

SPECIAL = re.compile(r"([\\`*_\[\]<>#|~$&])")
"""What Markdown, or the sites that show it, would take for more than text."""

MOST = 8
"""Names that are listed of one reason."""


def render(report: Evidence) -> str:
    """Return the verdict, the stages, and what was left alone, folded."""
    model = f": {plain(report.origin.model)}" if report.origin.model else ""
    basis = f"{plain(report.basis())}. {plain(report.place())}."
    parts = [f"### Compression report{model}", *_verdict(report), _stages(report), basis]
    refused = reasons((step.name, step.refused) for step in report.steps)
    if refused:
        parts.append(_folded(f"{sum(len(each.subjects) for each in refused)} left alone, and why", _refused(refused)))
    facts = [f"{name} {version}" for name, version in report.versions.items()]
    made = [report.origin.processor, units.date(report.origin.made) if report.origin.made else ""]
    command = [f"```\n{report.origin.command.replace('```', '')}\n```"] if report.origin.command else []
    parts.append(_folded("made with", [plain(", ".join(filter(None, [*made, *facts]))), *command]))
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    r"""Return text that Markdown shows as it stands, on one line: names in models are anybody's, and call nobody.

    >>> plain("a*b|c")
    'a\\*b\\|c'
    """
    return SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("@", "@\u200b")


def _verdict(report: Evidence) -> Iterable[str]:
    if report.verdict:
        yield f"**{plain(report.verdict.sentence)}.**"
        if report.verdict.details:
            yield "\n".join(f"- {plain(text)}." for text in report.verdict.details)
    warnings = [f"Fell short: {text}" for text in report.unmet] + report.warnings + report.notes
    warnings += ["Random data: the metric says nothing about the model's job"] if report.random else []
    if warnings:
        yield "\n".join(f"> {plain(text)}  " for text in warnings)
    headlines = [f"**{plain(tile.value)}** {plain(f'{tile.name.lower()} ({tile.detail})')}" for tile in tiles(report)]
    if headlines:
        yield "; ".join(headlines) + "."


def _stages(report: Evidence) -> str:
    scored = [report.metric] if report.metric else []
    rows = [
        [
            plain(stage.name),
            *(units.number(stage.metric) for _ in scored),
            units.count(stage.macs),
            units.size(stage.bytes),
            units.milliseconds(stage.milliseconds),
            stage.speed.share if stage.speed else "–",
        ]
        for stage in report.stages
    ]
    return _table(["stage", *map(plain, scored), "MACs", "bytes", "ms", "time"], rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---", *("---:" for _ in heads[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _refused(refused: Iterable[Reason]) -> list[str]:
    return ["\n".join(f"- {_names(each.subjects)}: {plain(each.reason)}" for each in refused)]


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return f"{', '.join(map(plain, names[:MOST]))}{more}"


def _folded(title: str, parts: Iterable[str]) -> str:
    return "\n\n".join([f"<details><summary>{title}</summary>", *parts, "</details>"])
