"""Keep what a decoder remembers of earlier tokens as integers of 8 bits."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.contract import MODEL, Change, Changes, Context, Needs, Plan, Refusal
from onnxcompress.errors import PassError
from onnxcompress.graph import edit
from onnxcompress.graph.caches import Cache, find_caches
from onnxcompress.runtime.coded import LIMIT, SCALE
from onnxcompress.runtime.session import open_session
from onnxcompress.selection import SelectivePass, value_subjects

from .prepare.prepare import FORMS, prepare, prepared
from .shared import scales
from .shared.dequantize import dequantize

Array = npt.NDArray[Any]

GROUPED = "com.microsoft::GroupQueryAttention"
PORTS = {3: ("k_scale", 12, "k_quant_type"), 4: ("v_scale", 13, "v_quant_type")}
"""Of GroupQueryAttention: the input that is a cache → what its scales are called, their input, and the attribute."""

PRESENT = {3: 1, 4: 2}
"""And the output in which it comes back."""

BITS = "kv_cache_bit_width"
SAMPLES, BATCH = 32, 4

HEADED = 4
"""Axes of a cache with one for the heads: samples, heads, tokens, positions."""


@dataclasses.dataclass(frozen=True)
class CacheScale:
    """How one cache is stored.

    Attributes
    ----------
    past, present : str
        The input, and the output in which it comes back.
    scale : ndarray of float32
        One for each head and position in it: (heads, 1, positions); as GroupQueryAttention reads them, in a row.
    """

    past: str
    present: str
    scale: npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CachePlan(Plan):
    """The caches that become integers."""

    caches: tuple[CacheScale, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeCache(SelectivePass):
    """Keep a decoder's cache of keys and values as int8: a quarter of the memory that each token takes.

    The inputs and outputs of the model that are caches become int8, which whoever runs it has to know; an empty cache
    is an empty tensor still, and what comes back goes in again. Their scales, ``max|x| / 127`` over the samples, are
    constants of the model, one for each head and each position in it. onnxruntime's GroupQueryAttention reads int8
    itself, as fast as floats; where attention is written out, what is new is rounded before it is joined to the cache,
    and what attention reads is made float again in each run, which takes time. What was rounded is not rounded again,
    or to the same, so that errors do not add up from token to token.

    Notes
    -----
    Hooper et al. 2024, arXiv:2401.18079, section 3.1: keys are rounded by channel. onnxruntime 1.32 has no kernel for
    8-bit floats in GroupQueryAttention on a CPU. A model with an opset below 13 is raised to 13.
    """

    needs = Needs(samples=True)

    def plan(self, model: ir.Model, context: Context) -> CachePlan:
        """Find the caches and their scales."""
        ready = prepared(model, context, FORMS["quantize-cache"])
        work, context = ready.model, ready.context
        found = {cache.past: cache for cache in find_caches(work.graph)}
        selected = self.select(model, value_subjects(found))
        chosen, refused = [], []
        for value, cache in found.items():
            reason = selected.why_not.get(value) or _obstacle(cache)
            if reason:
                refused.append(Refusal(str(value.name), reason))
            else:
                chosen.append(cache)
        if not found:
            refused.append(Refusal(MODEL, "none of its inputs is a cache"))
        refused += selected.idle
        return CachePlan(caches=tuple(_measured(work, chosen, context)), refused=tuple(refused))

    def apply(self, model: ir.Model, plan: CachePlan) -> Changes:
        """Let inputs and outputs hold integers."""
        if not plan.caches:
            return Changes(refused=plan.refused)
        done = prepare(model, FORMS["quantize-cache"])
        names, by_name = edit.Names(model.graph), {str(c.past.name): c for c in find_caches(model.graph)}
        for stored in plan.caches:
            cache = by_name.get(stored.past)
            if cache is None or cache.present is None or cache.present.name != stored.present:
                raise PassError(f"the plan names the cache '{stored.past}', which the model does not have")
            insert = edit.Inserter(model.graph, names)
            node = _grouped(cache)
            if node is None:
                between = _Between(cache, stored, insert)
                scale, present = str(between.scale.name), between.apply()
            else:
                scale, present = _inside(node, cache, stored, insert)
            for value in (cache.past, present):
                value.type = ir.TensorType(ir.DataType.INT8)
                value.metadata_props[SCALE] = scale
            what = f"{stored.present} and it are int8 now, {stored.scale.size} scales ('{scale}')"
            done.append(Change(stored.past, what))
        note = "the interface changed: caches are int8; start with empty ones and give back what comes out"
        return Changes(tuple(done), plan.refused, (note,))


def _obstacle(cache: Cache) -> str:
    """Return why a cache stays as it is; empty if it does not."""
    if cache.present is None:
        return "no output gives it back, so that nothing shows what it holds"
    if cache.past.dtype != ir.DataType.FLOAT:
        kind = "unknown" if cache.past.dtype is None else cache.past.dtype.name.lower()
        return f"it is of type {kind}; only float32 caches become int8"
    if cache.present is cache.past:
        return "it comes back as it is"
    reads = [node for node, _ in cache.past.uses() if edit.op_of(node) == GROUPED]
    if reads and _grouped(cache) is None:
        return f"{edit.label(reads[0])} is not alone in reading it, or its output"
    return ""


def _grouped(cache: Cache) -> ir.Node | None:
    """Return the GroupQueryAttention that alone reads a cache and gives it back."""
    uses, present = list(cache.past.uses()), cache.present
    if len(uses) != 1 or present is None or present.uses():
        return None
    [(node, index)] = uses
    return node if edit.op_of(node) == GROUPED and index in PORTS and present.producer() is node else None


def _measured(model: ir.Model, caches: list[Cache], context: Context) -> list[CacheScale]:
    """Find the largest magnitudes over the samples: in each head where the operator takes a scale for each."""
    if not caches:
        return []
    outputs = [str(cache.present.name) for cache in caches if cache.present is not None]
    session, samples = open_session(model), context.samples.head(SAMPLES)
    largest: dict[str, Array] = {}
    for feeds in samples.batches(BATCH):
        for name, array in session.run(feeds, outputs).items():
            new = np.abs(array).max(_summed(array.ndim), initial=0, keepdims=True)
            largest[name] = np.maximum(largest.get(name, 0), new)
    found = []
    for cache, name in zip(caches, outputs, strict=True):
        if not np.isfinite(largest[name]).all():
            raise PassError(f"output '{name}' holds NaN or infinity for some sample")
        step = np.where(largest[name] == 0, 1, np.maximum(largest[name] / LIMIT, scales.SMALLEST))
        step = step.astype(np.float32)[0]
        found.append(CacheScale(str(cache.past.name), name, step if _grouped(cache) is None else step.ravel()))
    return found


def _summed(rank: int) -> tuple[int, ...]:
    """Return the axes that share scales: all but that of the heads and the last one."""
    return tuple(axis for axis in range(rank - 1) if axis != 1 or rank < HEADED)


def _inside(node: ir.Node, cache: Cache, stored: CacheScale, insert: edit.Inserter) -> tuple[str, ir.Value]:
    """Let GroupQueryAttention read and give integers; return what its scales are called, and the output."""
    index = next(index for user, index in cache.past.uses() if user is node)
    name, port, attribute = PORTS[index]
    scale = insert.constant(f"{stored.past}_{name}", stored.scale)
    node.resize_inputs(max(len(node.inputs), port + 1))
    node.replace_input_with(port, scale)
    node.attributes[attribute] = ir.AttrString(attribute, "PER_CHANNEL")
    edit.set_attribute(node, BITS, 8)
    return str(scale.name), node.outputs[PRESENT[index]]


class _Between:
    """Makes integers of a cache outside attention: as they come, and floats again for what reads them.

    Scales are multiplied by apart: onnxruntime rounds with one scale ten times as fast as with many.
    """

    def __init__(self, cache: Cache, stored: CacheScale, insert: edit.Inserter) -> None:
        self._cache, self._name, self._insert = cache, stored.past, insert
        self.scale = insert.constant(f"{stored.past}_scale", stored.scale)
        self._inverse = insert.constant(f"{stored.past}_inverse", 1 / stored.scale)
        self._one = insert.constant(f"{stored.past}_one", np.float32(1))
        self._zero = insert.constant(f"{stored.past}_zero_point", np.int8(0))

    def apply(self) -> ir.Value:
        """Put the nodes in, and return the output that holds integers."""
        past, present = self._cache.past, self._cache.present
        if present is None:
            raise PassError(f"the cache '{self._name}' does not come back")
        joins = present.producer()
        if joins is None or edit.op_of(joins) != "Concat" or [node for node, _ in past.uses()] != [joins]:
            self._decode(past, None)
            coded = self._coded(present, None)
            edit.replace_uses(present, coded, except_for=[node for node, _ in present.uses()])
            return coded
        for index, value in enumerate(joins.inputs):
            if value is not None and value is not past:
                joins.replace_input_with(index, self._coded(value, joins))
        self._decode(present, joins)
        return present

    def _coded(self, value: ir.Value, before: ir.Node | None) -> ir.Value:
        insert = self._insert
        steps = insert.node("Mul", [value, self._inverse], f"{value.name}_steps", before=before)
        return insert.node("QuantizeLinear", [steps, self._one, self._zero], f"{value.name}_quantized", before=before)

    def _decode(self, value: ir.Value, after: ir.Node | None) -> None:
        """Let whatever reads integers read floats."""
        readers = list(value.uses())
        if not readers:
            return
        steps = dequantize(self._insert, [value, self._one, self._zero], f"{value.name}_dequantized", None, after)
        name = f"{value.name}_restored"
        result = self._insert.node("Mul", [steps, self.scale], name, after=edit.producer(steps))
        for node, index in readers:
            node.replace_input_with(index, result)
