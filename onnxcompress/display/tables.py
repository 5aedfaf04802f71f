"""Tables for the terminal, which read well at 80 columns and more."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..contract import MODEL
from ..targets.finding import EFFECTS
from . import slowness, training, units
from .layout import new_table, titled

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..contract import Refusal
    from ..details import GroupInfo
    from ..evaluation.compare import Comparison
    from ..evaluation.timing import Timing
    from ..evidence import Evidence, Step, Verdict
    from ..inspection import Inspection, NodeInfo, PortInfo
    from ..targets.linter import LintReport
    from ..targets.target import Target
    from .catalogue import Entry

MOST_PORTS = 6
"""Inputs, or outputs, that are shown: a decoder has dozens that are alike."""

MOST_KINDS = 8
"""Rows that take several lines each."""

LONGEST = 25
"""Rows of a table that a model's size decides; the JSON has all of them."""

UNSET: tuple[object, ...] = (None, (), {})
"""Options at these say nothing."""

MOST_REASONS = 6
"""Reasons shown for each pass; the report has all of them."""


def report(found: Evidence) -> RenderableType:
    """Return the stages, what befell models as a whole, and what costs the time where the result is not faster."""
    parts = [stages(found)]
    if any(map(_on_the_whole, found.steps)):
        parts.append(notes(found.steps))
    speed = found.stages[-1].speed if found.stages else None
    if found.not_faster and speed and speed.state != "faster":
        parts.append(slowness.table(found.not_faster, speed))
    return Group(*parts) if len(parts) > 1 else parts[0]


def notes(found: Sequence[Step]) -> Table:
    """Return how passes chose what they did, and what they did to the model as a whole."""
    table = new_table(("pass", "on the whole"))
    for step in found:
        for number, text in enumerate(_on_the_whole(step)):
            table.add_row("" if number else step.name, Text(text))
    return table


def _on_the_whole(step: Step) -> list[str]:
    return [*step.notes, *training.summary(step.curve), *(c.what for c in step.done if c.subject == MODEL)]


def stages(report: Evidence) -> RenderableType:
    """Return what was measured at each stage."""
    told = report.metric != "agreement" and any(stage.agreement is not None for stage in report.stages)
    agreement = [">agree"] if told else []
    table = new_table(
        ("stage", f">{report.metric or 'metric'}", *agreement, ">params", ">MACs", ">bytes", ">ms", ">× ms")
    )
    for stage in report.stages:
        table.add_row(
            stage.name,
            units.number(stage.metric),
            *(units.number(stage.agreement) for _ in agreement),
            units.count(stage.parameters),
            units.count(stage.macs),
            units.size(stage.bytes),
            units.milliseconds(stage.milliseconds),
            units.number(stage.ratio, ".2f"),
        )
    notes = verdict(report.verdict)
    notes += [f"Fell short: {text}" for text in report.unmet] + [f"{text}." for text in report.warnings]
    notes += [report.basis(), report.place()]
    notes += ["Random data: the metric says nothing about the model's job"] if report.random else []
    notes += report.notes
    return titled("\n".join(notes), table)


def trials(found: Evidence) -> RenderableType:
    """Return what a search has tried that no other trial is better than, and how many others there were."""
    table = new_table(("recipe", ">bytes", ">MACs", ">× ms", ">drop", ">±", ""))
    shown = [each for each in found.trials if each.state in ("winner", "front")]
    for each in shown:
        table.add_row(
            each.recipe,
            units.size(each.bytes),
            units.count(each.macs),
            units.number(each.ratio, ".2f"),
            units.number(each.drop),
            units.number(each.error),
            "taken" if each.state == "winner" else "",
        )
    states = Counter(each.state for each in found.trials)
    others = [f"{states[state]} {state}" for state in ("dominated", "stopped", "failed") if states[state]]
    return titled(
        f"Tried for {found.objective}: {len(found.trials)} recipes ({', '.join(others) or 'all shown'})", table
    )


def verdict(found: Verdict | None) -> list[str]:
    """Return whether what was asked for holds, a line for each sentence."""
    return [] if found is None else [f"{text}." for text in (found.sentence, *found.details)]


def steps(found: Sequence[Step]) -> Table:
    """Return what each pass did and left alone, reasons gathered."""
    table = new_table(("pass", ">done", ">left alone", "why"))
    for step in found:
        reasons = gathered(step.refused)
        if len(reasons) > MOST_REASONS:
            reasons[MOST_REASONS:] = [f"and {len(reasons) - MOST_REASONS} more reasons; --report has all"]
        first, *rest = reasons or [""]
        table.add_row(step.name, str(len(step.done)), str(len(step.refused)), Text(first))
        for reason in rest:
            table.add_row("", "", "", Text(reason))
    return table


