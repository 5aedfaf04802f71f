"""Why a quantized model is not faster than float."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from onnxcompress.evaluation import profiled
from onnxcompress.evaluation.origins import Origins, Placed, kind_of, place
from onnxcompress.evaluation.profile import Kernel
from onnxcompress.evaluation.slowness import is_quantized, is_slow, layer_times, operator_times
from onnxcompress.evaluation.timing import Timing

FLOAT = """g (float[1,3,4,4] x, float[3,3,1,1] w, float[3] v, float[1,3,4,4] k) => (float[1,3,4,4] y) {
    c = Conv(x, w)
    b = BatchNormalization(c, v, v, v, v)
    r = Relu(b)
    m = MatMul(r, k)
    s = Mul(m, k)
    y = Softmax(s)
}"""


def named(model: ir.Model) -> ir.Model:
    """Name each node after its output, in capitals."""
    for node in model.graph:
        node.name = node.outputs[0].name.upper()
    return model


BEFORE = [
    Kernel("r_nchwc", "Conv", 2.0, "float", ("x",), ("reorder",)),
    Kernel("ReorderOutput_token_3", "ReorderOutput", 1.0, "float", ("reorder",), ("r",)),
    Kernel("M/MatMulScaleFusion/", "FusedMatMul", 3.0, "float", ("r",), ("s",)),
    Kernel("Y", "Softmax", 4.0, "float", ("s",), ("y",)),
]
AFTER = [
    Kernel("x_q", "QuantizeLinear", 1.0, "uint8", ("x",), ("x_q",)),
    Kernel("Transpose_token_1", "Transpose", 0.5, "uint8", ("x_q",), ("t",)),
    Kernel("C_token_2", "QLinearConv", 5.0, "uint8", ("t",), ("r_q",)),
    Kernel("M", "QLinearMatMul", 1.5, "uint8", ("r_q",), ("m_q",)),
    Kernel("m_d", "DequantizeLinear", 2.0, "float", ("m_q",), ("m",)),
    Kernel("S", "Mul", 0.75, "float", ("m",), ("s",)),
    Kernel("Y", "Softmax", 4.25, "float", ("s",), ("y",)),
    Kernel("v_d", "DequantizeLinear", 0.25, "float", (), ("v",)),
]
KINDS = ["conversion", "layout", "integer", "integer", "conversion", "float", "float", "conversion"]


def test_layers_are_ranked_by_what_they_cost_beyond_the_original(parse):
    origins = Origins(named(parse(FLOAT)))
    before, after = place(origins, BEFORE), place(origins, AFTER)
    assert [one.node for one in before] == ["C", None, "M", "Y"]
    assert [one.kind for one in after] == KINDS
    found = layer_times(before, after, origins)
    # (before, after) in milliseconds; 10 in all before, 15.25 after.
    expected = [
        ("C", 2.0, 5.0, "2.5 × the time of Conv in float"),
        ("m_d", None, 2.0, "converts m_q to float for Mul"),
        ("x_q", None, 1.0, "converts x to integers"),
        ("S", None, 0.75, "left in float between integer operators; in the original it is part of another kernel"),
        ("Transpose_token_1", None, 0.5, "changes the layout of x_q"),
        ("Y", 4.0, 4.25, "left in float"),
        ("v_d", None, 0.25, "converts the constant behind v anew in every run"),
        ("M", 3.0, 1.5, "0.5 × the time of FusedMatMul in float"),
    ]
    assert [(item.node, item.before, item.after, item.reason) for item in found] == expected
    assert [item.share for item in found] == pytest.approx([item.after / 15.25 for item in found])
    assert [item.share_before for item in found] == [0.2, None, None, None, None, 0.4, None, 0.3]


def test_a_float_model_tells_of_the_layout_that_it_lost(parse):
    """Fewer channels than onnxruntime's blocks take: a plain Conv, and no layout changed around it."""
    origins = Origins(named(parse(FLOAT)))
    pruned = [
        Kernel("C", "Conv", 5.0, "float", ("x",), ("r",)),
        Kernel("M/MatMulScaleFusion/", "FusedMatMul", 3.6, "float", ("r",), ("s",)),
        Kernel("ReorderInput_token_4", "ReorderInput", 0.5, "float", ("s",), ("t",)),
        Kernel("Y", "Softmax", 2.0, "float", ("t",), ("y",)),
    ]
    found = {item.node: item.reason for item in layer_times(place(origins, BEFORE), place(origins, pruned), origins)}
    assert found == {
        "C": "no longer in blocks of channels (NCHWc), which other numbers of channels allow; 2.5 × its time",
        "M": "1.2 × its time",
        "ReorderInput_token_4": "changes the layout of s",
        "Y": "0.5 × its time",
    }


def test_operators_are_added_up(parse):
    origins = Origins(named(parse(FLOAT)))
    found = operator_times(place(origins, BEFORE), place(origins, AFTER))
    rows = {
        (item.operator, item.kind): (item.kernels_before, item.kernels_after, item.before, item.after) for item in found
    }
    assert rows["Softmax", "float"] == (1, 1, 4.0, 4.25)
    assert rows["DequantizeLinear", "conversion"] == (0, 2, 0, 2.25)
    assert rows["Conv", "float"] == (1, 0, 2.0, 0)
    assert [item.operator for item in found][:2] == ["QLinearConv", "Softmax"]
    assert sum(item.after for item in found) == 15.25


