"""What pruning and clustering made of the weights, integers keep: zeros stay zeros, clusters stay clusters."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.oracle import drawn_feeds
from corpus.topologies import conv_chain, residual

from onnxcompress import apply
from onnxcompress.contract import Pass
from onnxcompress.graph.weights import find_weights
from onnxcompress.passes import Cluster, MagnitudePrune, PruneNOfM, Quantize, QuantizeWeights

QUANTIZERS: list[Pass] = [
    Quantize(granularity="channel"),
    Quantize(granularity="tensor"),
    Quantize(activations="int8", granularity="channel"),
    QuantizeWeights(minimum_size=1),
    QuantizeWeights(minimum_size=1, granularity="tensor"),
    QuantizeWeights(minimum_size=1, symmetric=False),
    QuantizeWeights(minimum_size=1, dtype="uint4", granularity="tensor", rounding="nearest"),
    QuantizeWeights(minimum_size=1, dtype="int4", block_size=2),
    QuantizeWeights(minimum_size=1, dtype="uint8", block_size=3, calibration="mse"),
]

COMPENSATED: list[Pass] = [
    QuantizeWeights(minimum_size=1, rounding="gptq"),
    QuantizeWeights(minimum_size=1, rounding="gptq", dtype="uint4", block_size=2, calibration="mse"),
]
"""These keep zeros, but not clusters: equal weights make up for different errors."""


def name_of(node: onnx.NodeProto) -> str:
    return str(node.input[0].removesuffix("_quantized").removesuffix("_equalised"))


def stored_and_meant(before: ir.Model, after: ir.Model) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each weight that was quantized: its floats before, its integers, and what is read from these."""
    proto = ir.to_proto(after)
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    dequantizers = [n for n in proto.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in tensors]
    floats = {w.value.name: w.value.const_value.numpy() for w in find_weights(before.graph)}  # type: ignore[union-attr]
    found = []
    for node in dequantizers:
        integers, scale, *zero = (tensors[name] for name in node.input)
        if integers.ndim < 2:
            continue  # a bias
        numbers = {a.name: a.i for a in node.attribute}
        axis, block = numbers.get("axis", 1), numbers.get("block_size", 0)
        integers = integers.astype(np.int64)
        if block:
            length = np.arange(integers.shape[axis])
            column, offset = (np.take(a.astype(np.float64).repeat(block, axis), length, axis) for a in (scale, zero[0]))
            meant = (integers - offset) * column
            found.append((floats[name_of(node)], integers, meant))
            continue
        shape = [1] * integers.ndim
        shape[axis] = scale.size
        offset = zero[0].astype(int).reshape(shape if zero[0].size > 1 else [1] * integers.ndim) if zero else 0
        column = scale.reshape(shape if scale.size > 1 else [1] * integers.ndim)
        meant = (integers.astype(np.float64) - offset) * column
        found.append((floats[name_of(node)], integers, meant))
    return found


@pytest.mark.parametrize(
    "quantizer", [*QUANTIZERS, *COMPENSATED], ids=lambda q: f"{q.name}-{'-'.join(map(str, q.options().values()))}"
)
@pytest.mark.parametrize("sparse", [MagnitudePrune(sparsity=0.6), PruneNOfM(n=2, m=4)], ids=lambda s: s.name)
def test_zeros_stay_zeros(quantizer: Pass, sparse: Pass) -> None:
    model = conv_chain()
    pruned, _ = apply(model, [sparse])
    quantized, _ = apply(pruned, [quantizer], data=drawn_feeds(model))
    weights = stored_and_meant(pruned, quantized)
    assert sum((before == 0).any() for before, _, _ in weights) > 1
    for before, _, meant in weights:
        assert not meant[before == 0].any()


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=lambda q: f"{q.name}-{'-'.join(map(str, q.options().values()))}")
def test_clusters_stay_clusters(quantizer: Pass) -> None:
    """With one scale for the tensor, what was equal is equal; with one for each channel, zeros at least stay."""
    model = residual()
    clustered, _ = apply(model, [MagnitudePrune(sparsity=0.3), Cluster(clusters=8, preserve_sparsity=True)])
    quantized, _ = apply(clustered, [quantizer], data=drawn_feeds(model))
    weights = stored_and_meant(clustered, quantized)
    assert len(weights) > 1
    for before, integers, meant in weights:
        assert len(np.unique(before)) <= 9
        assert not meant[before == 0].any()
        if quantizer.options()["granularity"] != "tensor":
            continue
        assert len(np.unique(integers)) <= len(np.unique(before))
        pairs = np.unique(np.stack([before.ravel(), meant.ravel()]), axis=1)
        assert pairs.shape[1] == len(np.unique(before))  # what was equal is equal
