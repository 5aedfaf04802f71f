"""A look at the model before anything is tried: what it is, what will be tried, and what is left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from ..channels.groups import find_groups
from ..display import units
from ..errors import ModelError
from ..evaluation.profile import profile_models
from ..graph import cost, edit, operators
from ..purpose import find_purpose
from .budget import Budget
from .space import PRECISIONS, PRUNE, Element

if TYPE_CHECKING:
    from ..samples.split import Parts

PROFILED_BYTES = 1 << 28
"""Larger models are not profiled: that would take longer than what it tells is worth."""

INTEGERS = {"QuantizeLinear", "DequantizeLinear"}
"""Operators of models that are quantized already, or in part."""

MOSTLY = 0.3
"""From this part of the multiply-accumulates on, something is worth quantizing in each run."""

LACKING = {
    "samples": "there are no samples to fit to",
    "channels": "no channels can go",
    "layers": "there is no layer with a weight",
    "products": "hardly anything of it is a matrix product",
    "float32": "its weights are no float32",
    "float": "it is quantized already",
    "cpu": "the target does not compute like that",
}
"""Fact → why an element that needs it is left out."""


@dataclass(frozen=True)
class Look:
    """What was seen.

    Attributes
    ----------
    facts : frozenset of str
        Those of `LACKING` that hold.
    what : str
        What the model is, and where its time and bytes are.
    """

    facts: frozenset[str]
    what: str

    def lines(self, able: Sequence[Element], lacking: Sequence[Element], parts: Parts, budget: Budget) -> list[str]:
        """Return the three lines that are said before the search."""
        names = [f"{each.name} ({each.words})" if each.words != each.name else each.name for each in able]
        reasons: dict[str, list[str]] = {}
        for each in lacking:
            missing = [need for need in each.needs if need not in self.facts]
            if "no samples" not in missing:  # with samples there is more than that
                reasons.setdefault(LACKING[missing[0]], []).append(each.name)
        serving = {each.name for each in (*able, *lacking)}
        for each in (PRUNE, *PRECISIONS):
            if each.name not in serving and "no samples" not in each.needs:
                why = reasons.setdefault(f"no gain in {budget.objective}", [])
                why += [] if each.name in why else [each.name]
        out = [f"{', '.join(each)} ({reason})" for reason, each in reasons.items()]
        out += [] if budget.train else ["training (give --train 30m)"]
        return [
            f"What it is: {self.what}",
            f"Will try: {', '.join(names) or 'nothing but folds'}; {_divided(parts)}",
            f"Leaves out: {', '.join(out)}",
        ]


def look(model: ir.Model, folded: ir.Model, feed: Mapping[str, Any], parts: Parts, target: str | None) -> Look:
    """Look at a model, as it came and folded."""
    macs = cost.macs(folded, {name: (1, *array.shape[1:]) for name, array in feed.items() if array.ndim})
    work: Counter[str] = Counter()
    for node in folded.graph.all_nodes():
        op = edit.op_of(node)
        family = operators.facts(op).family if op in operators.OPERATORS else ""
        work[family] += macs.get(node.name or edit.output_name(node), 0)
    layers = [node for node in folded.graph.all_nodes() if edit.op_of(node) in operators.LAYERS]
    purpose = find_purpose(model)
    dtypes = _bytes_by_type(model)
    known = not parts.fit.random
    holds = {
        "samples": known,
        "no samples": not known,
        "channels": bool(find_groups(folded).prunable),
        "layers": bool(layers),
        "products": sum(work.values()) > 0 and 1 - work["convolution"] / sum(work.values()) >= MOSTLY,
        "float32": dtypes.get("float", 0) > sum(dtypes.values()) / 2,
        "float": not purpose.quantized and not any(node.op_type in INTEGERS for node in model.graph.all_nodes()),
        "cpu": target is None or target.startswith("onnxruntime-cpu"),
    }
    size, count = units.size(cost.model_bytes(model)), units.count(sum(macs.values()))
    what = f"{purpose.sentence}; {size}, {count} multiply-accumulates; {_where(model, feed)}"
    return Look(frozenset(name for name, fact in holds.items() if fact), what)


def _where(model: ir.Model, feed: Mapping[str, Any]) -> str:
    """Say which operators take the time, and which type of numbers the bytes."""
    dtypes = _bytes_by_type(model)
    total = sum(dtypes.values())
    said = (
        [f"{100 * size / total:.0f} % of the weights {name}" for name, size in dtypes.most_common(1)] if total else []
    )
    if total <= PROFILED_BYTES:
        try:
            kernels = profile_models([model], feed)[0]
        except ModelError:
            return ", ".join(said)
        times: Counter[str] = Counter()
        for kernel in kernels:
            times[kernel.operator] += kernel.milliseconds  # type: ignore[assignment]
        spent = sum(times.values())
        if spent:
            said.insert(0, "time in " + ", ".join(f"{op} {100 * t / spent:.0f} %" for op, t in times.most_common(3)))
    return ", ".join(said)


def _bytes_by_type(model: ir.Model) -> Counter[str]:
    from ..graph.save import weights

    found: Counter[str] = Counter()
    for tensor in weights(model):
        found[tensor.dtype.name.lower()] += tensor.nbytes
    return found


def _divided(parts: Parts) -> str:
    if parts.fit.random:
        return "random samples cannot show what it loses"
    if not parts.apart:
        return f"all {parts.fit.count} samples are fitted to and judge, as there are so few"
    return f"{parts.fit.count} samples are fitted to, {parts.search.count} judge, {parts.unseen.count} give the verdict"