def test_what_quantizes_behind_a_float_operator_names_it(parse):
    kernels = [
        Kernel("r", "HardSwish", 1.0, "float", ("x",), ("r",)),
        Kernel("r_q", "QuantizeLinear", 1.0, "uint8", ("r",), ("r_q",)),
        Kernel("d", "DynamicQuantizeLinear", 1.0, "uint8", ("r",), ("d",)),
    ]
    placed = [Placed(kernel, kernel.name, kind_of(kernel)) for kernel in kernels]
    reasons = {
        item.node: item.reason
        for item in layer_times([], placed, Origins(parse("g (float[1] a) => (float[1] b) { b = Relu(a) }")))
    }
    assert reasons["r_q"] == "converts r to integers, which HardSwish wrote in float"
    assert reasons["d"] == (
        "finds the range of r in every run and converts it to integers, which HardSwish wrote in float"
    )


def test_a_node_that_was_renamed_is_found_by_what_it_writes(parse):
    origins = Origins(named(parse("g (float[4,4] x, float[4,4] w, float[4] b) => (float[4,4] y) {"
                                  " m = MatMul(x, w) y = Add(m, b) }")))  # fmt: skip
    before = place(origins, [Kernel("M", "MatMul", 1.0, "float", ("x",), ("m",))])
    after = [Placed(Kernel("fused", "DynamicQuantizeMatMul", 3.0, "float", ("x",), ("y",)), "new name", "integer")]
    (found,) = layer_times(before, after, origins)
    assert (found.node, found.before, found.reason) == ("new name", 1.0, "3.0 × the time of MatMul in float")


def test_weights_alone_do_not_make_neighbours_integer(parse):
    model = named(parse("g (float[4,4] x, float[4,4] w) => (float[4,4] y) { y = MatMul(x, w) }"))
    kernels = [
        Kernel("w_d", "DequantizeLinear", 1.0, "float", (), ("w",)),
        Kernel("Y", "MatMul", 1.0, "float", ("x", "w"), ("y",)),
    ]
    placed = place(Origins(model), kernels)
    assert [item.reason for item in layer_times([], placed, Origins(model))] == [
        "converts the constant behind w anew in every run",
        "left in float; in the original it is part of another kernel",
    ]


def test_names_are_made_unique(parse):
    model = parse("g (float[3] x) => (float[3] c) { a = Relu(x) b = Neg(a) c = Abs(b) }")
    for node, name in zip(model.graph, ("same", "same", ""), strict=True):
        node.name = name
    assert [node.name for node in profiled.named(model).graph] == ["same", "b", "c"]
    assert [node.name for node in model.graph] == ["same", "same", ""]


@pytest.mark.parametrize(
    ("operator", "dtype", "added", "kind"),
    [
        ("QLinearConv", "uint8", False, "integer"),
        ("MatMulIntegerToFloat", "float", False, "integer"),
        ("MatMulNBits", "float", False, "integer"),
        ("MaxPool", "int8", False, "integer"),
        ("MaxPool", "float", False, "float"),
        ("Transpose", "uint8", False, "integer"),
        ("Transpose", "uint8", True, "layout"),
        ("ReorderInput", "float", False, "layout"),
        ("DynamicQuantizeLinear", "uint8", False, "conversion"),
        ("Shape", "int64", False, "other"),
        ("Loop", "float", False, "other"),
        ("Relu", None, False, "other"),
    ],
)
def test_kinds(operator, dtype, added, kind):
    assert kind_of(Kernel("k", operator, 1.0, dtype), added=added) == kind


@pytest.mark.parametrize(
    ("low", "high", "faster"),
    [(0.5, 0.6, True), (0.5, 1.01, False), (0.985, 0.995, False), (0.97, 0.999, True), (1.1, 1.2, False)],
)
def test_only_what_is_surely_below_one_is_faster(low, high, faster):
    timing = Timing(1, 1, 1, (low + high) / 2, low, high, 9)
    assert is_slow(timing, quantized=True) is not faster
    assert is_slow(timing, quantized=False) is (low > 1 and high > 1 / 0.98)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("g (float[3] x) => (float[3] y) { y = Relu(x) }", False),
        ("g (float[3] x, float s, uint8 z) => (uint8[3] y) { y = QuantizeLinear(x, s, z) }", True),
        ("g (bool c) => (float y) { y = If(c) <then_branch = t () => (float a) { a = Constant<value_float=1.0>() },"
         " else_branch = e () => (float b) { q = Constant<value = int8 {1}>() k = Constant<value_float=1.0>()"
         " b = DequantizeLinear(q, k) }> }", True),
    ],
)  # fmt: skip
def test_quantized_models_are_told_at_any_depth(parse, text, found):
    assert is_quantized(parse(text)) is found
