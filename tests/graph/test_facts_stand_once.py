"""What an operator's attributes, inputs and kinds mean is written down once: a test reads the sources.

It looks, outside the files of `HOME`, for

* the names of attributes that say how a weight or its padding is to be read, as strings of their own (in messages and
  docstrings they may stand), and for `group` where an attribute is read or set;
* literal numbers of inputs (``node.inputs[1]``, ``len(node.inputs) > 2``, ``required(node, 1)``, …) in functions that
  ask for an operator with weights by name or by one of the shared sets, and in functions that a table has for one;
* collections of operators that are one of the shared sets, or all but one of it with few others.

Nodes that are made, and tables that give a function or object for each operator, are no statements of facts.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from onnxcompress.channels.movement import MOVES
from onnxcompress.graph import constants, operators

ROOT = Path(__file__).parents[2]
HOME = {f"onnxcompress/graph/{name}.py" for name in ("layer", "operators", "windows")}

ATTRIBUTES = {"auto_pad", "transA", "transB"}
READERS = {"int_attribute", "ints_attribute", "get_int", "set_attribute"}
WEIGHTED = {op.rpartition("::")[2] for op in operators.LAYERS}
SETS = {name: set(getattr(operators, name)) for name in ("BIASED", "CONVOLUTIONS", "LAYERS", "PRODUCTS", "RECURRENT")}
SHARED = SETS | {
    **{name: set(getattr(operators, name)) for name in ("CARRIED", "DYNAMIC", "KEEP_ELEMENTS", "MOVE_ELEMENTS")},
    **{
        f"on_integers({how!r})": set(operators.on_integers(how))
        for how in ("layer", "values", "at a cost", "unchanged")
    },
    "NORMALISATIONS": set(operators.NORMALISATIONS),
    "INTEGER_OPERATORS": operators.INTEGER_OPERATORS,
}
FEWEST = 2
"""Operators that make a collection."""


def findings(source: str) -> list[str]:
    """Return what is interpreted in a source, with its line."""
    tree = ast.parse(source)
    found = [*_attributes(tree), *_ports(tree), *_sets(tree)]
    return [f"{line}: {what}" for line, what in sorted(found)]


def _name(node: ast.AST) -> str:
    """Return what a name or attribute ends with."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _attributes(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in ATTRIBUTES:
            yield node.lineno, f"attribute {node.value}"
        if isinstance(node, ast.Call) and _name(node.func) in READERS and "group" in _strings(node):
            yield node.lineno, "attribute group"


def _strings(node: ast.AST) -> set[str]:
    return {part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)}


def _asks_for_weights(node: ast.AST) -> bool:
    return bool(_strings(node) & WEIGHTED) or any(_name(part) in SETS for part in ast.walk(node))


def _in_tables(tree: ast.AST) -> Iterator[str]:
    """Yield the functions that tables have for operators with weights."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value in WEIGHTED:
                    yield _name(value)
        table = isinstance(node, ast.Call) and _name(node.func) == "fromkeys"
        if isinstance(node, ast.Call) and table and len(node.args) > 1 and _asks_for_weights(node.args[0]):
            yield _name(node.args[1])


def _ports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    tables = set(_in_tables(tree))
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and (function.name in tables or _asks_for_weights(function)):
            for node in ast.walk(function):
                if _is_port(node):
                    yield getattr(node, "lineno", 0), f"input in {function.name}, which knows the operator"


def _is_port(node: ast.AST) -> bool:
    """Tell whether an expression names an input behind the first one by a number."""
    if isinstance(node, ast.Subscript) and _name(node.value) == "inputs":
        at = node.slice.upper if isinstance(node.slice, ast.Slice) and not node.slice.lower else node.slice
        return isinstance(at, ast.Constant) and at.value in (1, 2, 3)
    if isinstance(node, ast.Compare) and isinstance(node.left, ast.Call) and _name(node.left.func) == "len":
        return _name(node.left.args[0]) == "inputs" and isinstance(node.comparators[0], ast.Constant)
    if isinstance(node, ast.Call) and _name(node.func) in ("required", "replace_input_with"):
        return any(isinstance(part, ast.Constant) and part.value in (1, 2, 3) for part in node.args[:2])
    return False


def _sets(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        for name, shared in SHARED.items():
            names = _collection(node)
            common = len(names & shared)
            if common >= max(FEWEST, len(shared) - 1) and len(names) - common <= len(shared) // 2:
                yield getattr(node, "lineno", 0), f"operators.{name} spelt out"


def _collection(node: ast.AST) -> set[str]:
    """Return the strings of a collection: a display, words in one string, or the keys of a table of numbers."""
    if isinstance(node, (ast.Set, ast.Tuple, ast.List)):
        return {part.value for part in node.elts if isinstance(part, ast.Constant) and isinstance(part.value, str)}
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        words = node.value.split()
        return set(words) if all(word.isidentifier() and word[0].isupper() for word in words) else set()
    if isinstance(node, ast.Dict):
        keys = zip(node.keys, node.values, strict=True)
        return {str(key.value) for key, value in keys if isinstance(key, ast.Constant) and _is_fact(value)}
    return set()


def _is_fact(value: ast.AST) -> bool:
    """Tell whether a table's entry is made of numbers and strings alone."""
    names = {part for part in ast.walk(value) if isinstance(part, (ast.Name, ast.Attribute))}
    return all(_name(part) in ("frozenset", "None") for part in names)


