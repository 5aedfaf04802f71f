"""A small convolutional network of another architecture than its teachers: the student of the tutorial's table."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx

TEXT = """<ir_version: 9, opset_import: ["" : 17]>
small (float[N,3,32,32] image) => (float[N,10] logits) {
 c1 = Conv<pads = [1,1,1,1]>(image, w1)
 n1 = BatchNormalization(c1, s1, b1, m1, v1)
 r1 = Relu(n1)
 p1 = MaxPool<kernel_shape = [2,2], strides = [2,2]>(r1)
 c2 = Conv<pads = [1,1,1,1]>(p1, w2)
 n2 = BatchNormalization(c2, s2, b2, m2, v2)
 r2 = Relu(n2)
 p2 = MaxPool<kernel_shape = [2,2], strides = [2,2]>(r2)
 c3 = Conv<pads = [1,1,1,1]>(p2, w3)
 n3 = BatchNormalization(c3, s3, b3, m3, v3)
 hidden = Relu(n3)
 pooled = GlobalAveragePool(hidden)
 rows = Flatten(pooled)
 logits = Gemm<transB = 1>(rows, fc, fcb)
}"""
WIDTHS = (3, 16, 32, 64)
HIDDEN = "hidden"
"""The feature map, [N,64,8,8], that is compared with the teacher's."""


def write(path: Path) -> Path:
    """Write the student, whose weights ``initialise="he"`` draws anew; returns its path."""
    random = np.random.default_rng(0)
    model = onnx.parser.parse_model(TEXT)
    arrays: dict[str, np.ndarray] = {"fc": random.standard_normal((10, WIDTHS[-1])), "fcb": np.zeros(10)}
    for number, (read, made) in enumerate(pairwise(WIDTHS), 1):
        arrays[f"w{number}"] = random.standard_normal((made, read, 3, 3))
        for name, value in (("s", 1), ("b", 0), ("m", 0), ("v", 1)):
            arrays[f"{name}{number}"] = np.full(made, value)
    for name, array in arrays.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    onnx.save(model, path)
    return path
