"""The verifier sees every output, branch, size and default, and tells rounding from error."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.oracle import plain_run
from corpus.text import model

from onnxcompress import apply
from onnxcompress.contract import Context
from onnxcompress.errors import VerifyError
from onnxcompress.graph import edit
from onnxcompress.passes import FoldBatchNorm, FoldConstants
from onnxcompress.samples.samples import load_samples
from onnxcompress.verify import Verifier


def amplifying() -> ir.Model:
    """A sum of a convolution and a hundred times what the folded and the plain way to compute it differ by."""
    text = """g (float[1,8,9,9] x) => (float[1,6,7,7] y) {
        c = Conv(x, w)
        n = BatchNormalization(c, scale, shift, mean, var)
        r = Relu(n)
        d = Conv(x, folded, bias)
        q = Relu(d)
        difference = Sub(r, q)
        many = Mul(difference, hundred)
        y = Add(r, many)
    }"""
    random = np.random.default_rng(0)
    w = random.standard_normal((6, 8, 3, 3)).astype(np.float32)
    scale, shift, mean, var = (random.uniform(0.5, 1.5, 6).astype(np.float32) for _ in range(4))
    factor = scale.astype(np.float64) / np.sqrt(var.astype(np.float64) + 1e-5)
    arrays = {"w": w, "scale": scale, "shift": shift, "mean": mean, "var": var, "hundred": np.array(100, np.float32)}
    arrays["folded"] = (w * factor[:, None, None, None]).astype(np.float32)
    arrays["bias"] = (shift - mean * factor).astype(np.float32)
    return model(text, arrays)


def folded(subject: ir.Model) -> ir.Model:
    copy = subject.clone()
    FoldBatchNorm().apply(copy, FoldBatchNorm().plan(subject, Context(subject)))
    return copy


def test_what_the_model_differs_from_itself_by_is_allowed() -> None:
    subject = amplifying()
    feeds = {"x": np.random.default_rng(1).standard_normal((1, 8, 9, 9)).astype(np.float32)}
    verifier = Verifier(subject, [feeds])
    before, after = (plain_run(ir.to_proto(m), feeds)["y"] for m in (subject, folded(subject)))
    error = np.abs(before - after).max() / np.abs(before).max()
    verifier.check(folded(subject), tolerance=1e-6)
    assert 1e-6 < error < 1e-4


def test_an_error_of_the_same_size_elsewhere_is_not() -> None:
    subject = amplifying()
    subject.graph[-2].inputs[1].const_value = ir.tensor(np.array(0, np.float32), name="hundred")  # type: ignore[union-attr]
    feeds = {"x": np.random.default_rng(1).standard_normal((1, 8, 9, 9)).astype(np.float32)}
    verifier = Verifier(subject, [feeds])
    wrong = subject.clone()
    value = wrong.graph.initializers["w"]
    edit.set_constant(value, value.const_value.numpy() * np.float32(1 + 2e-5))  # type: ignore[union-attr]
    with pytest.raises(VerifyError, match="output 'y' differs by .* relative; at most 1e-05 is promised"):
        verifier.check(wrong, tolerance=1e-5)


def with_weight(subject: ir.Model, name: str, factor: float) -> ir.Model:
    """Return a copy in which one weight is multiplied by a number."""
    copy = subject.clone()
    value = copy.graph.initializers[name]
    tensor = value.const_value
    assert tensor is not None
    changed = (tensor.numpy().astype(np.float64) * factor).astype(tensor.numpy().dtype)
    value.const_value = ir.tensor(changed, name=name)
    return copy


WEIGHT = {"w": (6, 4)}
SEEN = {
    "sequence": "g (float[N,6] x) => (seq(float[N,4]) y) { u = MatMul(x, w) y = SequenceConstruct(u, u) }",
    "optional": "g (float[N,6] x) => (optional(float[N,4]) y) { u = MatMul(x, w) y = Optional(u) }",
    "infinities": "g (float[N,6] x) => (float[N,4] y) { u = MatMul(x, w) r = Relu(u) y = Log(r) }",
    "branch never taken": """g (float[N,6] x, bool c) => (float[N,4] y) {
        no = And(c, false)
        y = If(no) <then_branch = t () => (float[a,b] p) { p = MatMul(x, w) },
                    else_branch = e () => (float[a,b] q) { q = MatMul(x, v) }> }""",
    "branch in a branch": """g (float[N,6] x, bool c, bool d) => (float[N,4] y) {
        y = If(c) <then_branch = t () => (float[a,b] p) {
                      p = If(d) <then_branch = tt () => (float[a,b] r) { r = MatMul(x, v) },
                                 else_branch = te () => (float[a,b] s) { s = MatMul(x, w) }> },
                   else_branch = e () => (float[a,b] q) { q = MatMul(x, v) }> }""",
    "branch of another shape": """g (float[2,6] x, bool c) => (float[a,b] y) {
        shape = Constant <value_ints = [3, 3]> ()
        wrong = If(c) <then_branch = t () => (float[a,b] p) { p = Reshape(x, shape) },
                       else_branch = e () => (float[a,b] q) { q = Identity(x) }>
        y = If(c) <then_branch = u () => (float[a,b] r) { r = Identity(x) },
                   else_branch = f () => (float[a,b] s) { s = MatMul(x, w) }> }""",
    "second size": """g (float[N,6] x) => (float[M,4] y) {
        u = MatMul(x, w) n = Shape(u) first = Constant <value_ints = [0]> () m = Gather(n, first)
        one = Constant <value_ints = [1]> () more = Equal(m, one) skip = Cast <to = 1> (more) f = Sub(unit, skip)
        k = Mul(u, f) z = MatMul(x, v) y = Add(k, z) }""",
}


@pytest.mark.parametrize("what", SEEN)
def test_a_wrong_weight_is_seen(what: str) -> None:
    given = {**WEIGHT, "v": (6, 4), "unit": np.ones(1, np.float32), "false": np.array(False)}
    weights = {name: weight for name, weight in given.items() if name in SEEN[what]}
    subject = model(SEEN[what], weights)
    Verifier(subject).check(with_weight(subject, "w", 1.0), tolerance=1e-5)
    with pytest.raises(VerifyError, match="output 'y(\\[0\\])?' (differs by|changed in|is no longer)"):
        Verifier(subject).check(with_weight(subject, "w", -1.5), tolerance=1e-5)


def test_samples_of_every_shape_are_tried() -> None:
    """An axis that has another size in some samples only is one that a pass may have got wrong."""
    subject = model("g (float[N,T] x) => (float[N,T] y) { y = Mul(x, w) }", {"w": (1,)})
    data = [{"x": np.ones((4, size), np.float32)} for size in (5, 5, 5, 9)]
    assert [feed["x"].shape for feed in load_samples(data, subject).few()] == [(8, 5), (3, 5), (3, 9)]


def defaulted(ir_version: int = 8) -> ir.Model:
    proto = ir.to_proto(model("g (float[N,6] x) => (float[N,4] y) { y = MatMul(x, w) }", WEIGHT))
    proto.ir_version = ir_version
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [6, 4]))
    return ir.from_proto(proto)


def test_an_input_with_a_default_must_stay() -> None:
    gone = defaulted()
    gone.graph.inputs.pop()
    with pytest.raises(VerifyError, match="the input 'w', which has a default, is gone"):
        Verifier(defaulted()).check(gone)
    Verifier(defaulted()).check(gone, freezes=True)


def test_a_default_must_stay_what_it_is() -> None:
    with pytest.raises(VerifyError, match="the default of input 'w' changed"):
        Verifier(defaulted()).check(with_weight(defaulted(), "w", 2.0))


DRAWN = {
    "RandomNormalLike": "n = RandomNormalLike(u)",
    "RandomUniformLike": "n = RandomUniformLike <high = 3.0, low = 1.0> (u)",
    "RandomNormal": "n = RandomNormal <shape = [1, 4]> ()",
    "Bernoulli": "z = Sigmoid(u) n = Bernoulli(z)",
    "Multinomial": "m = Multinomial <sample_size = 4> (u) n = Cast <to = 1> (m)",
    "Dropout": "n = Dropout(u, half, yes)",
}


@pytest.mark.parametrize("op", DRAWN)
def test_random_numbers_are_no_difference(op: str) -> None:
    weights = {**WEIGHT, "half": np.array(0.5, np.float32), "yes": np.array(True)}
    text = f"g (float[N,6] x) => (float[N,4] y) {{ u = MatMul(x, w) {DRAWN[op]} y = Add(u, n) }}"
    subject = model(text, {name: weight for name, weight in weights.items() if name in text})
    verifier = Verifier(subject)
    assert [label.split("(")[1] for label in verifier.random] == [f"{op})"]
    verifier.check(subject.clone(), tolerance=1e-5)
    with pytest.raises(VerifyError, match="output 'y' differs"):
        verifier.check(with_weight(subject, "w", 1.5), tolerance=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits_may_round_and_no_more(dtype: str) -> None:
    kind = ir.DataType[dtype.upper()].numpy()
    weight = np.random.default_rng(0).standard_normal((6, 4)).astype(kind)
    text = f"g ({dtype}[N,6] x) => ({dtype}[N,4] y) {{ y = MatMul(x, w) }}"
    proto = onnx.parser.parse_model('<ir_version: 9, opset_import: ["" : 18]>' + text)
    proto.graph.initializer.append(ir.to_proto(ir.tensor(weight, name="w")))
    subject, roundings = ir.from_proto(proto), float(ml_dtypes.finfo(kind).eps)
    Verifier(subject).check(with_weight(subject, "w", 1 + roundings), tolerance=1e-5)
    with pytest.raises(VerifyError, match="output 'y' differs"):
        Verifier(subject).check(with_weight(subject, "w", 1 + 16 * roundings), tolerance=1e-5)


def test_a_size_that_follows_from_the_data_may_change_only_where_values_may() -> None:
    subject = model(
        "g (float[N,6] x) => (float[M,4] y) { u = MatMul(x, w) s = MatMul(x, v) t = Squeeze(s, last) "
        "keep = Greater(t, zero) y = Compress <axis = 0> (u, keep) }",
        {**WEIGHT, "v": (6, 1), "last": np.array([1]), "zero": np.array(0, np.float32)},
    )
    feed = {"x": np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)}
    other = with_weight(subject, "v", -1.0)
    Verifier(subject, [feed]).check(other)
    with pytest.raises(VerifyError, match="output 'y' has shape .*, and had"):
        Verifier(subject, [feed]).check(other, tolerance=1e-5)


def test_a_size_that_follows_from_the_inputs_may_not_change() -> None:
    subject = model("g (float[N,6] x) => (float[M,4] y) { y = MatMul(x, w) }", WEIGHT)
    wrong = model("g (float[N,6] x) => (float[M,4] y) { u = MatMul(x, w) y = Concat <axis = 0> (u, u) }", WEIGHT)
    with pytest.raises(VerifyError, match="output 'y' has shape"):
        Verifier(subject).check(wrong)


def test_a_condition_that_folding_makes_constant_has_one_branch() -> None:
    subject = model(
        """g (float[N,6] x) => (float[N,4] y) {
            no = Not(yes)
            y = If(no) <then_branch = t () => (float[a,b] p) { p = MatMul(x, v) },
                        else_branch = e () => (float[a,b] q) { q = MatMul(x, w) }> }""",
        {**WEIGHT, "v": (6, 4), "yes": np.array(True)},
    )
    folded, report = apply(subject, [FoldConstants()])
    assert len(report.steps[0].done) == 1
    feeds = {"x": np.ones((2, 6), np.float32)}
    np.testing.assert_array_equal(plain_run(folded, feeds)["y"], plain_run(subject, feeds)["y"])
