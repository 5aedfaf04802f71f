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
======= ========================================================================
"""

from __future__ import annotations

import dataclasses
import fnmatch
import typing
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

import onnx_ir as ir

from .contract import Pass, Refusal, check_option
from .errors import OptionError, PassError, did_you_mean
from .graph import edit

Terms: TypeAlias = tuple[str, ...]
Overrides: TypeAlias = dict[str, dict[str, Any]]
"""Term → option → the value that it has there."""

OPERATOR = "type:"
SHOWN = 8
"""How many names an error lists."""

K = TypeVar("K", bound=Hashable)
PassT = TypeVar("PassT", bound="SelectivePass")


@dataclass
class Subject:
    """What a term can mean a thing by: its names, and the types of its operators."""

    names: set[str] = field(default_factory=set)
    operators: set[str] = field(default_factory=set)

    def add_node(self, node: ir.Node) -> None:
        """Let the thing go by a node, too."""
        self.names |= {str(name) for name in (node.name, *(value.name for value in node.outputs)) if name}
        self.operators |= {node.op_type, edit.op_of(node)}

    def matches(self, term: str) -> bool:
        """Tell whether a term means this."""
        known, pattern = (self.names, term)
        if term.startswith(OPERATOR):
            known, pattern = self.operators, term[len(OPERATOR) :]
        return any(fnmatch.fnmatchcase(name, pattern) for name in known)


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


@dataclass(frozen=True)
class Selected(Generic[K, PassT]):
    """What `SelectivePass.select` found.

    Attributes
    ----------
    why_not : dict
        What is left alone → why.
    by : dict
        What has options of its own → the terms of `overrides` that mean it, in order.
    idle : tuple of Refusal
        Terms of `include` and `overrides` that mean something in the model, but nothing that the pass could touch.
    """

    step: PassT
    why_not: dict[K, str]
    by: dict[K, Terms]
    idle: tuple[Refusal, ...] = ()

    def settings(self, subject: K) -> PassT:
        """Return the pass with the options that hold for one thing."""
        return self.step.overridden(self.by.get(subject, ()))

    def options(self, subject: K) -> dict[str, Any]:
        """Return the options that one thing has of its own."""
        overrides: Overrides = getattr(self.step, "overrides", {})
        return {name: value for term in self.by.get(subject, ()) for name, value in overrides[term].items()}


@dataclass(frozen=True, kw_only=True)
class SelectivePass(Pass):
    """A pass whose subjects can be chosen.

    Attributes
    ----------
    include : tuple of str
        Only what these terms mean is touched; all that the pass can, if there are none.
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
        overrides: Overrides = getattr(self, "overrides", {})
        named = {"include": self.include, "exclude": self.exclude, "overrides": tuple(overrides)}
        _check_terms(self.name, named, model, subjects.values())
        why_not: dict[K, str] = {}
        by: dict[K, Terms] = {}
        for key, subject in subjects.items():
            if self.include and not any(map(subject.matches, self.include)):
                why_not[key] = "not named by include"
            for term in self.exclude:
                if subject.matches(term):
                    why_not[key] = f"excluded by '{term}'"
            if own := tuple(term for term in overrides if subject.matches(term)):
                by[key] = own
        idle = [
            Refusal(term, f"{option} names it, and there is nothing that {self.name} could do to it")
            for option in ("include", "overrides")
            for term in named[option]
            if not any(subject.matches(term) for subject in subjects.values())
        ]
        return Selected(self, why_not, by, tuple(idle))

    def overridden(self: PassT, terms: Terms) -> PassT:
        """Return the pass with the options that `overrides` gives to what these terms mean."""
        overrides: Overrides = getattr(self, "overrides", {})
        options = {name: value for term in terms for name, value in overrides[term].items()}
        return dataclasses.replace(self, **options, overrides={}) if options else self  # type: ignore[call-arg]


@dataclass(frozen=True, kw_only=True)
class OverridablePass(SelectivePass):
    """A pass some of whose options may have other values for some of its subjects.

    Attributes
    ----------
    overrides : dict
        Term → option → its value there.
    overridable : tuple of str
        The options that may be overridden.
    """

    overridable: ClassVar[tuple[str, ...]] = ()

    overrides: Overrides = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        hints = typing.get_type_hints(type(self), include_extras=True)
        for term, options in self.overrides.items():
            for name, value in options.items():
                where = f"overrides.{term}.{name}"
                if name not in self.overridable:
                    hint = (
                        did_you_mean(name, list(self.overridable)) or f"; expected one of {', '.join(self.overridable)}"
                    )
                    raise OptionError(f"{self.name}: {where}: it cannot be overridden{hint}")
                options[name] = check_option(self.name, where, value, hints[name])


def _check_terms(owner: str, named: Mapping[str, Terms], model: ir.Model, subjects: Iterable[Subject]) -> None:
    if not any(named.values()):
        return
    every = Subject()
    for node in model.graph.all_nodes():
        every.add_node(node)
    every.names |= {str(value.name) for value in edit.values(model.graph) if edit.constant(value) is not None}
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


def matching(field: str, patterns: Iterable[str], names: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Return, for each pattern, the subjects that it matches by one of their names.

    Parameters
    ----------
    field : str
        The pass and the option that the patterns come from, for the message.
    patterns : iterable of str
        Names, with ``*``, ``?`` and ``[...]`` as in file names.
    names : mapping
        Subject → its names.

    Raises
    ------
    PassError
        A pattern matches nothing.
    """
    found = {}
    for pattern in patterns:
        found[pattern] = [s for s, known in names.items() if any(fnmatch.fnmatchcase(n, pattern) for n in known)]
        if not found[pattern]:
            every = sorted({name for known in names.values() for name in known})
            hint = did_you_mean(pattern, every) or (f"; there are {', '.join(every[:8])}" if every else "")
            raise PassError(f"{field}: '{pattern}' matches nothing in the model{hint}")
    return found


def matching_nodes(field: str, patterns: Iterable[str], graph: ir.Graph) -> dict[ir.Node, str]:
    """Return the nodes that patterns mean, by their name or that of an output, each with the last pattern that does.

    Parameters
    ----------
    field, patterns
        As for `matching`.
    graph : onnx_ir.Graph
        Nodes of its inner graphs count too.

    Raises
    ------
    PassError
        A pattern matches nothing.
    """
    patterns = list(patterns)
    if not patterns:
        return {}
    nodes: dict[str, list[ir.Node]] = {}
    for node in graph.all_nodes():
        for name in {node.name, *(value.name for value in node.outputs)} - {None, ""}:
            nodes.setdefault(str(name), []).append(node)
    found = matching(field, patterns, {name: [name] for name in nodes})
    return {node: pattern for pattern, names in found.items() for name in names for node in nodes[name]}
