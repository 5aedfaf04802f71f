"""What a pass promises and what it is promised.

A pass is a frozen dataclass: its fields are its options, checked when it is made. `plan` reads the model and asks
the `Context` for what it needs; `apply` edits a model by a plan alone. So a plan can be printed, saved, edited by
hand and replayed.

The core knows no pass by name. It asks each for five things: its `name`, what it `needs` and what it has a `promise`
for, before it runs; then for `plan` and `apply`. The class of its plans is the annotation of what `plan` returns, and
`Plan.parts` tells whether a plan can be taken apart.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Hashable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import msgspec
import numpy as np

from . import plan_json
from .errors import DataError, OptionError, did_you_mean
from .machines.workers import Here
from .progress import Progress, silent

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

    from .channels.groups import Groups
    from .graph.interface import Interface
    from .layer_times.layer_times import LayerTimes
    from .machines.workers import Workers
    from .samples.samples import Samples
    from .statistics.calibration import Method
    from .statistics.channel_ranges import ChannelRange
    from .statistics.observation import Observation
    from .statistics.summaries import ChannelMean, Moment, Range
    from .verify import Verifier


MODEL = "model"
"""The subject of what concerns a model as a whole."""


@dataclasses.dataclass(frozen=True)
class Change:
    """One thing that a pass did: to which node or tensor (or `MODEL`), and what."""

    subject: str
    what: str


@dataclasses.dataclass(frozen=True)
class Refusal:
    """One thing that a pass left alone: which node or tensor, and why."""

    subject: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Epoch:
    """How far training was: before the first epoch, or behind one.

    Attributes
    ----------
    trained : float, optional
        The mean loss on the samples that train; None before the first epoch.
    loss, score : float, optional
        On the samples that are held out; None without any. More is better for the score.
    """

    trained: float | None = None
    loss: float | None = None
    score: float | None = None


@dataclasses.dataclass(frozen=True)
class Changes:
    """What a pass did, what it refused, and what else it wants to tell: how it chose, what it measured.

    `curve` is how training went, epoch by epoch.
    """

    done: tuple[Change, ...] = ()
    refused: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()
    curve: tuple[Epoch, ...] = ()


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a pass needs from its context; checked before the first pass of a recipe runs.

    Attributes
    ----------
    samples, training : bool
        It cannot do without.
    welcome : bool
        It is fitted to samples where there are some, and does without where there are none.
    """

    samples: bool = False
    training: bool = False
    welcome: bool = False

    @property
    def fits(self) -> bool:
        """Whether the pass is fitted to samples that it is given."""
        return self.samples or self.welcome


@dataclasses.dataclass(frozen=True, kw_only=True)
class Promise:
    """What holds of the model that a pass leaves, beside what holds of every one; the verifier goes by it.

    Attributes
    ----------
    tolerance : float or None
        The outputs are the same, to this relative error; a model whose outputs differ by more is rolled back. None:
        they change.
    freezes : bool
        Inputs of the model that have a default may become constants.
    retypes : bool
        Floating-point inputs and outputs of the model have another such type.
    narrows : bool
        Inputs and outputs may lose positions, as the model's metadata say: heads of a cache.
    """

    tolerance: float | None = None
    freezes: bool = False
    retypes: bool = False
    narrows: bool = False


PlanT = TypeVar("PlanT", bound="Plan")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a pass decided, as plain data. Subclasses add fields of plain types and numpy arrays.

    Attributes
    ----------
    refused : tuple of Refusal
        What is left alone, and why.
    unmet : tuple of str
        What was asked for and could not be kept (a largest drop), each with what was reached.
    notes : tuple of str
        What else is to be known of how it was found.
    chosen : dict
        Options that the pass chose by itself, in place of those that it was given: option → value.
    """

    refused: tuple[Refusal, ...] = ()
    unmet: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    chosen: dict[str, Any] = dataclasses.field(default_factory=dict)

    def parts(self: PlanT) -> dict[str, PlanT]:
        """Return a plan for each subject (a group, a weight) alone; none where they hang together."""
        return {}

    def to_json(self) -> str:
        """Encode as one JSON object; arrays become ``{"dtype", "shape", "base64"}``."""
        return plan_json.to_text(self)

    @classmethod
    def from_json(cls: type[PlanT], text: str) -> PlanT:
        """Decode what `to_json` wrote; the same plan on the same model gives the same model."""
        return plan_json.read(text, cls, "plan")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pass:
    """One named transformation. Subclass as a frozen dataclass, give `plan` and `apply`, register an entry point.

    Attributes
    ----------
    needs : Needs
        What must be there before the pass can run. An instance whose options ask for more sets its own.
    promise : Promise
        What holds of the model afterwards.
    writes_zeros : bool
        It writes zeros, and leaves it to another pass to remove them.
    """

    needs: ClassVar[Needs] = Needs()
    writes_zeros: ClassVar[bool] = False

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self), include_extras=True)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            object.__setattr__(self, field.name, check_option(self.name, field.name, value, hints[field.name]))

    @property
    def name(self) -> str:
        """The class name in kebab-case, as recipes and the command line write it."""
        return pass_name(type(self))

    @property
    def promise(self) -> Promise:
        """What holds of the model afterwards; a class attribute where it is the same whatever the options."""
        return Promise()

    def options(self) -> dict[str, Any]:
        """Return the options as plain data."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def plan(self, model: ir.Model, context: Context) -> Plan:
        """Decide; reads `model`, never changes it."""
        raise NotImplementedError

    def apply(self, model: ir.Model, plan: Any) -> Changes:
        """Edit `model` as `plan` says, and nothing else."""
        raise NotImplementedError


