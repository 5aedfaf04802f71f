"""One file changes constants, and the lists of inputs, outputs and initializers of a graph."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from onnxcompress.errors import ModelError, PassError
from onnxcompress.graph import constants, edit

ROOT = Path(__file__).parents[2]
WRITERS = {Path("onnxcompress/graph/edit.py")}
LISTS = {"initializers", "inputs", "outputs"}
CHANGING = {"add", "append", "clear", "extend", "insert", "pop", "remove", "reverse", "setdefault", "sort", "update"}
ELSEWHERE = {"register_initializer", "replace_all_uses_with"}


def _is_list(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in LISTS


def writes(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and kind of whatever writes a constant or changes one of the lists."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load) and node.attr == "const_value":
            yield node.lineno, "const_value"
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load) and _is_list(node.value):
            yield node.lineno, "item"
        elif isinstance(node, ast.Call):
            if any(keyword.arg == "const_value" for keyword in node.keywords):
                yield node.lineno, "const_value"
            called = node.func
            if isinstance(called, ast.Attribute) and (
                called.attr in ELSEWHERE or (called.attr in CHANGING and _is_list(called.value))
            ):
                yield node.lineno, called.attr


def test_one_file_writes_constants_and_outputs() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{line}: {kind}"
        for folder in ("onnxcompress", "passes")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.relative_to(ROOT) not in WRITERS
        for line, kind in writes(path.read_text())
    }
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "value.const_value = tensor",
        "value.const_value: object = tensor",
        "del value.const_value",
        "a, b.const_value = 1, 2",
        "ir.val('w', const_value=tensor)",
        "graph.outputs[0] = new",
        "model.graph.outputs[:] = [new]",
        "del graph.initializers['w']",
        "graph.initializers.pop('w')",
        "graph.inputs.remove(value)",
        "graph.outputs.append(value)",
        "graph.register_initializer(value)",
        "ir.convenience.replace_all_uses_with(a, b, replace_graph_outputs=True)",
    ],
)
def test_the_test_sees_whoever_writes(source: str) -> None:
    assert list(writes(source))


@pytest.mark.parametrize(
    "source",
    ["x = value.const_value", "x = graph.outputs[0]", "graph.outputs[0].name = 'y'", "graph.initializers.get('w')"],
)
def test_whoever_reads_is_none_who_writes(source: str) -> None:
    assert not list(writes(source))


def _model(text: str, **weights: np.ndarray) -> ir.Model:
    proto = onnx.parser.parse_model('<ir_version: 9, opset_import: ["":17]>\n' + text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in weights.items())
    return ir.from_proto(proto)


def _value(model: ir.Model, name: str) -> ir.Value:
    return next(value for value in edit.values(model.graph) if value.name == name)


def test_an_array_that_is_none_is_named() -> None:
    model = _model("g (float[N] x) => (float[N] y) { y = Add(x, w) }", w=np.ones(1, np.float32))
    assert edit.array(_value(model, "w")).tolist() == [1]
    with pytest.raises(PassError, match="^'x' is not a constant, and has to be one here"):
        edit.array(_value(model, "x"))
    with pytest.raises(PassError, match="^an input that is left out is not a constant"):
        edit.array(None)


def test_what_an_operator_cannot_do_without_is_named() -> None:
    model = _model("g (float[N] x) => (float[N] y) { y = Add(x, x) }")
    node = model.graph[0]
    assert edit.required(node, 1) is model.graph.inputs[0]
    for index in (2, 7):
        with pytest.raises(ModelError, match=rf"^y \(Add\) lacks its input {index}, which Add cannot do without$"):
            edit.required(node, index)
    with pytest.raises(ModelError, match=r"^y \(Add\) lacks its attribute 'axis', which Add cannot do without$"):
        edit.required_attribute(node, "axis")
    with pytest.raises(ModelError, match="^no node gives 'x'$"):
        edit.producer(model.graph.inputs[0])


MOVED = {
    "": lambda a: a,
    "b = Identity(a)": lambda a: a,
    "b = Transpose<perm = [1, 0]>(a)": lambda a: a.T,
    "b = Cast<to = 11>(a)": lambda a: a.astype(np.float64),
    "b = Reshape(a, shape)": lambda a: a.reshape(-1, 1),
    "b = Unsqueeze(a, axis)": lambda a: a[:, None],
}


@given(st.lists(st.sampled_from(sorted(MOVED)), max_size=4), arrays.arrays(np.float32, (2, 3)))
def test_a_constant_is_seen_through_what_moves_it(moves: list[str], array: np.ndarray) -> None:
    lines, expected, name = [], array, "w"
    for place, move in enumerate(moves):
        if move and not (move.startswith("b = Transpose") and expected.ndim != 2):
            lines.append(move.replace("(a", f"({name}").replace("b =", f"v{place} ="))
            name, expected = f"v{place}", MOVED[move](expected)
    text = f"g (float[N] x) => (float y) {{ {' '.join(lines)} y = Identity({name}) }}"
    weights = {"w": array, "shape": np.array([-1, 1]), "axis": np.array([1])}
    model = _model(text, **{n: w for n, w in weights.items() if n in text})
    found = constants.find(_value(model, "y"))
    assert found is not None
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    assert constants.root(_value(model, "y")) is _value(model, "w")


def test_what_dequantizes_symmetrically_is_seen_through_where_that_is_asked_for() -> None:
    weights = {"q": np.array([[1, -2], [3, 4]], np.int8), "s": np.array([0.5, 2], np.float32)}
    text = "g (float[N, 2] x) => (float[N, 2] y) { w = DequantizeLinear<axis = 0>(q, s) y = MatMul(x, w) }"
    model = _model(text, **weights)
    value = _value(model, "w")
    assert constants.find(value) is None
    found = constants.find(value, dequantized=True)
    np.testing.assert_array_equal(found, [[0.5, -1], [6, 8]])


def test_taking_over_keeps_the_name_of_an_output() -> None:
    model = _model("g (float[N] x) => (float[N] y, float[N] z) { a = Relu(x) y = Identity(a) z = Abs(y) }")
    identity = next(node for node in model.graph if node.op_type == "Identity")
    edit.take_over(identity, [edit.required(identity, 0)])
    assert [node.op_type for node in model.graph] == ["Relu", "Abs"]
    assert [value.name for value in model.graph.outputs] == ["y", "z"]
    assert model.graph[1].inputs[0] is model.graph.outputs[0]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
