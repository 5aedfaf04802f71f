"""Operators that an engine has not: what lint says, and what passes write instead."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from corpus.text import model
from onnxruntime.capi import onnxruntime_pybind11_state

import onnxcompress
from onnxcompress.errors import OptionError
from onnxcompress.graph.contrib.schemas import SIGNATURES
from onnxcompress.passes import QuantizeDynamic, QuantizeWeights
from onnxcompress.targets import lint, load_target, target_names

OWN = "com.microsoft"


def made(body: str, **constants: np.ndarray) -> ir.Model:
    """A model of some operators, two of a kind where the body has two."""
    header = f'<ir_version: 9, opset_import: ["" : 21, "{OWN}" : 1, "my.domain" : 1]>'
    proto = onnx.parser.parse_model(f"{header} net (float[N, 32] x) => (float[N, K] y) {{ {body} }}")
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    return ir.from_proto(proto)


RFFT = f"{OWN}.Irfft <normalized = 0, onesided = 1, signal_ndim = 1>"
GELUS = f"a = {OWN}.FastGelu (x) b = {OWN}.FastGelu (a) y = {RFFT} (b)"


def found(subject: ir.Model, target: str) -> list[tuple[str, str]]:
    return [(f.effect, f.reason) for f in lint(subject, target).findings if f.rule == "operator"]


def test_the_table_knows_the_kernels_of_the_engine() -> None:
    """The engine's own list of its kernels is the reference."""
    kernels = {(known.domain, known.op_name) for known in onnxruntime_pybind11_state.get_all_opkernel_def()}
    wrong = [op for op, known in SIGNATURES.items() if known.cpu != ((known.domain, known.name) in kernels)]
    assert wrong == []


@pytest.mark.parametrize("name", target_names())
def test_targets_name_operators_of_the_table(name: str) -> None:
    known = {signature.name for signature in SIGNATURES.values()}
    assert set(load_target(name).operators.contrib) <= known


def test_one_finding_for_each_type_with_its_count() -> None:
    subject = made(GELUS)
    (gelu, rfft) = found(subject, "tensorrt")
    assert gelu[0] == rfft[0] == "rejected"
    assert gelu[1].startswith(f"it takes no {OWN}::FastGelu (2 nodes); export without onnxruntime's fusions")
    assert found(subject, "onnxruntime-gpu") == []
    assert [effect for effect, _ in found(subject, "onnxruntime-cpu")] == ["rejected"]
    assert [effect for effect, _ in found(subject, "qnn")] == ["rejected", "float"]
    assert [reason[:30] for _, reason in found(subject, "openvino")] == [f"it takes no {OWN}::Irfft"[:30]]


def test_operators_of_a_library_and_unknown_ones() -> None:
    subject = made(f"a = my.domain.Foo (x) y = {OWN}.Fooo (a)")
    own, unknown = found(subject, "onnxruntime-cpu")[::-1]
    assert own == (
        "advice",
        "its session needs the library of my.domain::Foo; here it is given with --custom-ops LIBRARY",
    )
    assert unknown[0] == "rejected"
    assert unknown[1].startswith(f"no onnxruntime known here has {OWN}::Fooo: the name may be wrong")
    assert [effect for effect, _ in found(subject, "tensorrt")] == ["rejected", "rejected"]


WEIGHTS = {"w": np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32)}


@pytest.mark.parametrize(("target", "reader"), [("onnxruntime-cpu", "MatMulNBits"), ("openvino", "DequantizeLinear")])
def test_weights_are_written_as_the_target_reads_them(target: str, reader: str) -> None:
    small, _ = onnxcompress.apply(
        made("y = MatMul (x, w)", **WEIGHTS), [QuantizeWeights(dtype="uint4", target=target, minimum_size=1)]
    )
    assert reader in {node.op_type for node in small.graph}
    assert found(small, target) == []


def test_tables_too() -> None:
    """QNN has MatMulNBits, and no GatherBlockQuantized."""
    rows = {"w": WEIGHTS["w"].T.copy()}
    subject = model("net (int64[N] x) => (float[N, 32] y) { y = Gather (w, x) }", rows, opset=21)
    for target, reader in (("onnxruntime-cpu", "GatherBlockQuantized"), ("qnn", "DequantizeLinear")):
        step = QuantizeWeights(dtype="uint4", target=target, format="matmulnbits", block_size=32, minimum_size=1)
        small, _ = onnxcompress.apply(subject, [step])
        assert reader in {node.op_type for node in small.graph}


def test_what_cannot_be_written_is_refused_in_one_sentence() -> None:
    lacks = "format = 'matmulnbits': TensorRT 10.15, explicit quantization has no com.microsoft::MatMulNBits; leave"
    with pytest.raises(OptionError, match=lacks):
        QuantizeWeights(dtype="uint4", target="tensorrt", format="matmulnbits", block_size=64)
    with pytest.raises(OptionError, match="format = 'matmulinteger': TensorRT .* has no MatMulInteger; leave"):
        QuantizeWeights(dtype="uint4", target="tensorrt", format="matmulinteger")
    with pytest.raises(OptionError, match="target = 'tensorrt': TensorRT .* has no ConvInteger, .*; use quantize"):
        QuantizeDynamic(target="tensorrt")
    lstm = made(
        "a = Unsqueeze (x, zero) y, h, c = LSTM <hidden_size = 4> (a, v, r)",
        zero=np.int64([0]),
        v=np.ones((1, 16, 32), np.float32),
        r=np.ones((1, 16, 4), np.float32),
    )
    _, report = onnxcompress.apply(lstm, [QuantizeDynamic(target="openvino")])
    reasons = {refusal.reason for refusal in report.steps[0].refused}
    assert "the target, openvino, has no com.microsoft::DynamicQuantizeLSTM" in reasons
