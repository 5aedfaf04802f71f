"""Make a decoder of any size with random weights: `python stack.py OUT.onnx [--layers 6 --hidden 2048 …]`.

By default 1.27 GB: six blocks of RMSNorm, attention and a gated MLP. Weights are written as they are drawn, so that the
memory it takes is that of one of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, parser

BLOCK = """
    {p}sq = Mul({x}, {x})
    {p}ms = ReduceMean<keepdims = 1>({p}sq, last)
    {p}mse = Add({p}ms, epsilon)
    {p}rms = Sqrt({p}mse)
    {p}unit = Div({x}, {p}rms)
    {p}n = Mul({p}unit, {p}norm)
    {p}qf = MatMul({p}n, {p}q)
    {p}kf = MatMul({p}n, {p}k)
    {p}vf = MatMul({p}n, {p}v)
    {p}qr = Reshape({p}qf, split)
    {p}kr = Reshape({p}kf, split)
    {p}vr = Reshape({p}vf, split)
    {p}qh = Transpose<perm = [0, 2, 1, 3]>({p}qr)
    {p}kh = Transpose<perm = [0, 2, 3, 1]>({p}kr)
    {p}vh = Transpose<perm = [0, 2, 1, 3]>({p}vr)
    {p}qk = MatMul({p}qh, {p}kh)
    {p}scaled = Mul({p}qk, temperature)
    {p}probabilities = Softmax<axis = -1>({p}scaled)
    {p}mixed = MatMul({p}probabilities, {p}vh)
    {p}back = Transpose<perm = [0, 2, 1, 3]>({p}mixed)
    {p}joined = Reshape({p}back, join)
    {p}of = MatMul({p}joined, {p}o)
    {p}y = Add({x}, {p}of)
    {p}sq2 = Mul({p}y, {p}y)
    {p}ms2 = ReduceMean<keepdims = 1>({p}sq2, last)
    {p}mse2 = Add({p}ms2, epsilon)
    {p}rms2 = Sqrt({p}mse2)
    {p}unit2 = Div({p}y, {p}rms2)
    {p}n2 = Mul({p}unit2, {p}norm2)
    {p}gf = MatMul({p}n2, {p}gate)
    {p}s = Sigmoid({p}gf)
    {p}silu = Mul({p}gf, {p}s)
    {p}uf = MatMul({p}n2, {p}up)
    {p}gated = Mul({p}silu, {p}uf)
    {p}df = MatMul({p}gated, {p}down)
    {p}out = Add({p}y, {p}df)
"""


def text(layers: int) -> str:
    """Return the graph."""
    lines, x = ["x = Gather(table, input_ids)"], "x"
    for number in range(layers):
        prefix = f"l{number}_"
        lines.append(BLOCK.format(p=prefix, x=x))
        x = f"{prefix}out"
    lines.append(f"logits = MatMul({x}, lm_head)")
    body = "\n".join(lines)
    return f"stack (int64[batch, length] input_ids) => (float[batch, length, vocabulary] logits) {{{body}}}"


def shapes(layers: int, hidden: int, inner: int, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight."""
    found: dict[str, tuple[int, ...]] = {"table": (vocabulary, hidden)}
    for number in range(layers):
        block = dict.fromkeys("qkvo", (hidden, hidden)) | {"gate": (hidden, inner), "up": (hidden, inner)}
        block |= {"down": (inner, hidden), "norm": (hidden,), "norm2": (hidden,)}
        found |= {f"l{number}_{name}": shape for name, shape in block.items()}
    return found | {"lm_head": (hidden, vocabulary)}


def make(path: Path, *, layers: int, hidden: int, inner: int, heads: int, vocabulary: int) -> None:
    """Write the model, its weights in a file beside it."""
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["": 18]> {text(layers)}')
    random = np.random.default_rng(0)
    with (path.parent / f"{path.name}.data").open("wb") as file:
        for name, shape in shapes(layers, hidden, inner, vocabulary).items():
            array = random.standard_normal(shape, np.float32)
            array = np.ones(shape, np.float32) if len(shape) == 1 else array * np.float32(shape[0] ** -0.5)
            tensor = TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
            place = {"location": f"{path.name}.data", "offset": file.tell(), "length": array.nbytes}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            model.graph.initializer.append(tensor)
            file.write(array.tobytes())
    width = hidden // heads
    small = {
        "last": np.array([-1]),
        "epsilon": np.float32(1e-6),
        "split": np.array([0, 0, heads, width]),
        "join": np.array([0, 0, hidden]),
        "temperature": np.float32(width**-0.5),
    }
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in small.items())
    onnx.save(model, path)


def main() -> None:
    """Read the sizes and write."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("output", type=Path)
    for name, default in {"layers": 6, "hidden": 2048, "inner": 5632, "heads": 32, "vocabulary": 2048}.items():
        arguments.add_argument(f"--{name}", type=int, default=default)
    given = vars(arguments.parse_args())
    make(given.pop("output"), **given)


if __name__ == "__main__":
    main()
