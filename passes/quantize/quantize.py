"""Compute on 8-bit integers: static quantization with QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import onnx_ir as ir

from onnxcompress.contract import Changes, Context, Needs, Refusal
from onnxcompress.errors import OptionError, PassError
from onnxcompress.graph import edit
from onnxcompress.selection import OverridablePass, node_subjects
from onnxcompress.statistics.calibration import Method
from onnxcompress.targets import load_target, local_target, quantize_options, takes

from .correct.correct import Rounding, correct
from .equalise.equalisation import Equalisation, apply_equalisation, equalise
from .max_drop.search import within_max_drop
from .prepare.prepare import FORMS, guarded, prepare, prepared
from .shared import scales
from .shared.clusters import clustered_weights
from .shared.units import COMPUTE
from .static.apply import Application
from .static.calibrate import calibrate
from .static.fragile import beyond_8_bits, fragile, with_masks
from .static.int16 import find_int16
from .static.observe import NEVER_RUN, Observer
from .static.placement import Placement, check_not_quantized, place
from .static.plan import QuantizePlan
from .static.scheme import INT16, Coverage, Granularity, Scheme

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnxcompress.statistics.summaries import Range
    from onnxcompress.targets.target import Target

WIDEST = 2.0**64
"""A tensor that spans more has one value for -infinity (an attention mask), and nothing else is left in 8 bits."""

NARROWEST = 255 * scales.SMALLEST
"""Below it a scale, or its product with a weight's, would be 0 or have lost digits."""


NO_VNNI = "onnxruntime adds products in 16 bits on this CPU, which has no VNNI"

