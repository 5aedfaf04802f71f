"""What a recipe may be made of, as a table; the passes stand in it by their names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from .budget import Objective
from .job import Part

Choices = Mapping[str, tuple[Any, ...]]
Params = dict[str, Any]
"""Name of a choice → what was chosen; as Optuna keeps it."""

FOLDS = ("fold-constants", "fold-batch-norm", "fold-affine", "remove-dead")
"""What costs nothing, and begins every recipe."""

SHRINK = Part("shrink")
"""It begins those for whom fewer channels are not slower, whatever their number."""

SPARED = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)
"""The shares of the layers that may be left alone, worst first."""

COUNTED_BY = {"latency": "macs", "macs": "macs", "size": "bytes", "zipped": "bytes", "memory": "bytes"}
"""Objective → what a share of channels is counted by."""

EVERYTHING = ("latency", "size", "zipped", "macs", "memory")
SMALL = ("size", "zipped", "memory")


@dataclass(frozen=True)
class Element:
    """One thing that a recipe may hold.

    Attributes
    ----------
    name : str
        What reports call it.
    words : str
        What it does, for the line that says what will be tried.
    parts : tuple of Part
        With the names of choices in braces.
    choices : mapping
        Name → what may be chosen; the first is what is tried first.
    needs : tuple of str
        Facts (see `onnxcompress.search.look`) without which it is left out.
    serves : tuple of str
        The objectives that it is for.
    """

    name: str
    words: str
    parts: tuple[Part, ...]
    choices: Choices = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    serves: tuple[str, ...] = EVERYTHING


SHORT = Part("shorten-names")
"""Names take a tenth of a small quantized file."""

UNNAMED = Part("shorten-names names=all")
"""In a small language model they take as much as its weights in a few bits."""

REST = Part("quantize-weights dtype=int8 calibration=mse")
"""What is still in float is stored in 8 bits: tables, and layers that were spared."""

PRUNE = Element(
    "prune",
    "fewer channels, fitted again",
    (
        Part("prune-channels sparsity={share} budget={counted} importance={importance} ranking=global compensate=true"),
        SHRINK,
    ),
    {"share": (0.25, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7), "importance": ("reconstruction", "wanda")},
    needs=("samples", "channels"),
)

PRECISIONS = (
    Element(
        "int8",
        "int8 arithmetic",
        (Part("quantize calibration={calibration} equalise={equalise}{target}", "spare"),),
        {"calibration": ("minmax", "percentile", "mse", "entropy"), "equalise": ("false", "true"), "spare": SPARED},
        needs=("samples", "layers"),
        serves=("latency", "macs"),
    ),
    Element(
        "int8",
        "int8 arithmetic",
        (Part("quantize calibration={calibration} equalise={equalise}{target}", "spare"), REST, SHORT),
        {"calibration": ("minmax", "percentile", "mse", "entropy"), "equalise": ("false", "true"), "spare": SPARED},
        needs=("samples", "layers"),
        serves=SMALL,
    ),
    Element(
        "dynamic int8",
        "int8 arithmetic with scales of each run",
        (Part("quantize-dynamic{target}", "spare"),),
        {"spare": SPARED},
        needs=("products", "cpu"),
        serves=("latency", "macs"),
    ),
    Element(
        "dynamic int8",
        "int8 arithmetic with scales of each run",
        (Part("quantize-dynamic{target}", "spare"), REST, SHORT),
        {"spare": SPARED},
        needs=("products", "cpu"),
        serves=SMALL,
    ),
    Element(
        "8-bit weights",
        "weights in 8 bits",
        (Part("quantize-weights dtype=int8 calibration=mse rounding={rounding}"), SHORT),
        {"rounding": ("gptq", "nearest")},
        needs=("samples", "layers"),
        serves=SMALL,
    ),
    Element(
        "8-bit weights, unfitted",
        "weights in 8 bits",
        (REST, SHORT),
        needs=("no samples",),
        serves=SMALL,
    ),
    Element(
        "4-bit weights",
        "weights in 4 bits",
        (
            Part(
                "quantize-weights dtype=uint4 block_size={block} calibration=mse rounding=gptq format={format}", "spare"
            ),
            REST,
            SHORT,
        ),
        {"block": (32, 16, 64, 128), "format": ("qdq", "matmulnbits", "matmulinteger"), "spare": SPARED},
        needs=("samples", "layers"),
        serves=SMALL,
    ),
    Element(
        "4-bit weights",
        "weights in 4 bits",
        (Part("quantize-weights dtype=uint4 calibration=mse rounding=gptq format={format}{target}", "spare"),),
        {"format": ("matmulinteger", "matmulnbits"), "spare": SPARED},
        needs=("samples", "products", "cpu"),
        serves=("latency",),
    ),
    Element(
        "bits by layer",
        "weights in 2 to 8 bits, as each layer bears",
        (
            Part("merge-nodes"),
            Part("quantize-weights bits={bits} calibration=mse rounding={rounding}{target}"),
            UNNAMED,
        ),
        {"bits": (4.2, 8.2, 6.0, 5.0, 3.8, 3.4, 3.0, 2.7), "rounding": ("gptq", "quantease")},
        needs=("samples", "products"),
        serves=SMALL,
    ),
    Element(
        "float16",
        "float16",
        (Part("convert-float dtype=float16"), SHORT),
        needs=("float32",),
        serves=SMALL,
    ),
)

LADDERS: Mapping[Objective, tuple[Params, ...]] = {
    "latency": (
        {"precision": "int8"},
        {"precision": "dynamic int8"},
        {"precision": "4-bit weights"},
        {"prune": 0.25},
        {"precision": "int8", "calibration": "percentile"},
        {"prune": 0.25, "precision": "int8"},
        {"precision": "int8", "calibration": "mse"},
        {"precision": "int8", "spare": 0.1},
        {"prune": 0.1},
        {"prune": 0.1, "precision": "int8"},
        {"prune": 0.4},
        {"precision": "int8", "spare": 0.3},
        {"precision": "int8", "equalise": "true"},
        {"precision": "dynamic int8", "spare": 0.1},
        {"prune": 0.4, "precision": "int8"},
    ),
    "size": (
        {"precision": "int8"},
        {"precision": "8-bit weights"},
        {"precision": "8-bit weights, unfitted"},
        {"precision": "bits by layer"},
        {"precision": "4-bit weights"},
        {"precision": "bits by layer", "bits": 5.0},
        {"precision": "bits by layer", "bits": 3.4},
        {"precision": "float16"},
        {"precision": "int8", "calibration": "percentile"},
        {"precision": "dynamic int8"},
        {"prune": 0.25, "precision": "int8"},
        {"precision": "4-bit weights", "spare": 0.2},
        {"precision": "int8", "calibration": "mse"},
        {"precision": "4-bit weights", "format": "matmulnbits"},
        {"prune": 0.1, "precision": "int8"},
        {"prune": 0.1, "precision": "4-bit weights"},
        {"precision": "int8", "spare": 0.1},
        {"prune": 0.4, "precision": "int8"},
    ),
    "macs": ({"prune": 0.25}, {"prune": 0.1}, {"prune": 0.4}, {"prune": 0.15}, {"prune": 0.5}),
}
"""Objective → known good recipes, which are tried first; choices that are not named are the first of each."""

LIKE: Mapping[Objective, Objective] = {"zipped": "size", "memory": "size"}
"""Objectives that begin as others do."""


def elements(objective: Objective, facts: Collection[str]) -> tuple[list[Element], list[Element]]:
    """Return what may be tried for an objective, and what lacks something for it: pruning first, then precisions."""
    serving = [each for each in (PRUNE, *PRECISIONS) if objective in each.serves]
    if objective == "macs":
        serving = [PRUNE]
    able = [each for each in serving if set(each.needs) <= set(facts)]
    return able, [each for each in serving if each not in able]


def ladder(objective: Objective, able: Collection[Element]) -> list[Params]:
    """Return the known good recipes that can be tried, with every choice made."""
    names = {each.name for each in able}
    rungs: list[Params] = [{}]
    for rung in LADDERS[LIKE.get(objective, objective)]:
        precision = rung.get("precision")
        if (precision is None or precision in names) and ("prune" not in rung or PRUNE.name in names):
            rungs.append(completed(rung, able))
    return [completed({}, able), *rungs[1:]]


def completed(rung: Params, able: Collection[Element]) -> Params:
    """Return every choice that a recipe asks for, named as Optuna keeps it.

    >>> completed({"precision": "float16"}, PRECISIONS)
    {'prune': 0.0, 'precision': 'float16'}
    """
    share = rung.get("prune", 0.0)
    params: Params = {"prune": share, "precision": rung.get("precision", "float")}
    if share:
        params["prune.importance"] = rung.get("importance", PRUNE.choices["importance"][0])
    element = next((each for each in able if each.name == params["precision"]), None)
    for name, values in (element.choices if element else {}).items():
        params[f"{params['precision']}.{name}"] = rung.get(name, values[0])
    return params


TRAIN = "train"
"""The choice that tells how many seconds a recipe trains; no study makes it."""


def recipe(params: Params, able: Collection[Element], objective: Objective, target: str | None) -> tuple[Part, ...]:
    """Write out the recipe that was chosen; training comes behind all that changes numbers."""
    parts = _untrained(params, able, objective, target)
    if TRAIN not in params:
        return parts
    end = next((place for place, part in enumerate(parts) if part in (SHORT, UNNAMED)), len(parts))
    return (*parts[:end], Part(f"distill seconds={params[TRAIN]:g}"), *parts[end:])


def _untrained(params: Params, able: Collection[Element], objective: Objective, target: str | None) -> tuple[Part, ...]:
    parts = [Part(text) for text in FOLDS] + ([] if objective == "latency" else [SHRINK])
    given: Params = {"counted": COUNTED_BY[objective], "target": f" target={target}" if target else ""}
    if params.get("prune"):
        own = given | {"share": params["prune"], "importance": params["prune.importance"]}
        parts += [Part(part.text.format(**own)) for part in PRUNE.parts]
    for element in able:
        if element.name == params.get("precision"):
            own = given | {name: params[f"{element.name}.{name}"] for name in element.choices}
            parts += [
                Part(part.text.format(**own), own[str(part.spare)] if part.spare else 0.0) for part in element.parts
            ]
    return tuple(parts)


def describe(params: Params, able: Collection[Element]) -> str:
    """Say in a few words what a recipe does."""
    said = [f"prune {100 * params['prune']:.0f} %"] if params.get("prune") else []
    for element in able:
        if element.name != params.get("precision"):
            continue
        details = []
        for name, values in element.choices.items():
            value = params[f"{element.name}.{name}"]
            if value != values[0]:
                spared = name == "spare"
                details.append(f"{100 * value:.0f} % of layers spared" if spared else _said(name, value))
        said.append(element.name + (f" ({', '.join(details)})" if details else ""))
    said += ["distil"] if TRAIN in params else []
    return " → ".join(said) or "folds"


def _said(name: str, value: Any) -> str:
    return name if value == "true" else f"{name} {value}"
