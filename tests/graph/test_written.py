"""What is inferred of tensors is not written, where onnx can infer it again."""

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from corpus.text import model

from onnxcompress import apply
from onnxcompress.graph.save import save
from onnxcompress.graph.written import unwritten, written
from onnxcompress.passes import FoldConstants, Shrink


def test_what_is_inferred_meanwhile_is_not_written() -> None:
    subject = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["": 21, "com.example": 1]> '
        "g (float[2,3] x) => (float[2,3] y) { a = Relu(x) b = com.example.Own(a) y = Relu(b) }"
    )
    with unwritten(subject):
        for node in subject.graph:
            node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([2, 3])
    known, own, output = (node.outputs[0] for node in written(subject).graph)
    assert known.shape is None and known.type is None
    assert own.shape is not None and output.shape is not None  # nobody could infer it
    assert subject.graph[0].outputs[0].shape is not None  # who works on it knows it still


@pytest.mark.parametrize("step", [FoldConstants(), Shrink()], ids=lambda step: step.name)
def test_a_file_says_no_more_of_its_tensors_than_it_did(step: FoldConstants | Shrink, tmp_path: Path) -> None:
    subject = model(
        "g (float[N,8] x) => (float[N,8] y) { n = Neg(w) a = MatMul(x, n) b = Relu(a) y = Add(b, c) }",
        {"w": (8, 8), "c": (8,)},
    )
    subject.graph[2].outputs[0].shape = ir.Shape(["N", 8])
    subject.graph[2].outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    save(subject, tmp_path / "m.onnx")
    apply(tmp_path / "m.onnx", [step], output=tmp_path / "small.onnx")
    said = {value.name for value in onnx.load(tmp_path / "small.onnx").graph.value_info}
    assert said == {"b"}