def pass_name(kind: type[Pass]) -> str:
    """Return the kebab-case name of a pass class.

    >>> pass_name(type("PruneChannels", (Pass,), {}))
    'prune-channels'
    """
    return re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower()


def check_option(owner: str, field: str, value: Any, hint: Any, *, strict: bool = True) -> Any:
    """Return `value` as `hint` (a type, perhaps with `msgspec.Meta` bounds) demands it, or raise `OptionError`.

    With ``strict=False`` text is read as the type asks for ("0.5" for a float), as the command line needs. A single
    string is a list of one.
    """
    if isinstance(value, str) and typing.get_origin(hint) is tuple:
        value = [value]
    try:
        return msgspec.convert(value, hint, strict=strict)
    except msgspec.ValidationError as error:
        allowed = [a for part in (hint, *typing.get_args(hint)) for a in typing.get_args(part) if isinstance(a, str)]
        other = "a number, or " if typing.get_origin(hint) in (types.UnionType, typing.Union) else ""
        expected = f"expected {other}one of {', '.join(allowed)}" if allowed else _first_lower(str(error))
        if allowed and re.match("Expected `(float|int)` [<>]", str(error)):
            expected = f"{_first_lower(str(error))}, or one of {', '.join(allowed)}"
        hint_text = did_you_mean(str(value), allowed)
        raise OptionError(f"{owner}: {field} = {value!r}: {expected}{hint_text}") from None


def _first_lower(text: str) -> str:
    return text[:1].lower() + text[1:]