def plans(found: Sequence[Step]) -> list[RenderableType]:
    """Return, for each pass, every single thing that it would do or leave alone."""
    parts: list[RenderableType] = []
    for step in found:
        options = " ".join(f"{key}={value}" for key, value in step.options.items() if value not in UNSET)
        table = new_table(("what", "tensor or node", "how, or why not"))
        for change in step.done:
            table.add_row("do", Text(change.subject), Text(change.what))
        for refusal in step.refused:
            table.add_row("leave", Text(refusal.subject), Text(refusal.reason))
        for text in step.notes:
            table.add_row("note", "", Text(text))
        if not step.done and not step.refused and not step.notes:
            table.add_row("nothing", "", "there is nothing for it to do")
        parts.append(titled(f"{step.name} {options}".strip(), table))
    return parts


def gathered(refused: Iterable[Refusal]) -> list[str]:
    """Return each reason once, the most frequent first, with what it holds for."""
    reasons = Counter(refusal.reason for refusal in refused)
    subjects: dict[str, list[str]] = {}
    for refusal in refused:
        subjects.setdefault(refusal.reason, []).append(refusal.subject)
    return [f"{_some(subjects[reason])}: {reason}" for reason, _ in reasons.most_common()]


def _some(names: list[str]) -> str:
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def inspection(found: Inspection) -> list[RenderableType]:
    """Return what is in a model."""
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in found.opsets.items())
    facts = new_table(("", ""))
    facts.show_header = False
    for name, text in (
        ("bytes", f"{units.size(found.bytes)} ({found.bytes:,})"),
        ("parameters", f"{units.count(found.parameters)} ({found.parameters:,})"),
        ("MACs", f"{units.count(found.macs)} ({found.macs:,}){_uncounted(found)}"),
        ("opset", f"{opsets}; IR version {found.ir_version}"),
        ("inputs", _ports(found.inputs)),
        ("outputs", _ports(found.outputs)),
        ("inner graphs", _some(found.inner_graphs)),
        ("functions", _some(found.functions)),
    ):
        if text:
            facts.add_row(name, Text(text))
    return [facts, _nodes(found.nodes), *_groups(found.prunable, found.frozen)]


def _uncounted(found: Inspection) -> str:
    unknown = sum(node.macs is None for node in found.nodes)
    parts = [f"not known for {unknown} nodes"] if unknown else []
    parts += ["in inner graphs only where shapes are known"] if found.inner_graphs else []
    parts += ["functions not counted"] if found.functions else []
    return "".join(f"; {part}" for part in parts)


def _ports(ports: Sequence[PortInfo]) -> str:
    shown = [f"{p.name} {p.dtype}{' ' if p.shape is None else ''}{units.shape(p.shape)}" for p in ports[:MOST_PORTS]]
    return "; ".join(shown + ([f"and {len(ports) - MOST_PORTS} more"] if len(ports) > MOST_PORTS else []))


def _nodes(nodes: Sequence[NodeInfo]) -> RenderableType:
    work = sorted((n for n in nodes if n.bytes or n.macs), key=lambda n: (-n.bytes, -(n.macs or 0)))
    table = new_table(("node", "operator", ">bytes", ">MACs"))
    for node in work[:LONGEST]:
        macs = "–" if node.macs is None else units.count(node.macs)
        table.add_row(Text(node.name), node.op, units.size(node.bytes), macs)
    return titled(f"Nodes with weights or work: {len(work)} of {len(nodes)}", _more(table, len(work)))


def _groups(prunable: Sequence[GroupInfo], frozen: Sequence[GroupInfo]) -> list[RenderableType]:
    tables: list[RenderableType] = []
    if prunable:
        table = new_table(("group", ">channels", ">tensors"))
        for group in sorted(prunable, key=lambda g: -g.channels * g.tensors)[:LONGEST]:
            table.add_row(Text(group.name), str(group.channels), str(group.tensors))
        tables.append(titled(f"Prunable groups: {len(prunable)}", _more(table, len(prunable))))
    if frozen:
        table, rows = new_table((">groups", ">channels", "why", "such as")), _alike(frozen)
        for reason, alike in rows[:MOST_KINDS]:
            table.add_row(str(len(alike)), str(sum(g.channels for g in alike)), Text(reason), Text(alike[0].name))
        tables.append(titled(f"Frozen groups: {len(frozen)}", _more(table, len(rows), MOST_KINDS)))
    return tables


def _alike(frozen: Sequence[GroupInfo]) -> list[tuple[str, list[GroupInfo]]]:
    """Gather groups whose reasons differ in names alone, those of the most channels first."""
    found: dict[str, list[GroupInfo]] = {}
    for group in sorted(frozen, key=lambda g: -g.channels * g.tensors):
        found.setdefault(re.sub(r"'[^']*'", "…", group.reason.split(" (", 1)[-1]), []).append(group)
    return [(alike[0].reason, alike) for alike in found.values()]


