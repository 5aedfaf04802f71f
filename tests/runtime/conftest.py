import onnx
import onnx_ir as ir
import pytest


@pytest.fixture(scope="session")
def parse():
    """Make an `onnx_ir.Model` of a text model."""

    def make(text, opset=17):
        return ir.from_proto(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{text}'))

    return make
