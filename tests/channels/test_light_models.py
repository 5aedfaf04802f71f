"""The classic networks that come with onnx, their filled-in weights replaced by drawn ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.oracle import assert_same, drawn_feeds, plain_run

from onnxcompress import apply
from onnxcompress.passes import PruneChannels, Shrink

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
LARGEST_SHARE = {
    "bvlc_alexnet": 0.35,
    "densenet121": 0.30,
    "inception_v1": 0.40,
    "inception_v2": 0.30,
    "resnet50": 0.30,
    "shufflenet": 0.55,
    "squeezenet": 0.36,
    "vgg19": 0.30,
    "zfnet512": 0.35,
}
"""ShuffleNet's concatenations of unequal widths tie the channels of its grouped convolutions together."""


def light(name: str) -> ir.Model:
    """Load a model; every tensor of equal floats becomes one of random ones, positive where it is a vector."""
    proto = onnx.load(FOLDER / f"light_{name}.onnx")
    random = np.random.default_rng(0)
    shapes = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    fills = [node for node in proto.graph.node if node.op_type == "ConstantOfShape"]
    for node in fills:
        shape = tuple(shapes[node.input[0]].tolist())
        array = random.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(max(np.prod(shape[1:]), 1)))
        array = np.abs(array) + np.float32(0.5) if len(shape) == 1 else array
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, node.output[0]))
        proto.graph.node.remove(node)
    return ir.from_proto(proto)


@pytest.mark.parametrize(
    "name", [n if n == "squeezenet" else pytest.param(n, marks=pytest.mark.slow) for n in LARGEST_SHARE]
)
def test_pruned_equals_masked(name: str) -> None:
    model = light(name)
    masked, _ = apply(model, [PruneChannels(sparsity=0.5)])
    small, _ = apply(masked, [Shrink()])
    feeds = drawn_feeds(model, batch=1)
    assert_same(plain_run(masked, feeds), plain_run(small, feeds))
    before, after = (sum(t.size for t in weights(m)) for m in (model, small))
    assert after <= LARGEST_SHARE[name] * before


def weights(model: ir.Model) -> list[np.ndarray]:
    arrays = [onnx.numpy_helper.to_array(t) for t in ir.to_proto(model).graph.initializer]
    return [a for a in arrays if a.dtype == np.float32]