def _more(table: Table, count: int, most: int = LONGEST) -> Table:
    if count > most:
        table.add_row(f"and {count - most} more; --json has all")
    return table


def comparison(found: Comparison, judged: Verdict | None = None) -> list[RenderableType]:
    """Return two models side by side, what was asked for first."""
    title = f"{found.count} samples ({found.data}), to which neither model should have been fitted"
    title += f", {found.dropped} left out (fixed batch)" if found.dropped else ""
    title += "; random data: the metric says nothing about the model's job" if found.random else ""
    score = new_table(("metric", ">first", ">second", ">drop"))
    values = (found.value_a, found.value_b, found.drop)
    score.add_row(found.metric, *(units.number(value) for value in values))
    if any(item.resized for item in found.outputs):
        resized = ", ".join(f"'{item.name}' in {item.resized}" for item in found.outputs if item.resized)
        title += f"; outputs of another size, in so many runs: {resized}"
    outputs = new_table(("output", "is", ">agree", ">SQNR dB", ">cosine", ">max |a−b|", ">NaN, inf"))
    for item in found.outputs:
        outputs.add_row(
            Text(item.name),
            item.kind,
            units.number(item.agreement),
            units.number(item.sqnr, ".1f"),
            units.number(item.cosine, ".6f"),
            units.number(item.max_abs, ".3g"),
            f"{item.nonfinite_a}, {item.nonfinite_b}",
        )
    return [titled("\n".join([*verdict(judged), title, *found.notes]), score), outputs]


def timings(names: Sequence[str], found: Sequence[Timing], place: str) -> RenderableType:
    """Return latencies; the intervals are 95 %."""
    table = new_table(("model", ">ms", ">interval", ">× ms", ">interval"))
    for name, timing in zip(names, found, strict=True):
        table.add_row(
            Text(name),
            units.milliseconds(timing.median_ms),
            f"{units.milliseconds(timing.low)} – {units.milliseconds(timing.high)}",
            f"{timing.ratio:.3f}",
            f"{timing.ratio_low:.3f} – {timing.ratio_high:.3f}",
        )
    return titled(f"{found[0].runs} rounds on {place}, taking turns; 95 % intervals", table)


def catalogue(entries: Sequence[Entry]) -> Table:
    """Return all passes."""
    table = new_table(("pass", "what it does", "needs"))
    for entry in entries:
        table.add_row(entry.name, Text(entry.summary), ", ".join(entry.needs))
    return table


def entry(found: Entry) -> list[RenderableType]:
    """Return one pass with its options."""
    needs = f"Needs {' and '.join(found.needs)}.\n" if found.needs else ""
    if not found.options:
        return [Text(found.name, "bold"), Text(f"{found.text}\n{needs}\nIt takes no options.")]
    table = new_table(("option", "type", "default", "meaning, and what is allowed"))
    for option in found.options:
        allowed = f" ({option.allowed})" if option.allowed else ""
        table.add_row(option.name, option.type, option.default, Text(f"{option.text}{allowed}".strip()))
    return [Text(found.name, "bold"), Text(f"{found.text}\n{needs}"), table]


def targets(found: Sequence[Target], here: str) -> RenderableType:
    """Return the targets, with the providers of onnxruntime that run them."""
    table = new_table(("target", "--provider", "engine"))
    for target in found:
        title = f"{target.title}; this is where models run now" if target.name == here else target.title
        table.add_row(target.name, ", ".join(target.providers), Text(title))
    return table


def lints(found: Sequence[LintReport]) -> RenderableType:
    """Return how much each target finds in a model."""
    table = new_table(("target", ">rejected", ">in float", ">advice", "engine"))
    for report in found:
        counts = Counter(finding.effect for finding in report.findings)
        table.add_row(report.target, *(str(counts[effect]) for effect in EFFECTS), Text(report.title))
    return titled("Nodes that each engine rejects, computes in float, or has advice for; --target T lists them", table)


def findings(report: LintReport) -> list[RenderableType]:
    """Return what an engine rejects or leaves in float, node by node."""
    counts = Counter(finding.effect for finding in report.findings)
    left, advised = counts["float"], counts["advice"]
    title = f"{report.title}: {counts['rejected']} rejected, {left} left in float, {advised} advised against"
    table = new_table(("effect", "rule", "node", "reason"))
    for finding in report.findings[:LONGEST]:
        table.add_row(finding.effect, finding.rule, Text(finding.node), Text(finding.reason))
    if len(report.findings) > LONGEST:
        table.add_row("", "", "", f"and {len(report.findings) - LONGEST} more; --json has all")
    return [titled(title, table) if report.findings else Text(title, "bold"), *(Text(line) for line in report.advice)]