NOISE_SHARE = 0.95
"""Channels are equalised where that leaves less than this part of the noise: it is asked for, or measured."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantize(OverridablePass):
    """Let Conv, Gemm and MatMul, and what lies between them, compute on 8-bit integers.

    A tensor ``r`` is stored as ``q = clip(round(r / scale) + zero_point)``, so that ``r ≈ scale · (q − zero_point)``.
    Weights are symmetric int8 in [-127, 127] (``scale = max|W| / 127``, ``zero_point = 0``); activations cover the
    range seen over the samples, widened to include 0 (``scale = (max − min) / 255``); biases are int32 with
    ``scale = scale_of_input · scale_of_weight``. QuantizeLinear and DequantizeLinear stand where onnxruntime fuses
    them with the operator between into one integer kernel.

    Parameters
    ----------
    target : str, optional
        What engine it is for: the name of a target (``onnxcompress lint --help`` lists them) or the path of a TOML
        file; it decides on types, symmetry, granularity, biases and operators. None: what the models run on
        now, which is onnxruntime on a CPU like this machine's unless there is a ``--provider``.
    activations : {"uint8", "int8", "uint16", "int16", "float8e4m3fn"}, optional
        The type of activations; None: what the target takes first. 16 bits need opset 21, 8-bit floats (then also of
        the weights) opset 19; onnxruntime has no integer kernels for either on a CPU, and computes in float.
    weights : {"int8", "uint8", "int4"}, optional
        The type of weights; None: as the target wants. "int4" needs opset 21; onnxruntime has no integer kernels for it
        on a CPU, and computes in float. It costs accuracy, which `distill` behind it gets back.
    symmetric : bool, optional
        Zero points of activations are the middle of their type's range; None: as the target wants.
    granularity : {"tensor", "channel"}, optional
        One scale for a weight, or one for each of its output channels; None: as the target can.
    calibration : {"minmax", "moving_average", "percentile", "entropy", "mse"}
        How the range of an activation is found: by the smallest and largest value, their means over the samples,
        99.999 % of the values, the least divergence of the distributions, or the least squared error.
    coverage : {"layers", "all"}, optional
        Which operators compute on integers. "layers": Conv, Gemm and MatMul, and the others that lie between two of
        them, where integers stay integers. "all": every operator that the target has an integer kernel for, wherever it
        stands (Add, Mul, Softmax, ...), as hardware without float units wants it; that costs accuracy. None: as the
        target wants.
    equalise : bool
        Give the channels of a tensor, which share one scale, ranges that are alike, where that leaves the function as
        it is. It helps models whose channels differ much in size; of well trained ones it makes as many worse as
        better, so that it is for `max_drop` to try, or for you.
    correct : bool
        Set the biases so that each layer, on its quantized input, is right on average over the samples.
    rounding : {"gptq", "nearest"}
        "gptq" rounds each weight so that it makes up for the rounding of the others, and of the layers before,
        on the samples; "nearest" is the textbook's.
    max_drop : float, optional
        How much of the metric may be lost (0.005 of top1 is half a point). It begins with all that the other options
        ask for; unless that is sure to hold, `calibration`, if it is "minmax", and `equalise` are varied; then ever
        more layers have activations of 16 bits, where the target takes them, and at last ever more stay in float. Half
        of the samples are fitted to and the other half judges; the report tells what was tried and taken.

    Notes
    -----
    What is folded into a node, or fused with it (a Relu, Clip or bias behind it), goes with that node. With
    `overrides`, layers may have activations of 16 bits among others of 8, "uint16" among uint8 and "int16" among int8:
    that needs opset 21 and a target that takes them. A layer that is excluded reads them as floats.

    Jacob et al. 2018, arXiv:1712.05877 (integer arithmetic, biases, fused activations); Krishnamoorthi 2018,
    arXiv:1806.08342 (scales per channel); `correct`: Nagel et al. 2019,
    arXiv:1906.04721, section 4.2; `equalise`: section 4.1, and Xiao et al. 2022, arXiv:2211.10438; `rounding`: Frantar
    et al. 2022, arXiv:2210.17323. Constants and BatchNormalization are folded first, and a model with an opset below
    13 is raised to 13.
    """

    target: str | None = None
    activations: Literal["uint8", "int8", "uint16", "int16", "float8e4m3fn"] | None = None
    weights: Literal["int8", "uint8", "int4"] | None = None
    symmetric: bool | None = None
    granularity: Granularity | None = None
    calibration: Method = "minmax"
    coverage: Coverage | None = None
    equalise: bool = False
    correct: bool = True
    rounding: Rounding = "gptq"
    max_drop: Annotated[float, msgspec.Meta(ge=0)] | None = None

    needs = Needs(samples=True)
    overridable = ("activations", "granularity", "rounding", "correct")

    def plan(self, model: ir.Model, context: Context) -> QuantizePlan:
        """Choose what is quantized, and each scale from the ranges over the samples."""
        check_not_quantized(model)
        if self.max_drop is not None:
            step = dataclasses.replace(self, max_drop=None)
            return within_max_drop(step, self.max_drop, model, context, int16=self._int16())
        scheme = self.scheme()
        work, within, form, left_out = prepared(model, context, FORMS["quantize"].at(scheme.opset))
        equalisation = Equalisation()
        if self.equalise:
            key = ("equalised", scheme.opset, scheme.granularity)
            equalisation, work, within = context.keep(key, lambda: _equalised(work, within, scheme))
        selected = self.select(model, node_subjects(work.graph))
        own = {node: selected.settings(node) for node in selected.by}
        observer = Observer(work, within, self.calibration, scheme)
        placement, ranges = _place_and_measure(work, selected.why_not, observer, scheme)
        int16 = find_int16(placement, [n for n, step in own.items() if step.activations == (scheme.int16 or "")])
        int16_ranges: Mapping[str, Range] = {}
        if int16.stored:
            observer = Observer(work, within, self.calibration, scheme.all_int16())
            int16_ranges, _ = observer.ranges({str(source.name) for source in int16.sources(placement)})
        refused = [*left_out, *placement.refused, *(equalisation.refused if not equalisation.factors else ())]
        refused += selected.idle_but(placement.touched(work))
        if not placement.units:
            refused.append(Refusal("model", "no Conv, Gemm or MatMul that could be quantized"))
        granularity = {node: step.granularity for node, step in own.items() if step.granularity is not None}
        fields = calibrate(placement, ranges, int16_ranges, scheme, int16, granularity)
        notes = _on_this_machine(self.target, scheme)
        plan = QuantizePlan(refused=tuple(refused), folds=form.folds, equalisation=equalisation, notes=notes, **fields)
        return self._corrected(work, plan, {edit.output_name(node): step for node, step in own.items()}, context)

    def _corrected(
        self, work: ir.Model, plan: QuantizePlan, own: Mapping[str, Quantize], context: Context
    ) -> QuantizePlan:
        """Round weights and set biases as the options say, which single nodes have `own`."""
        if not plan.nodes or not any(step.correct or step.rounding != "nearest" for step in (self, *own.values())):
            return plan

        def how(node: str) -> tuple[Rounding, bool]:
            step = own.get(node, self)
            return step.rounding, step.correct

        return correct(work, plan, context.samples, how=how, progress=context.progress)

    def scheme(self) -> Scheme:
        """Return how numbers are stored."""
        target = load_target(self.target or local_target())
        options = quantize_options(target)
        if self.weights is not None and self.activations == "float8e4m3fn":
            raise OptionError(
                f"{self.name}: weights = '{self.weights}': activations are float8e4m3fn, and weights then, too"
            )
        scheme = Scheme.of(options, self.activations, self.symmetric, self.granularity, self.coverage, self.weights)
        for term, own in self.overrides.items():
            wanted = own.get("activations")
            if wanted is not None and wanted != scheme.activations:
                where = f"{self.name}: overrides.{term}.activations = '{wanted}'"
                scheme = dataclasses.replace(scheme, int16=_int16(where, wanted, scheme, target))
        return scheme

    def _int16(self) -> str | None:
        """Return the type of 16 bits that the target takes for activations of single layers, if there is one."""
        scheme = dataclasses.replace(self, overrides={}).scheme()
        int16 = INT16.get(scheme.activations)
        return int16 if int16 and takes(load_target(self.target or local_target()), int16, scheme.weights) else None

    def apply(self, model: ir.Model, plan: QuantizePlan) -> Changes:
        """Insert QuantizeLinear and DequantizeLinear, and store weights and biases as integers."""
        if not plan.nodes:
            return Changes(refused=plan.refused, notes=plan.notes)
        form = dataclasses.replace(FORMS["quantize"].at(plan.scheme.opset), folds=plan.folds)
        steps = prepare(model, form)
        equalised = apply_equalisation(model, plan.equalisation)
        changes = Application(model, plan).run()
        return dataclasses.replace(changes, done=(*steps, *equalised, *changes.done), notes=plan.notes)


def _int16(where: str, wanted: str, scheme: Scheme, target: Target) -> str:
    """Return the type of activations of single layers, or raise `OptionError` where it does not go with the others."""
    int16 = INT16.get(scheme.activations)
    if wanted != int16:
        expected = f"expected {int16}, or none" if int16 else "none of another type goes with them"
        raise OptionError(f"{where}: activations are {scheme.activations}; {expected}")
    if not takes(target, int16, scheme.weights):
        known = " and ".join(target.activations.dtypes)
        raise OptionError(
            f"{where}: target '{target.name}' does not compute on {int16} activations with {scheme.weights} "
            f"weights, only on activations of {known}; use exclude, which leaves layers in float"
        )
    return int16


def _on_this_machine(target: str | None, scheme: Scheme) -> tuple[str, ...]:
    """Return what the user should know of the CPU at hand."""
    if target is None and scheme.reduce_range:
        return (f"{NO_VNNI}: weights have 7 bits, so that none is lost; target=onnxruntime-cpu is for CPUs with VNNI",)
    if scheme.saturates():
        return (f"{NO_VNNI}, and here loses some of this model's: what is measured holds for this machine only",)
    return ()


def _equalised(model: ir.Model, context: Context, scheme: Scheme) -> tuple[Equalisation, ir.Model, Context]:
    clustered = clustered_weights(model)
    if clustered:
        reason = "not equalised: it has few different values, which would become many, or a weight beside it has"
        return Equalisation(refused=tuple(Refusal(name, reason) for name in clustered)), model, context
    found = equalise(model, context, per_channel=scheme.granularity == "channel", noise_share=NOISE_SHARE)
    try:
        work = guarded(model, context, lambda copy: apply_equalisation(copy, found))
    except PassError as error:
        return Equalisation(refused=(Refusal("model", f"not equalised: {error}"),)), model, context
    return found, work, context.on(work)


def _place_and_measure(
    work: ir.Model, left_alone: Mapping[ir.Node, str], observer: Observer, scheme: Scheme
) -> tuple[Placement, dict[str, Range]]:
    """Place, and place again without the nodes whose tensors turn out to be of no use, until none is left."""
    all_operators = scheme.coverage == "all"
    blocked = _reading_defaults(work) | (_fragile(work) if all_operators else {})
    while True:
        placement = place(work, left_alone, blocked, scheme.operators, scheme.coverage)
        ranges, unfit = observer.ranges({str(source.name) for source in placement.sources.values()})
        beyond: dict[ir.Node, str] = {}
        if all_operators:
            ranges = with_masks(placement, ranges)
            beyond = beyond_8_bits(placement, ranges)
        reasons = {name: reason for name, found in ranges.items() if (reason := _unfit(found))}
        reasons |= dict.fromkeys(unfit, NEVER_RUN)
        if not reasons and not beyond:
            return placement, dict(ranges)
        blocked |= beyond
        for unit in placement.units:
            sources = (placement.sources.get(value) for value in (*unit.inputs, *unit.outputs))
            for source in sources:
                if source is not None and source.name in reasons:
                    blocked[unit.node] = reasons[source.name]


def _reading_defaults(work: ir.Model) -> dict[ir.Node, str]:
    """Return the nodes worth quantizing that read an input with a default: a caller may give anything there."""
    readers = (node for value in edit.defaults(work.graph) for node in value.consumers())
    return {node: f"an operand {edit.DEFAULT}" for node in readers if edit.op_of(node) in COMPUTE}


def _fragile(work: ir.Model) -> dict[ir.Node, str]:
    """Return the nodes to leave in float, but those that are worth computing on integers for their own sake."""
    found = {node: why for graph in (work.graph, *work.graph.subgraphs()) for node, why in fragile(graph).items()}
    return {node: why for node, why in found.items() if edit.op_of(node) not in COMPUTE}


def _unfit(found: Range) -> str:
    """Return why no scale serves a range; nothing but zeros are served by any."""
    span = max(found.high, 0) - min(found.low, 0)
    if span > WIDEST:
        return "a tensor of its spans too wide a range, such as a mask of -infinity"
    return "a tensor of its spans too small a range for a scale in float32" if 0 < span < NARROWEST else ""
