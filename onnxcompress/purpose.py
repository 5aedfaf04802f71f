"""What a model is for, told from its inputs, its outputs and the operators that make them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import onnx_ir as ir

from .graph import edit, operators, shapes
from .graph.functions import flatten
from .graph.output_kinds import CACHE, IMAGE_RANK, OutputReader, Tensor, fits

if TYPE_CHECKING:
    from .samples.samples import Batch, Samples

Kind = Literal[
    "classifier",
    "encoder",
    "detector",
    "recogniser",
    "decoder",
    "recurrent",
    "segmenter",
    "regressor",
    "other",
]


@dataclass(frozen=True)
class Purpose:
    """What a model is for.

    Attributes
    ----------
    kind : str
        The outputs tell it: ``classifier``, ``encoder`` (embeddings), ``detector`` (boxes), ``recogniser`` (texts, by
        CTC), ``decoder`` (the next token), ``segmenter`` (a class for each pixel), ``regressor`` (numbers),
        ``recurrent`` (one of these that carries a state from step to step), ``other``.
    outputs : dict of str to str
        Output → what it is: ``classes``, ``binary``, ``pixels``, ``text``, ``tokens``, ``embedding``, ``boxes``,
        ``scores``, ``detections`` (boxes with their scores in one tensor), ``head`` (one of a detector's levels),
        ``values``, ``wave``, ``decisions`` (whole numbers), ``state``.
    why : dict of str to str
        Output → what told it.
    quantized : bool
        It computes in integers already, or keeps weights in them.
    sentence : str
    guess : bool
        Names or the structure told it. Else it is certain: labels fit, probabilities or boxes are made.
    axes : dict of str to int
        Output → its axis of classes or features.
    main : str
        The output that tells it, which is the one that is scored; empty where there is none.
    """

    kind: Kind
    outputs: dict[str, str]
    why: dict[str, str]
    quantized: bool
    sentence: str
    guess: bool
    axes: dict[str, int]
    main: str


@dataclass
class _Output:
    """What is known of an output while it is looked at."""

    name: str
    kind: str
    why: str
    tensor: Tensor | None
    shape: tuple[int, ...]


CERTAIN = ("a Softmax", "a LogSoftmax", "a Sigmoid", "the labels", "NonMaxSuppression")
"""What is no guess begins so."""

PURPOSES: tuple[tuple[str, Kind, str], ...] = (
    ("boxes", "detector", "boxes of what is seen"),
    ("detections", "detector", "boxes and scores of what is seen"),
    ("head", "detector", "boxes and scores on several levels"),
    ("tokens", "decoder", "scores of {n} tokens"),
    ("text", "recogniser", "texts of {n} characters"),
    ("pixels", "segmenter", "a class for each pixel"),
    ("classes", "classifier", "scores of {n} classes"),
    ("embedding", "encoder", "embeddings of {n} numbers"),
    ("binary", "classifier", "a yes or no"),
    ("wave", "regressor", "a signal"),
    ("values", "regressor", "numbers"),
    ("decisions", "other", "whole numbers"),
    ("scores", "other", "scores"),
    ("state", "recurrent", "nothing but state"),
)
"""What an output is → what the model is, and what to call what it gives. Of several, the first row that occurs holds;
among equals, the first output is named."""

QUANTIZED = re.compile(r"(De)?QuantizeLinear$|Integer|QLinear|MatMulNBits$|BlockQuantized$|^QAttention|^QGemm")
SUPPRESSION = re.compile(r"NonMaxSuppression|NMS")
IDS = {ir.DataType.INT64, ir.DataType.INT32}
WAVE = re.compile(r"audio|wave|speech|signal|sound|enh", re.IGNORECASE)

CHARACTERS = 20
"""Classes at each step from which on they may be characters."""

SAMPLES_OF_WAVE = 256
"""Values in a row from which on they may be a signal."""

RGB = 3
COLOURS = (1, RGB, 4)

STRIDES = (4, 8, 16, 32, 64, 128)
"""How many pixels apart a detector's anchors are, level by level."""

ANCHORS = (1, 2, 3, 4, 5, 6, 9)
"""How many there are at one place."""

CORNERS = 4
MOST_ROWS = CORNERS + 1 + 1000
"""Corners, whether it is anything, and classes: no tensor of detections has more for one box."""


def find_purpose(model: ir.Model, samples: Samples | None = None) -> Purpose:
    """Find what a model is for.

    Parameters
    ----------
    model : onnx_ir.Model
        Not changed, and not run.
    samples : Samples, optional
        Their shapes and labels tell more than the model alone.

    Returns
    -------
    Purpose
    """
    return read_purpose(model, None if samples is None else next(iter(samples.head(2).labelled(2))))


def read_purpose(model: ir.Model, batch: Batch | None) -> Purpose:
    """Find what a model is for, as `find_purpose` does, with a batch of samples at hand."""
    copy = model.clone()
    flatten(copy)
    outputs, image = _look(copy, batch)
    _refine(copy, outputs, image)
    return _conclude(copy, outputs)


def _look(model: ir.Model, batch: Batch | None) -> tuple[list[_Output], tuple[int, ...]]:
    """Return what each output is by itself, and height and width of the image that goes in, if one does."""
    given = shapes.fitting_inputs(model) if batch is None else {n: a.shape for n, a in batch.feeds.items()}
    known = shapes.concrete(model, given).shapes
    named = {str(value.name): shape for value, shape in known.items()}
    count = batch.count if batch is not None else next((s[0] for s in given.values() if s), 1)
    batches = {value.shape[0] for value in model.graph.inputs if value.shape} - set(range(2))
    for value in model.graph.outputs:
        name = str(value.name)
        found_shape = named.setdefault(name, _declared(value, count))
        if value.shape and value.shape[0] in batches and found_shape:
            named[name] = (count, *found_shape[1:])  # what an If or a Loop makes has extents that are made up
    reader = OutputReader(model, named, count)
    labels = None if batch is None else batch.labels
    found = []
    for value in model.graph.outputs:
        kind, why = reader.kind(value, labels)
        tensor = reader.tensor(value, kind)
        named_so = why.endswith("in its name")
        if not named_so and (inner := _in_branch(value)) is not None:
            kind, why = reader.kind(inner, labels)
        fixed = kind in ("state", "decisions") or (named_so and kind == "embedding")
        if labels is not None and not fixed and fits(labels, tensor):
            kind, why = "classes", "the labels fit it"
        found.append(_Output(str(value.name), kind, why, tensor, named[str(value.name)]))
    return found, next((size for shape in given.values() if (size := _image(shape))), ())


def _image(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return height and width if an input of this shape is an image, with the colours before or behind."""
    if len(shape) not in (IMAGE_RANK - 1, IMAGE_RANK) or 0 in shape:
        return ()
    if len(shape) < IMAGE_RANK:
        return shape[-2:] if shape[0] == RGB else ()  # torchvision's detectors take no batch
    if shape[-3] in COLOURS:
        return shape[-2:]
    return shape[-3:-1] if shape[-1] in COLOURS else ()


def _declared(value: ir.Value, count: int) -> tuple[int, ...]:
    """Return the shape that the model itself says an output has, with numbers made up for what is open."""
    dims = value.shape or ()
    return tuple(d if isinstance(d, int) and d > 0 else (count if not place else 8) for place, d in enumerate(dims))


def _in_branch(value: ir.Value) -> ir.Value | None:
    """Return what an output is in the larger branch of the If that makes it."""
    node = value.producer()
    graphs = [] if node is None or node.op_type != "If" else edit.inner_graphs(node)
    if node is None or not graphs:
        return None
    return max(graphs, key=len).outputs[list(node.outputs).index(value)]


def _refine(model: ir.Model, outputs: list[_Output], image: tuple[int, ...]) -> None:
    """Tell apart what looks alike by itself, by what goes in and by what other outputs there are."""
    suppressed = any(SUPPRESSION.search(node.op_type) for node in model.graph.all_nodes())
    _find_boxes(outputs, image, suppressed=suppressed)
    rows = _vocabulary(model)
    for output in outputs:
        tensor = output.tensor
        if tensor is None:
            continue
        positions = [n for n in tensor.positions if n > 1]
        ids = rows > 0 and len(output.shape) == IMAGE_RANK - 1
        if output.kind == "classes" and ids and (tensor.features == rows or _cached(model)):
            output.kind, output.why = "tokens", f"{output.why}, one for each row of the table of tokens"
        elif output.kind in ("classes", "binary") and len(output.shape) >= IMAGE_RANK and len(positions) > 1:
            output.kind = "pixels"
        elif output.kind == "classes" and not rows and len(output.shape) == IMAGE_RANK - 1 and positions:
            if tensor.features >= CHARACTERS and tensor.axis == len(output.shape) - 1:
                output.kind, output.why = "text", f"{tensor.features:,} scores at each of {positions[0]} steps"
        elif output.kind in ("values", "embedding") and _is_wave(output):
            output.kind = "wave"


def _is_wave(output: _Output) -> bool:
    if output.kind == "embedding" and "in its name" in output.why:
        return False
    long = len(output.shape) <= IMAGE_RANK - 1 and output.shape[-1] >= SAMPLES_OF_WAVE and output.kind == "values"
    return bool(WAVE.search(output.name)) or long


def _vocabulary(model: ir.Model) -> int:
    """Return how many rows the table has from which tokens are looked up; 0 without one."""
    inputs = [value for value in model.graph.inputs if value.dtype in IDS]
    rows = 0
    for node in model.graph.all_nodes():
        if node.op_type in ("Gather", "GatherBlockQuantized") and len(node.inputs) > 1 and inputs:
            table = node.inputs[0]
            shape = None if table is None else table.shape
            if shape is not None and len(shape) == 2 and isinstance(shape[0], int) and isinstance(shape[1], int):
                rows = max(rows, shape[0])
    return rows


def _cached(model: ir.Model) -> bool:
    return any(CACHE.search(str(value.name)) for value in model.graph.inputs)


def _find_boxes(outputs: list[_Output], image: tuple[int, ...], *, suppressed: bool) -> None:
    """Mark what makes up detections."""
    heads = [o for o in outputs if image and o.kind != "state" and _levels(o, image)]
    if not suppressed and len(heads) > 2 and len({_places(o) for o in heads}) > 1:
        for head in heads:
            head.kind, head.why = "head", "one of several grids over the image"
        return
    corners = [o for o in outputs if o.kind != "state" and len(o.shape) > 1 and o.shape[-1] == CORNERS]
    for boxes in corners:
        near = [o for o in outputs if o is not boxes and o.kind != "state" and _beside(o.shape, boxes.shape)]
        if near:
            boxes.kind = "boxes"
            boxes.why = "NonMaxSuppression is inside" if suppressed else "four numbers each, beside as many scores"
            for other in near:
                other.kind = "decisions" if other.kind == "decisions" else "scores"
            return
    alone = len(heads) == len([o for o in outputs if o.kind != "state"]) == 1
    if alone and len(heads[0].shape) == IMAGE_RANK - 1:
        heads[0].kind, heads[0].why = "detections", f"a row for each anchor of an image of {image[0]} x {image[1]}"
    for output in outputs:
        output.kind = "values" if output.kind == "boxes" else output.kind


def _beside(shape: tuple[int, ...], boxes: tuple[int, ...]) -> bool:
    """Tell whether an output holds something for each box."""
    return shape in (boxes[:-1], boxes[1:-1]) or (shape[:-1] == boxes[:-1] and shape[-1] != boxes[-1])


def _places(output: _Output) -> int:
    """Return how many rows an output has, one for each anchor."""
    return max(output.shape[-2:]) if len(output.shape) < IMAGE_RANK else 0


def _levels(output: _Output, image: tuple[int, ...]) -> bool:
    """Tell whether there are as many rows as a detector has anchors on some of its levels."""
    if len(output.shape) < 2:
        return False
    few, many = sorted(output.shape[-2:])
    if few < CORNERS or few > MOST_ROWS or len(output.shape) > IMAGE_RANK - 1 or min(image) < STRIDES[2]:
        return False
    grids = [(-(-image[0] // s)) * (-(-image[1] // s)) for s in STRIDES]
    levels = [grids[i:j] for i, j in combinations(range(len(grids) + 1), 2)]
    return any(many == anchors * sum(level) for anchors in ANCHORS for level in levels)


def _conclude(model: ir.Model, outputs: list[_Output]) -> Purpose:
    kinds = [o.kind for o in outputs]
    quantized = any(QUANTIZED.search(node.op_type) for node in model.graph.all_nodes())
    found = next(((kind, purpose, what) for kind, purpose, what in PURPOSES if kind in kinds), None)
    kind: Kind = "other"
    sentence, guess, main = "it has no outputs", True, ""
    if found is not None:
        told = next(o for o in outputs if o.kind == found[0])
        kind, main = found[1], told.name
        width = 0 if told.tensor is None else told.tensor.features
        if kind in ("classifier", "regressor") and ("state" in kinds or _recurs(model)):
            kind = "recurrent"
        guess = not told.why.startswith(CERTAIN)
        more = ", already quantized" if quantized else ""
        sentence = f"{kind}{more}: '{told.name}' holds {found[2].format(n=f'{width:,}')} ({told.why})"
    kinds_by_name, why = {o.name: o.kind for o in outputs}, {o.name: o.why for o in outputs}
    axes = {o.name: o.tensor.axis for o in outputs if o.tensor is not None and o.tensor.shape == o.shape}
    return Purpose(kind, kinds_by_name, why, quantized, sentence, guess, axes, main)


def _recurs(model: ir.Model) -> bool:
    return any(node.op_type in operators.RECURRENT for node in model.graph.all_nodes())
