"""What a look into single layers, kernels and samples finds, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["conversion", "float", "integer", "layout", "other"]
"""What a kernel does with numbers."""


@dataclass(frozen=True)
class Origin:
    """Who made a result of what, when and where, and the command that makes it again.

    Attributes
    ----------
    model : str
        The file's name; empty for a model in memory.
    sha256 : str
        Of the file; of a model in memory, of its graph and weights in the order in which they stand.
    producer : str
        What exported the model, as it says itself, with its version.
    made : str
        ISO 8601, in UTC, to the second; ``SOURCE_DATE_EPOCH`` sets it.
    system, processor : str
    features : tuple of str
        What the processor has that decides which kernels run.
    cores : int
        That this process may use.
    command : str
        Empty where no single command does the same.
    """

    model: str = ""
    sha256: str = ""
    producer: str = ""
    made: str = ""
    system: str = ""
    processor: str = ""
    features: tuple[str, ...] = ()
    cores: int = 1
    command: str = ""


@dataclass(frozen=True)
class Layer:
    """A node that reads weights or multiplies, or a kind of other nodes all together, before and after.

    Attributes
    ----------
    name, operator : str
        Of the original; of the result, where the original has no such node.
    nodes : int
        How many they are.
    bytes, bytes_after : int
        Of the constants that it reads; 0 after where it is gone.
    macs, macs_after : int or None
        None where shapes are not known.
    precision, precision_after : str
        The type of its largest weight as it is stored; empty without one.
    sparsity : float or None
        The share of zeros in the result's weights.
    milliseconds, milliseconds_after : float or None
        In one run: the model's time, shared out as onnxruntime's profiler divides it among kernels. None where the
        node is part of another kernel, or nothing was profiled.
    kernel : str
        What computes it in the result.
    sqnr : float or None
        Signal to noise of its output against the original's, in dB, over a few samples, each channel at its best
        scale; 200 where they are equal, None where the two have no such tensor of one shape.
    """

    name: str
    operator: str
    nodes: int = 1
    bytes: int = 0
    bytes_after: int = 0
    macs: int | None = 0
    macs_after: int | None = 0
    precision: str = ""
    precision_after: str = ""
    sparsity: float | None = None
    milliseconds: float | None = None
    milliseconds_after: float | None = None
    kernel: str = ""
    sqnr: float | None = None


@dataclass(frozen=True)
class Preview:
    """One input of one sample, small enough to be shown.

    Attributes
    ----------
    name : str
    kind : {"picture", "waveform", "text", "values"}
    content : str
        A picture: a PNG as a data URI. A waveform: heights from -1 to 1, apart by blanks. Else text.
    """

    name: str
    kind: Literal["picture", "waveform", "text", "values"]
    content: str


@dataclass(frozen=True)
class Answer:
    """What a model says of a sample: classes with their scores, the highest first, or the first values."""

    classes: tuple[tuple[int, float | None], ...] = ()
    values: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class WorstSample:
    """A sample on which the result differs most from the original.

    Attributes
    ----------
    number : int
        Among those that judge, from 0.
    label : str or None
    sqnr : float or None
        Signal to noise of the output that is shown, in dB.
    changed : bool
        The two decide differently.
    output : str
        Which output is shown.
    before, after : Answer
    inputs : list of Preview
    """

    number: int
    label: str | None
    sqnr: float | None
    changed: bool
    output: str
    before: Answer
    after: Answer
    inputs: list[Preview] = field(default_factory=list)


@dataclass(frozen=True)
class GroupInfo:
    """Channels that go together: how many, in how many constants, and why they cannot go (empty when they can)."""

    name: str
    channels: int
    tensors: int
    reason: str = ""


@dataclass(frozen=True)
class OperatorTime:
    """All kernels of one operator and kind.

    Attributes
    ----------
    operator : str
    kind : {"conversion", "float", "integer", "layout", "other"}
    kernels_before, kernels_after : int
        In the graphs that onnxruntime makes of the original and of the result.
    before, after : float
        Milliseconds in one run, all together.
    """

    operator: str
    kind: Kind
    kernels_before: int
    kernels_after: int
    before: float
    after: float


@dataclass(frozen=True)
class LayerTime:
    """One kernel of the result.

    Attributes
    ----------
    node : str
        Of the result, where the kernel was made of one, else of onnxruntime's own graph.
    kernel, operator : str
        In onnxruntime's own graph.
    kind : {"conversion", "float", "integer", "layout", "other"}
    before : float or None
        Milliseconds that the same node took in the original; None where it was not there, or part of another kernel.
    after : float
    share_before : float or None
    share : float
        Of all kernels of the run, before and after.
    reason : str
    """

    node: str
    kernel: str
    operator: str
    kind: Kind
    before: float | None
    after: float
    share_before: float | None
    share: float
    reason: str


@dataclass(frozen=True)
class NotFaster:
    """A quantized model that is not faster than the original, and what its time goes to.

    Attributes
    ----------
    before, after : float
        Milliseconds that all kernels take together in one run.
    kinds : dict of kind to float
        The share of the run that each kind of kernel takes.
    operators : list of OperatorTime
        The slowest of the result first.
    layers : list of LayerTime
        Those that take most time beyond what they took in the original.
    """

    before: float
    after: float
    kinds: dict[Kind, float]
    operators: list[OperatorTime]
    layers: list[LayerTime]
