"""Make `digits.onnx`: train a small CNN on handwritten digits with this project's own training interpreter.

Run ``python models/digits.py``; it writes `digits.onnx` and its entry of `manifest.json` beside this file. The same
seed on the same kind of machine gives the same weights.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.demo.data import SPLITS, Split, load_split
from onnxcompress.training import CrossEntropy, Settings, train

HERE = Path(__file__).parent
SEED = 0
WIDTH, WIDE = 64, 96
SETTINGS = Settings(epochs=30, batch_size=32, optimizer="adamw", learning_rate=2e-3, weight_decay=0.05, seed=SEED)


class Builder:
    """Collects nodes and He-initialised weights."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def weight(self, name: str, array: np.ndarray) -> str:
        """Register an initializer."""
        self.initializers.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def node(self, op_type: str, inputs: list[str], name: str, **attributes: object) -> str:
        """Add a node with one output that has its name."""
        self.nodes.append(helper.make_node(op_type, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def conv(self, x: str, name: str, cin: int, cout: int, *, kernel: int = 3, stride: int = 1, group: int = 1) -> str:
        """Add a convolution without bias, and the batch normalisation behind it."""
        fan_in = cin // group * kernel * kernel
        shape = (cout, cin // group, kernel, kernel)
        weight = self.weight(f"{name}.weight", self.random.standard_normal(shape) * np.sqrt(2 / fan_in))
        pad = [kernel // 2] * 4
        x = self.node("Conv", [x, weight], name, pads=pad, strides=[stride] * 2, group=group, kernel_shape=[kernel] * 2)
        parts = [
            self.weight(f"{name}.bn.{part}", np.full(cout, start))
            for part, start in (("scale", 1.0), ("bias", 0.0), ("mean", 0.0), ("var", 1.0))
        ]
        return self.node("BatchNormalization", [x, *parts], f"{name}.bn", epsilon=1e-5, momentum=0.9)

    def relu(self, x: str) -> str:
        """Add a Relu."""
        return self.node("Relu", [x], x.removesuffix("_out") + ".relu")


def build() -> onnx.ModelProto:
    """Build the untrained network: stem, residual block, depthwise-separable block, one more convolution, head."""
    b = Builder(SEED)
    x = b.relu(b.conv("image", "stem", 1, WIDTH))
    y = b.relu(b.conv(x, "residual.1", WIDTH, WIDTH))
    y = b.conv(y, "residual.2", WIDTH, WIDTH)
    x = b.relu(b.node("Add", [x, y], "residual.add"))
    x = b.relu(b.conv(x, "depthwise", WIDTH, WIDTH, stride=2, group=WIDTH))
    x = b.relu(b.conv(x, "pointwise", WIDTH, WIDE, kernel=1))
    x = b.relu(b.conv(x, "last", WIDE, WIDE))
    x = b.node("Flatten", [b.node("GlobalAveragePool", [x], "pool")], "flatten")
    weight = b.weight("head.weight", b.random.standard_normal((WIDE, 10)) * np.sqrt(1 / WIDE))
    bias = b.weight("head.bias", np.zeros(10))
    b.nodes.append(helper.make_node("Gemm", [x, weight, bias], ["logits"], name="head"))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])
    graph = helper.make_graph(b.nodes, "digits", [image], [logits], b.initializers)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="onnxcompress models/digits.py"
    )


def accuracy(proto: onnx.ModelProto, split: Split) -> float:
    """Return the top-1 accuracy."""
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    images, labels = load_split(split)
    logits = np.asarray(session.run(["logits"], {"image": images})[0])
    return float((logits.argmax(1) == labels).mean())


def make() -> onnx.ModelProto:
    """Train the network on the labels alone."""
    images, labels = load_split("train")
    proto = build()
    report = lambda what, done, total: print(f"\r{what} ({done}/{total})", end="", flush=True)  # noqa: E731
    trained = train(ir.from_proto(proto), {"image": images}, CrossEntropy(labels), settings=SETTINGS, progress=report)
    print()
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(trained.weights[tensor.name], tensor.name))
    onnx.checker.check_model(proto, full_check=True)
    return proto


def main() -> None:
    """Write the model and the manifest."""
    proto = make()
    data = proto.SerializeToString(deterministic=True)
    (HERE / "digits.onnx").write_bytes(data)
    manifest = HERE / "manifest.json"
    entries = json.loads(manifest.read_text(encoding="utf-8")) if manifest.exists() else {}
    entries["digits.onnx"] = {
        "what": "residual and depthwise-separable CNN for handwritten digits; BatchNormalization not folded",
        "made by": "python models/digits.py",
        "trained with": "onnxruntime-training-cpu 1.19.2, labels only",
        "settings": dataclasses.asdict(SETTINGS),
        "data": "sklearn.datasets.load_digits (1,797 images of 8x8), permuted with numpy.random.default_rng(0)",
        "splits": {name: positions.stop - positions.start for name, positions in SPLITS.items()},
        "top-1 accuracy": {name: round(accuracy(proto, name), 4) for name in SPLITS},
        "parameters": sum(numpy_helper.to_array(t).size for t in proto.graph.initializer),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "license": "Apache-2.0, as this repository; trained from scratch. The images: UCI 'Optical Recognition of "
        "Handwritten Digits' (E. Alpaydin, C. Kaynak, 1998), CC BY 4.0, as scikit-learn ships them",
    }
    manifest.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(entries["digits.onnx"], indent=2))


if __name__ == "__main__":
    main()
