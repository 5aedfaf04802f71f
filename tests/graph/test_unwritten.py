"""What is inferred while a pass works is forgotten, where onnx can infer it again."""

import onnx_ir as ir

from onnxcompress.graph import shapes


def test_what_is_inferred_meanwhile_is_not_written() -> None:
    subject = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["": 21, "com.example": 1]> '
        "g (float[2,3] x) => (float[2,3] y) { a = Relu(x) b = com.example.Own(a) y = Relu(b) }"
    )
    with shapes.unwritten(subject):
        for node in subject.graph:
            node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([2, 3])
    known, own, output = (node.outputs[0] for node in subject.graph)
    assert known.shape is None and known.type is None
    assert own.shape is not None and output.shape is not None  # nobody could infer it
