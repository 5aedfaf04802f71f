"""A target: what one inference engine accepts, read from TOML.

Every section says in `source` where its rules come from, and in `outside` what the engine does with a model that breaks
them: ``"reject"`` (it does not load, or computes something else) or ``"float"`` (it runs, not on integers, or slower).
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Literal

import msgspec

from ..errors import OptionError, did_you_mean
from ..toml import parse_toml, read_toml

Outside = Literal["reject", "float"]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every section of the file has: where the rules come from, and what happens to a model that breaks them."""

    source: str
    outside: Outside = "float"


class Opset(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Versions of ONNX's own operators that the engine reads: `min` to `max`."""

    min: int
    max: int


class Tensors(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How activations, or weights, may be stored.

    Attributes
    ----------
    dtypes : list of str
        Names as in ONNX, in lower case; the first is what `quantize` writes.
    symmetric : list of str
        Types whose zero point must be the middle of their range: 0 of a signed type, 128 of uint8, 32768 of uint16.
    per_channel : bool
        Whether one scale for each channel is accepted.
    range : (int, int), optional
        The integers that may be used, where that is less than the type has.
    range_with : list of str
        Types of activations with which `range` holds; all where empty.
    """

    dtypes: list[str]
    symmetric: list[str] = []
    per_channel: bool = False
    range: tuple[int, int] | None = None
    range_with: list[str] = []


class Axes(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The axis of a weight that has one scale for each of its positions: that of the operator's output channels.

    `Gemm` is the axis of a weight that is not transposed; negative axes count from the end.
    """

    conv: int = 0
    conv_transpose: int = 1
    gemm: int = 1
    matmul: int = -1


class Blocks(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Weights beside float activations, with one scale for each block along an axis.

    Attributes
    ----------
    dtypes : list of str
    min, max : int
        The least and greatest size of a block, which is a power of two.
    operators : list of str
        Which read them.
    whole : bool
        Whether weights without blocks, with a scale for each tensor or channel, do as well.
    format : {"qdq", "matmulnbits"}
        Which operators read 4 bits and fewer fastest: a DequantizeLinear before MatMul, or MatMulNBits.
    accuracy_level : int
        The attribute of MatMulNBits with which it is fastest; 0: as it comes.
    """

    dtypes: list[str]
    min: int
    max: int
    operators: list[str]
    whole: bool = False
    format: Literal["qdq", "matmulnbits"] = "qdq"
    accuracy_level: int = 0


class Bias(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the bias of an integer operator is stored.

    Attributes
    ----------
    format : {"int32", "float"}
        int32 behind a DequantizeLinear whose scale is that of the input times that of the weight; or float.
    required : list of str
        Operators that compute on integers only with a bias in this format, and on that scale.
    """

    format: Literal["int32", "float"]
    required: list[str] = []


class Scales(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What scales may be; zero, negative, denormal or infinite ones, and NaN, nobody accepts."""

    power_of_two: bool = False


class Operators(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the engine does with each operator.

    Attributes
    ----------
    integer : list of str
        Compute on integers between DequantizeLinear and QuantizeLinear.
    moves : list of str
        Pass integers through; the scale must be the same on both sides.
    fused : list of str
        Become part of the operator before them.
    float_output : list of str
        Compute on integers also without a QuantizeLinear behind.
    completes : list of str
        Between integers, the engine itself stores their float weights (with one scale) and biases as integers.
    qoperators : list of str
        Operators on integers, such as QLinearConv, that are accepted as they are.
    rejected : list of str
        Have no kernel at all.
    contrib : list of str
        Operators of onnxruntime's own that it takes, without their domain.
    beyond : {"taken", "cpu", "reject"}
        What becomes of the others of onnxruntime's own: its CPU kernels are this engine; they are left to the CPU;
        or the engine refuses them.
    coverage : {"layers", "all"}
        "all": floats are not computed, or by another processor, so that whatever can compute on integers should.
    """

    integer: list[str]
    moves: list[str] = []
    fused: list[str] = []
    float_output: list[str] = []
    completes: list[str] = []
    qoperators: list[str] = []
    rejected: list[str] = []
    contrib: list[str] = []
    beyond: Literal["taken", "cpu", "reject"] = "taken"
    coverage: Literal["layers", "all"] = "layers"


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one engine accepts.

    Attributes
    ----------
    title : str
        The engine, for people.
    opset, activations, weights, axes, bias, scales, operators
        The sections of the file.
    pairs : list of (str, str)
        Types of activation and weight that go together in one operator; all combinations where empty.
    blocks : Blocks, optional
        Weights in blocks; not accepted where the section is missing.
    advice : list of str
        What to know, in sentences.
    providers : list of str
        Providers of onnxruntime that run models with this engine, by the names of `--provider`; none where
        onnxruntime has none.
    name : str
        The name or path it was loaded by.
    """

    title: str
    opset: Opset
    activations: Tensors
    weights: Tensors
    axes: Axes
    bias: Bias
    scales: Scales
    operators: Operators
    pairs: list[tuple[str, str]] = []
    blocks: Blocks | None = None
    advice: list[str] = []
    providers: list[str] = []
    name: str = ""


def target_names() -> list[str]:
    """Return the names of the targets that come with the package."""
    folder = files(__package__)
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_target(name_or_path: str | Path) -> Target:
    """Load a target by its name, or from a TOML file of one's own.

    Parameters
    ----------
    name_or_path : str or Path
        One of `target_names()`, or a path that ends in ``.toml``.

    Returns
    -------
    Target

    Raises
    ------
    OptionError
        There is no such target or file, or the file has an unknown, missing or wrong field; names file and field.
    """
    name = str(name_or_path)
    if name.endswith(".toml"):
        text = read_toml(name, "target file")
    elif name in target_names():
        text = (files(__package__) / f"{name}.toml").read_text(encoding="utf-8")
    else:
        names = target_names()
        known = ", ".join(names)
        raise OptionError(
            f"target '{name}': unknown{did_you_mean(name, names)}; known: {known}, or a path to a .toml file"
        )
    return _parse(text, name)


def _parse(text: str, name: str) -> Target:
    content = parse_toml(text, name)
    try:
        return msgspec.convert({**content, "name": name}, Target)
    except msgspec.ValidationError as error:
        raise OptionError(f"{name}: {error}") from None
