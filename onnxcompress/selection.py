"""Which nodes, layers, weights or groups an option speaks of: the same terms and the same errors in every pass.

A term is a name, a pattern (``*``, ``?`` and ``[...]``, as in file names) or ``type:`` and an operator type, which may
be a pattern, too. A node goes by its own name and by those of its outputs, a weight by its name and by those of the
nodes that read it. What is both included and excluded is left alone; of two overrides of one option the later holds.

====== =========================================================================
where  how it is written
====== =========================================================================
Python ``exclude=("conv1", "head*"), overrides={"type:Gemm": {"sparsity": 0.2}}``
TOML   ``exclude = ["conv1", "head*"]`` and ``overrides."type:Gemm".sparsity = 0.2``
``-p`` ``exclude=conv1,head* overrides.type:Gemm.sparsity=0.2``
====== =========================================================================
"""

from __future__ import annotations

import dataclasses
import fnmatch
import typing
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeAlias, TypeVar

import onnx_ir as ir

from .contract import Pass, Refusal, check_option
from .errors import OptionError, PassError, did_you_mean
from .graph import edit
from .graph.functions import ORIGIN

if TYPE_CHECKING:
    from .channels.groups import Groups

Terms: TypeAlias = tuple[str, ...]
Overrides: TypeAlias = dict[str, dict[str, Any]]
"""Term → option → the value that it has there."""

OPERATOR = "type:"
SHOWN = 8
"""How many names an error lists."""

NOT_INCLUDED = "not named by include"

K = TypeVar("K", bound=Hashable)
PassT = TypeVar("PassT", bound="SelectivePass")


@dataclass
class Subject:
    """What a term can mean a thing by: its names, and the types of its operators.

    Attributes
    ----------
    names, operators : set of str
    beside : Subject, optional
        What changes with it: to leave that alone (`exclude`) is to leave this alone.
    """

    names: set[str] = field(default_factory=set)
    operators: set[str] = field(default_factory=set)
    beside: Subject | None = None

    def add_node(self, node: ir.Node) -> None:
        """Let the thing go by a node, too, and by what that was, or was called by, before it was inlined."""
        self.names |= {str(name) for name in (node.name, *(value.name for value in node.outputs)) if name}
        self.operators |= {node.op_type, edit.op_of(node)}
        for origin in node.meta.get(ORIGIN, ()):
            known = self.operators if origin.startswith(OPERATOR) else self.names
            known.add(origin.removeprefix(OPERATOR))

    def joined(self, *others: Subject) -> Subject:
        """Return what goes by all names of this and of others."""
        every = (self, *others)
        return Subject(set().union(*(one.names for one in every)), set().union(*(one.operators for one in every)))

    def matches(self, term: str) -> bool:
        """Tell whether a term means this."""
        known, pattern = (self.names, term)
        if term.startswith(OPERATOR):
            known, pattern = self.operators, term[len(OPERATOR) :]
        return pattern in known or any(fnmatch.fnmatchcase(name, pattern) for name in known)

    def touches(self, term: str) -> bool:
        """Tell whether a term means this, or what changes with it."""
        return self.matches(term) or (self.beside is not None and self.beside.matches(term))


def node_subjects(graph: ir.Graph) -> dict[ir.Node, Subject]:
    """Return all nodes, those of inner graphs too, by name, outputs and operator type."""
    found = {}
    for node in graph.all_nodes():
        found[node] = Subject()
        found[node].add_node(node)
    return found


def value_subjects(values: Iterable[ir.Value]) -> dict[ir.Value, Subject]:
    """Return tensors by their names and by the nodes that read them."""
    found = {}
    for value in values:
        found[value] = Subject({str(value.name)})
        for node in value.consumers():
            found[value].add_node(node)
    return found


def group_subjects(groups: Groups) -> dict[str, Subject]:
    """Return groups of channels by name: by that, and by the layers that make them; those that read them are beside."""
    found = {}
    for group in (*groups.prunable, *groups.frozen):
        reading = [member.value for member in group.constants() if member.role == "in"]
        making = [member.value for member in group.constants() if member.role != "in"]
        layers = _layer_subject(groups, making or reading)
        found[group.name] = Subject({group.name}).joined(layers)
        found[group.name].beside = _layer_subject(groups, reading)
    return found


def _layer_subject(groups: Groups, constants: list[ir.Value]) -> Subject:
    """Return constants by their names and by the nodes that use them."""
    found = value_subjects(dict.fromkeys(constants))
    for value, subject in found.items():
        for sink in groups.readers.get(value, ()):  # a weight that is moved first is read by another node
            subject.add_node(sink.node)
    return Subject().joined(*found.values())