class Context:
    """What a pass may ask for. Each answer is computed once and kept while the model stays the same.

    Parameters
    ----------
    model : ir.Model
        The model that the pass is about to change.
    original : ir.Model
        The model that the pipeline started from (the teacher).
    samples : Samples, optional
        Input samples.
    seed : int
        Seeds everything random.
    progress : callable, optional
        Called as ``progress(what, done, total)``.
    metric : str, optional
        What a pass judges by that looks at the outputs; see `onnxcompress.evaluation.metrics`.
    verifier : Verifier, optional
        One that holds `model`; made when it is needed otherwise.
    rehearsal : bool
        Nothing will be written: what takes long may be estimated in place of being done, and is said to be.
    workers : Workers, optional
        Who goes through the samples; this process by default.
    layer_times : LayerTimes, optional
        How long layers take; by default it is measured here.
    """

    def __init__(
        self,
        model: ir.Model,
        *,
        original: ir.Model | None = None,
        samples: Samples | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        metric: str | None = None,
        verifier: Verifier | None = None,
        rehearsal: bool = False,
        workers: Workers | None = None,
        layer_times: LayerTimes | None = None,
    ) -> None:
        self.model, self.rehearsal, self._layer_times = model, rehearsal, layer_times
        self.workers: Workers = workers or Here()
        self._verifier = verifier
        self.metric = metric
        self.original = original if original is not None else model
        self.seed = seed
        self.progress: Progress = progress or silent
        self._samples = samples
        self._seen: dict[str, Observation] = {}
        self._ranges: dict[tuple[Method, bool, int], dict[str, Range]] = {}
        self._channel_ranges: dict[tuple[Method, bool, int], dict[tuple[str, int], ChannelRange]] = {}
        self._kept: dict[Hashable, Any] = {}
        self._fitted_to: set[str] = set()
        self._channel_means: dict[str, dict[tuple[str, int], ChannelMean]] = {}
        self.interface: Interface = "stays"

    def on(self, model: ir.Model) -> Context:
        """Return the same for another model."""
        other = Context(
            model,
            original=self.original,
            samples=self._samples,
            seed=self.seed,
            progress=self.progress,
            metric=self.metric,
            rehearsal=self.rehearsal,
            workers=self.workers,
            layer_times=self._layer_times,
        )
        other._fitted_to, other.interface = self._fitted_to, self.interface
        return other

    def allowing(self, interface: Interface) -> Context:
        """Return the same for a pass under which inputs and outputs may change, or may not."""
        if interface == self.interface:
            return self
        other: Context = self.keep(interface, lambda: self.given(self._samples))
        other.interface = interface
        return other

    def given(self, samples: Samples | None) -> Context:
        """Return the same with other samples."""
        other = self.on(self.model)
        other._samples, other._verifier = samples, self._verifier
        return other

    def verify(self, model: ir.Model, *, tolerance: float) -> None:
        """Raise `VerifyError` unless `model` computes what this context's does: for preparations inside a pass."""
        from .verify import Verifier

        if self._verifier is None:
            self._verifier = Verifier(self.model, None if self._samples is None else self._samples.few())
        self._verifier.compare(model, tolerance=tolerance)

    @property
    def has_samples(self) -> bool:
        """Whether there are any."""
        return self._samples is not None

    @property
    def samples(self) -> Samples:
        """The samples; raises `DataError` when there are none."""
        if self._samples is None:
            raise DataError("this needs samples, and there are none; give them with --data (or data=...)")
        self._fitted_to.add(self._samples.description)
        return self._samples

    @property
    def fitted_to(self) -> str:
        """What the samples are called that have been asked for; empty where none were."""
        return ", ".join(sorted(self._fitted_to))

    @property
    def feed(self) -> dict[str, Any] | None:
        """One sample; None where there are none."""
        return None if self._samples is None else next(iter(self._samples.head(1).batches()))

    @property
    def layer_times(self) -> LayerTimes:
        """How long layers take at widths that they do not have."""
        from .layer_times.layer_times import LayerTimes

        if self._layer_times is None:
            self._layer_times = LayerTimes()
        return self._layer_times

    @cached_property
    def groups(self) -> Groups:
        """Which positions of which tensors must be pruned together."""
        from .channels.groups import find_groups

        return find_groups(self.model, self.interface)

    def keep(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """Return what `compute` returned the first time it was asked for under this key."""
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]

    def ranges(
        self, tensors: list[str], method: Method = "minmax", *, symmetric: bool = False, levels: int = 256
    ) -> Mapping[str, Range]:
        """Return the range of each named tensor over the samples, clipped as `method` says.

        "minmax" keeps the smallest and the largest value; see `onnxcompress.statistics.calibration` for the others.
        One pass over the samples serves all methods that count values. `levels` is how many integers the quantized
        type has.
        """
        from .statistics.calibration import COUNTED, clipped_range
        from .statistics.ranges import observe

        counted = method in COUNTED
        missing = [name for name in tensors if name not in self._seen or (counted and not self._seen[name].histogram)]
        if missing:
            seen = observe(
                self.model, self.samples, missing, progress=self.progress, histograms=counted, workers=self.workers
            )
            self._seen |= seen
        known = self._ranges.setdefault((method, symmetric, levels), {})
        for name in tensors:
            if name not in known:
                known[name] = clipped_range(self._seen[name], method, symmetric=symmetric, levels=levels)
        return {name: known[name] for name in tensors}

    def channel_ranges(
        self,
        channels: list[tuple[str, int]],
        method: Method = "minmax",
        *,
        symmetric: bool = False,
        levels: int = 256,
    ) -> Mapping[tuple[str, int], ChannelRange]:
        """Return the range per index of the axis, for each (tensor, axis), over the samples.

        Each is what `ranges` would say if that index were a tensor of its own. What the methods that count values have
        seen of so many channels is not kept, so that each of them goes through the samples by itself.
        """
        from .statistics.channel_ranges import collect_channel_ranges

        known = self._channel_ranges.setdefault((method, symmetric, levels), {})
        missing = [key for key in channels if key not in known]
        if missing:
            known |= collect_channel_ranges(
                self.model,
                self.samples,
                missing,
                progress=self.progress,
                method=method,
                symmetric=symmetric,
                levels=levels,
                workers=self.workers,
            )
        return {key: known[key] for key in channels}

    def channel_means(
        self, channels: list[tuple[str, int]], moment: Moment = "absolute"
    ) -> Mapping[tuple[str, int], npt.NDArray[np.float64]]:
        """Return the mean per index of the axis, for each (tensor, axis), over samples and other axes.

        `moment` says of what: "absolute" (|x|), "square" (x²) or "nonzero" (1 where x is not zero).
        """
        from .statistics.summaries import collect_channel_means

        known = self._channel_means.setdefault(moment, {})
        missing = [key for key in channels if key not in known]
        if missing:
            known |= collect_channel_means(
                self.model, self.samples, missing, progress=self.progress, moment=moment, workers=self.workers
            )
        return {key: known[key].mean for key in channels}
