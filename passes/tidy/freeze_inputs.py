"""Make constants of the inputs that have a default."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from onnxcompress.contract import Change, Changes, Context, Plan, Promise, Refusal
from onnxcompress.graph import edit
from onnxcompress.selection import SelectivePass, value_subjects


@dataclasses.dataclass(frozen=True, kw_only=True)
class FreezePlan(Plan):
    """Names of the inputs that become constants."""

    inputs: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class FreezeInputs(SelectivePass):
    """Make constants of the inputs that have a default: nobody can give them another value any more.

    Some exporters list every weight as an input of the model (``keep_initializers_as_inputs`` of PyTorch's). As long
    as they are, a caller may replace them, so that no pass changes them and no engine prepares them.
    """

    promise = Promise(tolerance=1e-5, freezes=True)

    def plan(self, model: ir.Model, context: Context) -> FreezePlan:
        """Name the inputs with a default."""
        selected = self.select(model, value_subjects(edit.defaults(model.graph)))
        refused = [Refusal(str(value.name), reason) for value, reason in selected.why_not.items()]
        inputs = tuple(str(value.name) for value in selected.subjects if value not in selected.why_not)
        return FreezePlan(inputs=inputs, refused=(*refused, *selected.idle))

    def apply(self, model: ir.Model, plan: FreezePlan) -> Changes:
        """Take the inputs of the plan off the list."""
        names = set(plan.inputs)
        for value in [v for v in edit.defaults(model.graph) if v.name in names]:
            edit.make_constant(value)
        return Changes(tuple(Change(name, "is a constant now") for name in plan.inputs), plan.refused)