@dataclass(frozen=True)
class Selected(Generic[K, PassT]):
    """What `SelectivePass.select` found.

    Attributes
    ----------
    why_not : dict
        What is left alone → why.
    by : dict
        What has options of its own → the terms of `overrides` that mean it, in order.
    subjects : mapping
        What the pass could touch.
    """

    step: PassT
    why_not: dict[K, str]
    by: dict[K, Terms]
    subjects: Mapping[K, Subject] = field(default_factory=dict)

    def settings(self, subject: K) -> PassT:
        """Return the pass with the options that hold for one thing."""
        own = self.options(subject)
        return self.step.replaced(own) if own else self.step

    def why_not_together(self, subjects: Iterable[K]) -> str:
        """Return why things that change together stay as they are: one is excluded, or none is included."""
        reasons = [self.why_not.get(subject, "") for subject in subjects]
        excluded = next((reason for reason in reasons if reason not in ("", NOT_INCLUDED)), "")
        return excluded or (NOT_INCLUDED if reasons and all(reasons) else "")

    @property
    def idle(self) -> tuple[Refusal, ...]:
        """What `include` and `overrides` name in the model, and the pass could not touch."""
        return self.idle_but(self.subjects)

    def idle_but(self, touched: Iterable[K]) -> tuple[Refusal, ...]:
        """Return those that mean nothing of what was touched, or refused for a reason of its own."""
        known = [self.subjects[key] for key in touched if key in self.subjects]
        named = {"include": self.step.include, "overrides": tuple(_overrides(self.step))}
        return tuple(
            Refusal(term, f"{option} names it, and there is nothing that {self.step.name} could do to it")
            for option, terms in named.items()
            for term in terms
            if not any(subject.matches(term) for subject in known)
        )

    def options(self, subject: K) -> dict[str, Any]:
        """Return the options that one thing has of its own."""
        overrides = _overrides(self.step)
        return {name: value for term in self.by.get(subject, ()) for name, value in overrides[term].items()}


@dataclass(frozen=True, kw_only=True)
class SelectivePass(Pass):
    """A pass whose subjects can be chosen.

    Attributes
    ----------
    include : tuple of str
        Only what these terms mean is touched; everything that the pass can, if there are none. A term is a name or a
        pattern of names (`head*`) of nodes, of their outputs or of weights, or `type:` and an operator (`type:Gemm`).
    exclude : tuple of str
        What these terms mean is left alone, included or not.
    """

    include: Terms = ()
    exclude: Terms = ()

    def select(self: PassT, model: ir.Model, subjects: Mapping[K, Subject]) -> Selected[K, PassT]:
        """Sort out what the options speak of.

        Parameters
        ----------
        model : onnx_ir.Model
            What the user gave: all its nodes and constants may be named, also those that are no subjects.
        subjects : mapping
            What the pass could touch.

        Raises
        ------
        PassError
            A term matches nothing in the model.
        """
        overrides = _overrides(self)
        named = {"include": self.include, "exclude": self.exclude, "overrides": tuple(overrides)}
        _check_terms(self.name, named, model, subjects.values())
        why_not: dict[K, str] = {}
        by: dict[K, Terms] = {}
        for key, subject in subjects.items():
            if self.include and not any(map(subject.matches, self.include)):
                why_not[key] = NOT_INCLUDED
            for term in self.exclude:
                if subject.touches(term):
                    why_not[key] = f"excluded by '{term}'"
            if own := tuple(term for term in overrides if subject.matches(term)):
                by[key] = own
        return Selected(self, why_not, by, subjects)

    def replaced(self: PassT, options: dict[str, Any]) -> PassT:
        """Return the pass with other options, and without overrides."""
        return dataclasses.replace(self, **options, overrides={})  # type: ignore[call-arg]


@dataclass(frozen=True, kw_only=True)
class OverridablePass(SelectivePass):
    """A pass some of whose options may have other values for some of its subjects.

    Attributes
    ----------
    overrides : dict
        Other values of options for what a term means: `overrides.TERM.OPTION=VALUE` with -p, a table in TOML, a dict of
        dicts in Python; the later holds.
    overridable : tuple of str
        The options that may be overridden.
    """

    overridable: ClassVar[tuple[str, ...]] = ()

    overrides: Overrides = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        hints = typing.get_type_hints(type(self), include_extras=True)
        checked: Overrides = {}
        for term, options in self.overrides.items():
            checked[term] = {}
            for name, value in options.items():
                where = f"overrides.{term}.{name}"
                if name not in self.overridable:
                    hint = (
                        did_you_mean(name, list(self.overridable)) or f"; expected one of {', '.join(self.overridable)}"
                    )
                    raise OptionError(f"{self.name}: {where}: it cannot be overridden{hint}")
                checked[term][name] = check_option(self.name, where, value, hints[name])
            self.replaced(checked[term])  # options that do not go together are an error right away
        object.__setattr__(self, "overrides", checked)


def _overrides(step: SelectivePass) -> Overrides:
    return step.overrides if isinstance(step, OverridablePass) else {}


def _check_terms(owner: str, named: Mapping[str, Terms], model: ir.Model, subjects: Iterable[Subject]) -> None:
    if not any(named.values()):
        return
    every = Subject()
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        for node in graph.all_nodes():
            every.add_node(node)
    every.names |= {str(value.name) for value in edit.values(model.graph) if edit.constant(value) is not None}
    every.names |= {str(value.name) for value in edit.defaults(model.graph)}
    for subject in subjects:
        every.names |= subject.names
        every.operators |= subject.operators
    for option, terms in named.items():
        for term in terms:
            if not every.matches(term):
                raise PassError(f"{owner}: {option}: '{term}' matches nothing in the model{_hint(term, every)}")


def _hint(term: str, every: Subject) -> str:
    """Say what comes nearest, or what there is."""
    if term.startswith(OPERATOR):
        known = sorted(OPERATOR + name for name in every.operators)
    elif term in every.operators:
        return f"; for all operators of that type write '{OPERATOR}{term}'"
    else:
        known = sorted(every.names)
    return did_you_mean(term, known) or (f"; there are {', '.join(known[:SHOWN])}" if known else "")