SOURCES = sorted(path for top in ("onnxcompress", "passes") for path in (ROOT / top).rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_facts_stand_in_graph_layer_operators_and_windows_alone(path: Path) -> None:
    file = path.relative_to(ROOT).as_posix()
    if file not in HOME:
        assert findings(path.read_text(encoding="utf-8")) == []


WRONG = {
    "attribute": 'turned = edit.int_attribute(node, "transB", 0)',
    "auto_pad": 'auto = node.attributes["auto_pad"].as_string()',
    "groups": 'edit.int_attribute(node, "group", 1)',
    "weight port": 'def f(node):\n    return node.inputs[1] if node.op_type == "Conv" else None',
    "bias port": 'def f(node):\n    return op_of(node) in ("Gemm", "Clip") and len(node.inputs) > 2',
    "port of a shared set": "def f(node):\n    return op_of(node) in operators.PRODUCTS and required(node, 1)",
    "port in a table": 'def f(node):\n    node.replace_input_with(2, None)\n\nRULES = {"Conv": f}',
    "port for a shared set": "def f(node):\n    return node.inputs[:2]\n\nRULES = dict.fromkeys(RECURRENT, f)",
    "set": 'MOVES = {"Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}',
    "set but for one": 'MOVES = ("Cast", "Slice", "Reshape", "Squeeze", "Transpose", "Unsqueeze")',
    "words": 'MOVES = "Identity Reshape Squeeze Transpose Unsqueeze Cast".split()',
    "layers": 'if op in ("Conv", "ConvTranspose"):\n    pass',
    "table of numbers": 'PORTS = {"Conv": (1,), "Gemm": (0, 1), "MatMul": (0, 1)}',
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_interpreted_elsewhere_is_found(name: str) -> None:
    assert findings(WRONG[name]) != []


RIGHT = {
    "docstring": 'def f():\n    """Read transB and auto_pad of Conv, ConvTranspose, Gemm and MatMul."""',
    "message": 'reason = "it transposes its input (transA)"',
    "another operator": 'def f(node):\n    return node.inputs[1] if node.op_type == "Clip" else None',
    "the layer": 'def f(node):\n    return Layer(node).value if node.op_type == "Conv" else None',
    "a table of functions": 'RULES = {"Conv": conv, "ConvTranspose": conv, "Gemm": gemm, "MatMul": matmul}',
    "many others": 'KNOWN = "Abs Add Cast Ceil Clip Cos Identity Mul Reshape Squeeze Sub Transpose Unsqueeze".split()',
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_states_no_fact_is_not(name: str) -> None:
    assert findings(RIGHT[name]) == []


def test_tables_of_functions_are_for_the_operators_that_the_facts_name() -> None:
    assert constants.MOVES.keys() == operators.KEEP_ELEMENTS
    assert MOVES.keys() >= operators.KEEP_ELEMENTS
