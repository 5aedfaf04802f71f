"""The gradient through integers, against LSQ's formula in numpy, in both engines."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import training

from onnxcompress.training import process
from onnxcompress.training.differentiate import differentiate
from onnxcompress.training.gradients import why_no_gradient
from onnxcompress.training.loop import engine

KINDS = {"tensor": (None, 0), "axis": (1, 0), "block": (1, 3), "block that is cut short": (0, 4)}
TYPES = {
    "int8": (np.int8, -128, 127), "uint8": (np.uint8, 0, 255), "int16": (np.int16, -32768, 32767),
    "uint16": (np.uint16, 0, 65535), "int4": (ml_dtypes.int4, -8, 7), "uint4": (ml_dtypes.uint4, 0, 15),
}  # fmt: skip
SHAPE = (5, 6, 2)


@dataclasses.dataclass(frozen=True)
class Case:
    """A tensor that is rounded and dequantized, and what is expected of it."""

    kind: str
    dtype: str

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        random = np.random.default_rng(3)
        axis, block = KINDS[self.kind]
        number, low, high = TYPES[self.dtype]
        extents = list(SHAPE)
        if block:
            extents[axis] = -(-SHAPE[axis] // block)
        scales = () if axis is None else tuple(extents) if block else (SHAPE[axis],)
        point = np.full(scales, 0 if low else high // 2 + 1)
        point = point if low else point + random.integers(-2, 2, scales)
        scale = random.uniform(0.5, 1.5, scales).astype(np.float32)
        # A quarter of them are out of range.
        x = random.uniform(-0.67, 0.67, SHAPE) * (high - low)
        return {
            "x": (x * self.spread(scale)).astype(np.float32),
            "scale": scale,
            "point": point.astype(number),
            "upstream": random.uniform(-1, 1, SHAPE).astype(np.float32),
        }

    def spread(self, each: np.ndarray) -> np.ndarray:
        axis, block = KINDS[self.kind]
        if axis is None:
            return each
        if block:
            return np.repeat(each, block, axis).take(range(SHAPE[axis]), axis)
        return each.reshape([-1 if a == axis else 1 for a in range(len(SHAPE))])

    def collected(self, full: np.ndarray) -> np.ndarray:
        """Sum to the shape of the scales."""
        axis, block = KINDS[self.kind]
        if axis is None:
            return full.sum()
        if block:
            return np.add.reduceat(full, range(0, SHAPE[axis], block), axis)
        return full.sum(tuple(a for a in range(len(SHAPE)) if a != axis))

    def model(self) -> ir.Model:
        axis, block = KINDS[self.kind]
        attributes = ({} if axis is None else {"axis": axis}) | ({"block_size": block} if block else {})
        arrays = self.arrays
        values = {n: ir.val(n, const_value=ir.tensor(a, name=n)) for n, a in arrays.items()}
        x, scale, point, upstream = values.values()
        rounded = ir.node("QuantizeLinear", [x, scale, point], attributes)
        back = ir.node("DequantizeLinear", [rounded.outputs[0], scale, point], attributes)
        product = ir.node("Mul", [back.outputs[0], upstream])
        total = ir.node("ReduceSum", [product.outputs[0]], {"keepdims": 0})
        for node, dtype in ((rounded, self.dtype), (back, "float"), (product, "float")):
            node.outputs[0].shape, node.outputs[0].type = ir.Shape(SHAPE), ir.TensorType(ir.DataType[dtype.upper()])
        total.outputs[0].name = engine.LOSS
        total.outputs[0].type, total.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
        nodes = [rounded, back, product, total]
        graph = ir.Graph([], total.outputs, nodes=nodes, initializers=[*values.values()], opset_imports={"": 21})
        gradients = differentiate(graph, total.outputs[0], [x, scale])
        graph.outputs.extend(gradients)
        return ir.Model(graph, ir_version=10)

    def expected(self) -> tuple[float, dict[str, np.ndarray]]:
        """Esser et al., equation 3, with the integers' own zero point."""
        arrays, (_, low, high) = self.arrays, TYPES[self.dtype]
        x, upstream = arrays["x"].astype(np.float64), arrays["upstream"].astype(np.float64)
        scale, point = (self.spread(arrays[name].astype(np.float64)) for name in ("scale", "point"))
        steps = x / scale
        rounded = np.round(steps)
        clipped = np.clip(rounded, low - point, high - point)
        inside = rounded == clipped
        of_scale = np.where(inside, rounded - steps, clipped)
        gradients = {"x": upstream * inside, "scale": self.collected(upstream * of_scale)}
        assert 0.1 < inside.mean() < 0.9
        return float((clipped * scale * upstream).sum()), gradients

    def check(self, loss: float, gradients: dict[str, np.ndarray]) -> None:
        expected_loss, expected = self.expected()
        assert loss == pytest.approx(expected_loss, rel=1e-4, abs=1e-3 * float(abs(self.arrays["x"]).max()))
        for name, array in expected.items():
            assert gradients[name].shape == self.arrays[name].shape
            # The scale's is a difference of two sums of the size of x.
            slack = 1e-5 if name == "x" else 2e-6 * (TYPES[self.dtype][2] + 10) * SHAPE[0] * SHAPE[1]
            np.testing.assert_allclose(gradients[name], array, atol=slack, rtol=1e-4)


CASES = [Case(kind, dtype) for kind in KINDS for dtype in TYPES]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_gradient_is_that_of_lsq(case: Case) -> None:
    session = onnxruntime.InferenceSession(ir.to_proto(case.model()).SerializeToString())
    loss, x, scale = session.run(None, {})
    case.check(float(loss), {"x": x, "scale": scale})


def test_the_gradient_is_that_of_lsq_in_the_training_interpreter(tmp_path: Path) -> None:
    for number, case in enumerate(CASES):
        (tmp_path / str(number)).mkdir()
        model = case.model()
        for name in ("x", "scale"):
            model.graph.inputs.append(model.graph.initializers.pop(name))
        ir.save(model, tmp_path / str(number) / "objective.onnx")
        weights = {f"weight:{name}": case.arrays[name] for name in ("x", "scale")}
        np.savez(tmp_path / str(number) / "feeds.npz", **weights)
    script = Path(training.__path__[0]) / "run_gradients.py"
    command = [process.find_uv(), "run", "--no-project", "--script", str(script), engine.__file__, str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    for number, case in enumerate(CASES):
        error = tmp_path / str(number) / "error.txt"
        assert not error.exists(), f"{case}: {error.read_text()}"
        with np.load(tmp_path / str(number) / "gradients.npz") as found:
            case.check(float(found[engine.LOSS]), dict(found))


@pytest.mark.parametrize(
    ("point", "shape", "reason"),
    [
        (ml_dtypes.float8_e4m3fn, [2], "to float8e4m3fn"),
        (np.int8, None, "where its rank or the number of its scales is not known"),
    ],
)
def test_what_has_no_gradient_is_said(point: type, shape: list[int] | None, reason: str) -> None:
    x = ir.Value(name="x", shape=None if shape is None else ir.Shape(shape))
    scale = ir.val("scale", const_value=ir.tensor(np.ones(2, np.float32)))
    zero = ir.val("zero", const_value=ir.tensor(np.zeros(2, point)))
    node = ir.node("QuantizeLinear", [x, scale, zero], name="q")
    assert why_no_gradient(node).startswith(f"node 'q' (QuantizeLinear) has no gradient {reason}")
