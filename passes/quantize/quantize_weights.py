"""Store weights as integers of 8 or 4 bits and compute in float."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.contract import Change, Changes, Context, Needs, Plan, Refusal
from onnxcompress.errors import OptionError, PassError
from onnxcompress.graph import edit
from onnxcompress.graph.cost import model_bytes
from onnxcompress.graph.weights import find_weights
from onnxcompress.graph.written import unwritten
from onnxcompress.search.budget import read_bytes
from onnxcompress.selection import OverridablePass, value_subjects
from onnxcompress.targets import computes, load_target, local_target
from onnxcompress.targets.target import Blocks, Target

from ..tidy.shorten_names import ShortenNames
from .equalise.equalisation import Equalisation, apply_equalisation
from .equalise.least_error import least_error
from .prepare.keep_moved import keep_moved
from .prepare.prepare import FORMS, Form, guarded, prepare, prepared
from .weight_only import formats, fused
from .weight_only.allocate import (
    SETTINGS,
    Allocation,
    Array,
    Candidate,
    Setting,
    TooSmallError,
    allocate,
    weights_bytes,
)
from .weight_only.in_order import compensate
from .weight_only.storage import Storage, StoredWeight

CHOSEN = {"dtype": "int8", "block_size": None, "granularity": None}
"""Options that a budget chooses for each weight, as they are when nobody gives them."""

FEW_BITS, BLOCK = 4, 32
"""So few bits have a scale for every 32 weights, if nothing else is said."""

NAMES = 0.03
"""The share of a file that names may take without a word on it."""

NO_BLOCKS = Blocks(dtypes=[], min=0, max=0, operators=[], source="")

STORED = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightPlan(Plan):
    """Constant's name → how it is stored, once channels are equalised."""

    equalisation: Equalisation = dataclasses.field(default_factory=Equalisation)
    weights: dict[str, StoredWeight] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeWeights(OverridablePass):
    """Store the weights as int8, a quarter of their size, or in 4 bits, and go on computing in float.

    ``W ≈ scale · (q − zero_point)``: integers and a DequantizeLinear take the place of each weight of Conv,
    ConvTranspose, Gemm, MatMul, LSTM, GRU and RNN (and of what onnxruntime fuses: Attention, FusedConv, FusedGemm,
    FusedMatMul), and of each table that Gather looks up by rows (there, with 8 bits, DequantizeLinear stands behind
    Gather, so that only the rows looked up are converted).

    Parameters
    ----------
    target : str, optional
        What engine it is for: the name of a target (``onnxcompress lint --help`` lists them) or the path of a TOML
        file; None: onnxruntime on a CPU like this machine's, or what ``--provider`` says. Of MatMulNBits and
        GatherBlockQuantized, only what it has is written.
    dtype : {"int8", "uint8", "int4", "uint4", "int3", "uint3", "int2", "uint2"}
        What the integers are.
    symmetric : bool, optional
        ``zero_point`` in the middle of the integers (0 for signed ones; int8 then is in [-127, 127], as engines expect
        it). False covers [min, max]: finer where weights lie to one side of 0. By default what is signed is symmetric.
    granularity : {"tensor", "channel", "block"}, optional
        One scale for a weight, for each of its output channels, or for each block of `block_size`; None: "block" where
        that is given, else "channel".
    block_size : int, optional
        How many weights that are neighbours among those that an output sums over share a scale; the last block may be
        shorter. Tensors with a shorter sum have a scale for each channel, and so have no blocks. None: 32 with 4 bits
        and fewer, if no granularity is given.
    format : {"qdq", "matmulnbits", "matmulinteger"}, optional
        "matmulnbits": a MatMul with a constant matrix becomes onnxruntime's MatMulNBits, which reads the integers as
        they are, and a table's Gather becomes GatherBlockQuantized; needs blocks of 16, 32, 64, … . What neither can
        read is stored as with "qdq". "matmulinteger": 4 bits in the file, of which onnxruntime makes 8 when it loads
        the model, and computes like `QuantizeDynamic`, with one scale for a tensor of activations in each run; the
        scales of blocks are whole multiples of one for each output. The faster of the two for whole sequences, not for
        one token after the other. What it cannot read is stored as with "matmulnbits". None: as the target wants of 4
        bits and fewer in such blocks, else "qdq".
    accuracy_level : int, optional
        What MatMulNBits computes in: 0 as it comes, 1 float32, 2 float16, 3 bfloat16, 4 activations rounded to 8 bits;
        None: as the target wants.
    compact : bool
        With "matmulnbits", scales of 4 bits and fewer take a byte each, as multiples of one float (Dettmers et al.
        2023, arXiv:2305.14314, section 3), and 3 bits take 3: a few nodes over constants, which onnxruntime evaluates
        when it loads the model, make of them what the operators read. False: scales are floats, 3 bits take 4.
    calibration : {"minmax", "mse"}, optional
        How the scale is found: by the largest weight, or where ``Σ (W − scale · (q − zero_point))²`` is least and
        few weights saturate. None: "mse" with 4 bits and fewer, else "minmax".
    rounding : {"nearest", "gptq", "quantease"}, optional
        "gptq" rounds the weights of Conv, Gemm and MatMul so that each makes up for the errors of those before it, on
        the samples' inputs (Frantar et al. 2022, arXiv:2210.17323). "quantease" goes on from there: each integer is
        set to what is best beside all others, and scales to what is best for the integers, in turn (Behdin et al. 2023,
        arXiv:2309.01885); some 5 times the time of "gptq", for another .4 dB of 4 bits and 1.3 dB of 2. Zeros stay
        zeros; equal weights no longer stay equal, as clusters would have to. Both need samples. None: "gptq" for 4 bits
        and fewer where there are samples, under a budget "quantease" for 3 and 2 bits; else "nearest".
    equalise : bool
        Multiply the channels that weights read by factors, and divide what makes them (a normalisation's factors,
        the linear branch of a gated layer, a layer behind a Relu) by the same, where the error at the outputs gets
        less (Lin et al. 2023, arXiv:2306.00978, AWQ). Needs samples, and scales for channels or blocks.
    minimum_size : int
        Tensors with fewer elements stay as they are.
    bits : float, optional
        How many bits a weight may take on average, scales and zero points included, such as 4.2. In how many each is
        stored (2, 3, 4, 8), and in what blocks, is chosen so that the outputs lose least: by the error at the output of
        its layer, times what an error there costs the outputs, on the samples; without them, by its relative error.
        Takes the place of `dtype`, `block_size` and `granularity`, which `overrides` may give for some.
    bytes : int or str, optional
        The same by the size of the whole file: 1100000, or "1.1MB".

    Notes
    -----
    Krishnamoorthi 2018, arXiv:1806.08342, section 3.1.1. onnxruntime converts the weights back to float in each run,
    so that the file is smaller and the model not faster; only of a MatMul with a constant matrix it makes MatMulNBits
    by itself. `Quantize` is for speed; put this pass after it for what is left, such as embeddings. The model is raised
    to opset 13, with 4 bits or blocks in DequantizeLinear to opset 21, if it is older; local functions are inlined.
    """

    target: str | None = None
    dtype: Literal["int8", "uint8", "int4", "uint4", "int3", "uint3", "int2", "uint2"] = "int8"
    symmetric: bool | None = None
    granularity: Literal["tensor", "channel", "block"] | None = None
    block_size: Annotated[int, msgspec.Meta(ge=2)] | None = None
    format: Literal["qdq", "matmulnbits", "matmulinteger"] | None = None
    accuracy_level: Annotated[int, msgspec.Meta(ge=0, le=4)] | None = None
    compact: bool = True
    calibration: Literal["minmax", "mse"] | None = None
    rounding: Literal["nearest", "gptq", "quantease"] | None = None
    equalise: bool = False
    minimum_size: Annotated[int, msgspec.Meta(ge=1)] = 1024
    bits: Annotated[float, msgspec.Meta(gt=0)] | None = None
    bytes: int | str | None = None

    overridable = (
        "dtype", "symmetric", "granularity", "block_size", "format", "accuracy_level", "compact", "calibration",
        "rounding", "minimum_size",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        block = self.block_size
        if block is not None and self.granularity in ("tensor", "channel"):
            raise OptionError(
                f"{self.name}: block_size = {block}: each block has a scale of its own, and granularity is "
                f"'{self.granularity}'; leave one of the two out"
            )
        if block is None and self.granularity == "block":
            raise OptionError(f"{self.name}: granularity = 'block': block_size is missing, such as block_size = 32")
        if self.equalise and self.granularity == "tensor":
            raise OptionError(
                f"{self.name}: equalise = true: it makes output channels of a weight unlike, which have one scale with "
                f"granularity = 'tensor'; expected 'channel' or 'block'"
            )
        if self.target is not None:
            load_target(self.target)
        if self.format is not None and not self._reads(self.format):
            raise OptionError(
                f"{self.name}: format = '{self.format}': {self._engine.title} has no {fused.READERS[self.format]}; "
                f"leave format out, or give format = 'qdq'"
            )
        if self.budgeted:
            self._check_budget()
        elif self.format in fused.READERS:
            self._check_format(self.format)
        every = [{}, *self.overrides.values()]
        wanted = {own.get("rounding", self.rounding) for own in every}
        few = any(
            own.get("rounding", self.rounding) is None and _bits(own.get("dtype", self.dtype)) <= FEW_BITS
            for own in every
        )
        needs = Needs(samples=self.equalise or not wanted <= {None, "nearest"}, welcome=self.budgeted or few)
        object.__setattr__(self, "needs", needs)

    @property
    def budgeted(self) -> bool:
        """Whether settings are chosen under a budget."""
        return self.bits is not None or self.bytes is not None

    def _check_format(self, form: str) -> None:
        if form == "matmulinteger" and int(self.dtype[-1]) != FEW_BITS:
            raise OptionError(
                f"{self.name}: dtype = '{self.dtype}': format = 'matmulinteger' stores 'int4' or 'uint4'; what "
                f"computes like that on weights of 8 bits is the pass quantize-dynamic"
            )
        if not (formats.is_power(self._block) or (self._block is None and self._few)):
            raise OptionError(
                f"{self.name}: block_size = {self.block_size}: expected 16, 32, 64 or another power of two, "
                f"as format = '{form}' reads blocks of such sizes only"
            )

    def _check_budget(self) -> None:
        if self.bits is not None and self.bytes is not None:
            raise OptionError(f"{self.name}: bits = {self.bits:g} and bytes = {self.bytes}: leave one of the two out")
        if self.bytes is not None:
            read_bytes(f"{self.name}: bytes", self.bytes)
        which = "bytes" if self.bits is None else "bits"
        for name, usual in CHOSEN.items():
            if getattr(self, name) != usual:
                raise OptionError(
                    f"{self.name}: {name} = {getattr(self, name)!r}: {which} chooses it for each weight; leave one of "
                    f"the two out, or give {name} in overrides"
                )

    @property
    def _few(self) -> bool:
        return _bits(self.dtype) <= FEW_BITS

    def _rounding(self, dtype: str, context: Context) -> str:
        """Return how a weight is rounded that is stored so."""
        if self.rounding or not context.has_samples or _bits(dtype) > FEW_BITS:
            return self.rounding or "nearest"
        return "quantease" if self.budgeted and _bits(dtype) < FEW_BITS else "gptq"

    @cached_property
    def _engine(self) -> Target:
        return load_target(self.target or local_target())

    @cached_property
    def _takes(self) -> Blocks:
        """What the target wants of weights in blocks."""
        return self._engine.blocks or NO_BLOCKS

    def _reads(self, form: str) -> bool:
        """Tell whether the target has the operator that reads weights in a form."""
        return form == "qdq" or computes(self._engine, fused.READERS[form])

    @property
    def _block(self) -> int | None:
        """How many weights share a scale; so few bits are not enough for a whole channel."""
        return BLOCK if self._few and self.block_size is None and self.granularity is None else self.block_size

    @property
    def _format(self) -> str:
        wanted = self._takes.format if self._few and formats.is_power(self._block) else "qdq"
        return self.format or wanted

    def replaced(self, options: dict[str, Any]) -> QuantizeWeights:
        """Return the pass with other options; of granularity and block_size, one that is given sets the other aside."""
        if options.keys() & {"granularity", "block_size"} and options.get("granularity") != "block":
            options = {"granularity": None, "block_size": None} | options
        if options.keys() & CHOSEN.keys():
            options = {"bits": None, "bytes": None} | options
        return super().replaced(options)

    def plan(self, model: ir.Model, context: Context) -> WeightPlan:
        """Choose the tensors, their scales and, with gptq, the integers."""
        given, model = model, prepared(model, context, FORMS["quantize-weights"]).model
        equalisation = Equalisation()
        if self.equalise:
            equalisation, model = self._equalised(given, model, context)
        found, refused = _candidates(model)
        refused += equalisation.refused
        selected = self.select(given, value_subjects(found))
        weights, owners, candidates, notes = {}, dict[str, QuantizeWeights](), list[Candidate](), list[str]()
        for number, (value, axes) in enumerate(found.items()):
            context.progress("quantize-weights", number, len(found))
            name, tensor, own = str(value.name), edit.constant(value), selected.settings(value)
            if tensor is None or tensor.size < own.minimum_size:
                continue
            reason = selected.why_not.get(value) or own._obstacle(tensor, axes)
            if reason:
                refused.append(Refusal(name, reason))
                continue
            owners[name] = own
            if self.budgeted:
                candidates.append(own._candidate(value, axes, context))
                continue
            weights[name] = stored = own._stored(value, tensor.numpy(), axes)
            if stored.dtype != own.dtype:
                refused.append(Refusal(name, formats.wider(value, own.dtype)[1]))
        refused += [*selected.idle, *_unreached(model, found, self.minimum_size)]
        if candidates:
            allocation = self._allocated(given, model, candidates, context)
            weights, notes = (
                allocation.weights,
                [allocation.sentence(candidates), *self._room(given, allocation.weights)],
            )
        if not weights and not selected.why_not:
            refused.append(Refusal("model", f"no float weight has {self.minimum_size} elements or more"))
        how = {name: owners[name]._rounding(stored.dtype, context) for name, stored in weights.items()}
        notes += _taken({name: owners[name] for name in how}, how, weights)
        by_gptq = {name for name, rounding in how.items() if rounding != "nearest"}
        if by_gptq:
            refined = {name for name, rounding in how.items() if rounding == "quantease"}
            weights, nearest = compensate(
                model, weights, by_gptq, context.samples, refined=refined, progress=context.progress
            )
            refused += nearest
        if weights:
            prepared(given, context, self._form(weights))  # which is refused where that cannot be
        return WeightPlan(equalisation=equalisation, weights=weights, refused=tuple(refused), notes=tuple(notes))

    def _equalised(self, given: ir.Model, model: ir.Model, context: Context) -> tuple[Equalisation, ir.Model]:
        """Choose factors for the weights as they will be stored, and return the model with them, which is checked.

        What a budget makes of a weight is not known yet: then it is as with 4 bits.
        """
        found, _ = _candidates(model)
        selected = self.select(given, value_subjects(found))

        def rounded(value: ir.Value, array: Array) -> npt.NDArray[np.float64] | None:
            own = selected.settings(value)
            if value not in found or selected.why_not.get(value) or array.size < own.minimum_size:
                return None
            if own.budgeted:
                own = own.replaced({"dtype": "uint4", "block_size": BLOCK})
            if own._obstacle(ir.tensor(array), found[value]):
                return None
            stored = own._stored(value, array, found[value])
            return np.asarray(stored.decode(stored.encode(array).astype(np.int64)), np.float64)

        equalisation = least_error(model, context.on(model), rounded)
        return equalisation, guarded(model, context, lambda copy: apply_equalisation(copy, equalisation))

    def _candidate(self, value: ir.Value, axes: Axes, context: Context) -> Candidate:
        """Return a weight with what may be chosen for it."""
        signs = {None: ("int", "uint"), True: ("int",), False: ("uint",)}[self.symmetric]
        settings: list[Setting | None] = [None]
        if self.budgeted:
            settings = [each for each in SETTINGS if each.dtype.startswith(signs)]

        def store(setting: Setting | None, array: Array) -> StoredWeight:
            wanted = self.format or self._takes.format
            if setting is not None and wanted == "matmulinteger" and int(setting.dtype[-1]) != FEW_BITS:
                wanted = "matmulnbits"
            own = {} if setting is None else {**setting._asdict(), "format": wanted}
            return self.replaced(own)._stored(value, array, axes)

        table = any(formats.reads_rows(*use) for use in value.uses())
        compensated = context.has_samples if self.rounding is None else self.rounding != "nearest"
        return Candidate(value, 0 if table and axes.output else axes.output, settings, store, compensated)

    def _allocated(
        self, given: ir.Model, model: ir.Model, candidates: Sequence[Candidate], context: Context
    ) -> Allocation:
        """Choose settings within the budget."""
        same = prepared(given, context, FORMS["quantize-weights"])
        on = same.context if model is same.model else context.on(model)
        count = sum(each.array.size for each in candidates)
        if self.bytes is not None:
            budget, size_of = read_bytes("bytes", self.bytes), partial(self._file_bytes, given, candidates)
        else:
            budget, size_of = int((self.bits or 0) * count / 8), partial(weights_bytes, candidates)
        try:
            return allocate(model, candidates, on, size_of, budget)
        except TooSmallError as error:
            asked, least = f"bytes = {self.bytes}", f"{error.least:,} bytes"
            if self.bits is not None:
                asked, least = f"bits = {self.bits:g}", f"{math.ceil(800 * error.least / count) / 100:g} bits a weight"
            raise PassError(
                f"{self.name}: {asked} cannot be reached: the least is {least}; give that, or more"
            ) from None

    def _file_bytes(self, given: ir.Model, candidates: Sequence[Candidate], weights: dict[str, StoredWeight]) -> int:
        """Return the bytes of the file if weights are stored so; what the integers are makes no difference."""
        sizes = {each.name: each.array.shape for each in candidates}
        zeros = {
            name: dataclasses.replace(stored, integers=np.broadcast_to(np.int16(0), sizes[name]))
            for name, stored in weights.items()
        }
        return model_bytes(self._stood_in(given, zeros))

    def _stood_in(self, given: ir.Model, weights: dict[str, StoredWeight]) -> ir.Model:
        """Return a copy of the model as it will be written."""
        copy = given.clone()
        with unwritten(copy):
            self.apply(copy, WeightPlan(weights=weights))
        return copy

    def _room(self, given: ir.Model, weights: dict[str, StoredWeight]) -> list[str]:
        """Say what names take of the file, where it is much: under a budget of bytes weights lack it."""
        if self.bytes is None:
            return []
        written = self._stood_in(given, weights)
        before = model_bytes(written)
        short = ShortenNames(names="all")
        short.apply(written, short.plan(written, Context(written)))
        saved = before - model_bytes(written)
        if saved <= NAMES * before:
            return []
        return [
            f"names take {saved:,} bytes of the file ({100 * saved / before:.0f} %), which weights could have: put "
            f"'shorten-names names=all' before this pass, and again behind it"
        ]

    def _form(self, weights: Mapping[str, StoredWeight]) -> Form:
        """Return the form that a model needs so that weights can be stored so."""
        return FORMS["quantize-weights"].at(max(map(formats.needed_opset, weights.values())))

    def _stored(self, value: ir.Value, array: Array, axes: Axes) -> StoredWeight:
        """Choose how one tensor is stored."""
        symmetric = self.dtype.startswith("int") if self.symmetric is None else self.symmetric
        level = self._takes.accuracy_level if self.accuracy_level is None else self.accuracy_level
        calibration = self.calibration or ("mse" if self._few else "minmax")
        storage = Storage(self.dtype, symmetric, calibration, self._block or 0, self.compact, level)
        output = None if self.granularity == "tensor" else axes.output
        form = None if self._format == "qdq" else formats.fused_form(value, self._format, self._block or 0)
        if form is None or not self._reads(form):
            form = "qdq"
        found = storage.store(array, form, output, axes.summed)
        if found.form != "qdq" and found.block_size:
            return found
        dtype, _ = formats.wider(value, self.dtype)
        if (dtype, "qdq") == (found.dtype, found.form):
            return found
        return dataclasses.replace(storage, dtype=dtype).store(array, "qdq", output, axes.summed)

    def _obstacle(self, tensor: ir.TensorProtocol, axes: Axes) -> str | None:
        """Return why a tensor cannot be stored."""
        if tensor.dtype not in STORED:
            return f"it is {tensor.dtype.name.lower()}; only float32, float16 and bfloat16 weights are stored"
        if self._block and axes.summed is None:
            return "another operator moves it before it is read, so that it has no blocks; fold constants first"
        if not np.isfinite(tensor.numpy().astype(np.float32, copy=False)).all():
            return "it holds NaN or Inf"
        return None

    def apply(self, model: ir.Model, plan: WeightPlan) -> Changes:
        """Replace the tensors of the plan."""
        if not plan.weights:
            return Changes(refused=plan.refused)
        done = [*prepare(model, self._form(plan.weights)), *apply_equalisation(model, plan.equalisation)]
        values = {value.name: value for value in edit.values(model.graph)}
        writer = formats.Writer(model)
        for name, stored in plan.weights.items():
            value = values.get(name)
            tensor = edit.constant(value)
            if value is None or tensor is None:
                raise PassError(f"the plan names the weight '{name}', which the model does not have")
            writer.write(value, stored)
            edit.release_pages(tensor)
            done.append(Change(name, _described(tensor, stored)))
        if any(stored.form != "qdq" for stored in plan.weights.values()):
            model.opset_imports.setdefault(fused.MICROSOFT, 1)
        edit.remove_dead(model)
        keep_moved(model)
        return Changes(tuple(done), plan.refused, plan.notes)


def _bits(dtype: str) -> int:
    return int(dtype[-1])


def _taken(
    owners: Mapping[str, QuantizeWeights], how: Mapping[str, str], weights: Mapping[str, StoredWeight]
) -> list[str]:
    """Say which rounding few bits got that nobody chose."""
    few = {name for name, stored in weights.items() if _bits(stored.dtype) <= FEW_BITS}
    taken = sorted({how[name] for name in few if owners[name].rounding is None})
    if not taken:
        return []
    scales = "calibration = mse, " if any(owners[name].calibration is None for name in few) else ""
    more = "; with samples it would be gptq, which loses less" if taken == ["nearest"] else ""
    return [f"4 bits and fewer: {scales}rounding = {' and '.join(taken)}{more}"]


def _described(tensor: ir.TensorProtocol, stored: StoredWeight) -> str:
    count = "one scale" if stored.axis is None else f"{stored.scale.size} scales"
    blocks = f", blocks of {stored.block_size}" if stored.block_size else ""
    rounded = ", errors made up for" if stored.integers is not None else ""
    shape = tensor.shape.numpy()
    reader = "" if stored.form == "qdq" else f", {fused.READERS[stored.form].rpartition('::')[2]}"
    return f"{tensor.size} weights of shape {list(shape)} as {stored.dtype}, {count}{blocks}{reader}{rounded}"


class Axes(NamedTuple):
    """The axis of a weight that becomes output channels, and the one that products sum over; None: not known."""

    output: int | None
    summed: int | None


def _candidates(model: ir.Model) -> tuple[dict[ir.Value, Axes], list[Refusal]]:
    """Return each weight with its axes, and what is out of reach."""
    found = {}
    for weight in find_weights(model.graph):
        found[weight.value] = Axes(None, None) if weight.axis < 0 else Axes(weight.axis, weight.summed)
    for node in model.graph.all_nodes():
        table = node.inputs[0] if formats.reads_rows(node, 0) else None
        tensor = edit.constant(table)
        if table is not None and tensor is not None and tensor.dtype.is_floating_point():
            found[table] = Axes(1, 1) if len(tensor.shape) == 2 else Axes(None, None)
    refused = []
    integers = [n.inputs[0] for n in model.graph.all_nodes() if edit.op_of(n) == "DequantizeLinear"]
    count = sum(edit.constant(value) is not None for value in integers)
    if count:
        refused.append(Refusal("model", f"{count} of its weights and biases are stored as integers already"))
    return found, refused


def _unreached(model: ir.Model, found: dict[ir.Value, Axes], minimum_size: int) -> list[Refusal]:
    """Name the large float constants that are no operator's weight."""
    refused = []
    for value in edit.values(model.graph):
        tensor = edit.constant(value)
        if tensor is None or value in found or not value.uses():
            continue
        is_vector = sum(size > 1 for size in tensor.shape.numpy()) < 2  # biases, and what a normalisation scales by
        if tensor.size >= minimum_size and tensor.dtype.is_floating_point() and not is_vector:
            readers = sorted({node.op_type for node, _ in value.uses()})
            refused.append(
                Refusal(str(value.name), f"it is no operator's weight but an operand of {', '.join(readers)}")
            )
    return refused
