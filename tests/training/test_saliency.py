"""How the loss changes with the weights, against numpy and against the model with smaller weights."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from corpus.trainable import MLP, cnn, log_softmax, make, mlp, samples, weights_of

from onnxcompress import apply
from onnxcompress.demo.data import load_split
from onnxcompress.errors import TrainingError
from onnxcompress.passes import PruneChannels, Shrink
from onnxcompress.training import measure_saliency


def test_two_layers_against_numpy() -> None:
    model = mlp()
    inputs, labels, _ = samples(20)
    found = measure_saliency(model, inputs, labels, ["w1", "w2"])
    w = {name: array.astype(np.float64) for name, array in weights_of(model).items()}
    first = {("w1", 0): 0, ("w1", 1): 0, ("w2", 0): 0, ("w2", 1): 0}
    second = dict(first)
    for x, label in zip(inputs["x"].astype(np.float64), labels, strict=True):
        hidden = np.maximum(x @ w["w1"] + w["b1"], 0)
        error = np.exp(log_softmax(hidden[None] @ w["w2"]))[0] - np.eye(4)[label]
        gradients = {"w2": np.outer(hidden, error), "w1": np.outer(x, (w["w2"] @ error) * (hidden > 0))}
        for name, axis in first:
            product = w[name] * gradients[name]
            first[name, axis] = first[name, axis] + np.abs(product.sum(1 - axis)) / 20
            second[name, axis] = second[name, axis] + (product**2).sum(1 - axis) / 40
    assert set(found.first) == set(first)
    assert found.stopped == {}
    for key in first:
        np.testing.assert_allclose(found.first[key], first[key], rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(found.second[key], second[key], rtol=1e-4, atol=1e-9)


def test_batch_norm_keeps_its_own_statistics() -> None:
    """Scaling a filter by 1 + e changes the loss by e times the sum of w·g, in the model as it is used."""
    model = cnn()
    random = np.random.default_rng(2)
    for name in ("scale", "bias", "mean", "var"):
        array = (0.5 + random.random(8)).astype(np.float32)
        model.graph.initializers[name].const_value = ir.tensor(array, name=name)
    images, labels = load_split("train")
    image, label = images[:1], labels[:1]
    found = measure_saliency(model, {"image": image}, label, ["w"]).first["w", 0]

    def loss(channel: int, factor: float) -> float:
        weight = weights_of(cnn())["w"].copy()
        weight[channel] *= factor
        model.graph.initializers["w"].const_value = ir.tensor(weight, name="w")
        proto = ir.to_proto(model).SerializeToString()
        session = onnxruntime.InferenceSession(proto, providers=["CPUExecutionProvider"])
        return -float(np.log(session.run(None, {"image": image})[0][0, label[0]]))

    for channel in range(8):
        slope = (loss(channel, 1.05) - loss(channel, 0.95)) / 0.1
        assert found[channel] == pytest.approx(abs(slope), rel=0.05, abs=2e-4)


@pytest.mark.parametrize("importance", ["taylor", "fisher"])
@pytest.mark.parametrize("labelled", [True, False])
def test_channels_that_the_loss_hardly_sees_go(importance: str, labelled: bool) -> None:
    """Two filters whose outputs are multiplied by almost nothing, however large they are themselves."""
    model = mlp()
    reader, maker = weights_of(model)["w2"].copy(), weights_of(model)["w1"].copy()
    reader[[1, 6]] *= 1e-4
    maker[:, [1, 6]] *= 100
    for name, array in (("w1", maker), ("w2", reader)):
        model.graph.initializers[name].const_value = ir.tensor(array, name=name)
    inputs, labels, _ = samples()
    data = {**inputs, "labels": labels} if labelled else inputs
    pruned, report = apply(model, [PruneChannels(sparsity=0.25, importance=importance)], data=data)
    assert np.flatnonzero(~weights_of(pruned)["w1"].any(0)).tolist() == [1, 6]
    shrunk, _ = apply(pruned, [Shrink()])
    assert weights_of(shrunk)["w1"].shape == (6, 6)
    assert report.steps[0].done


@pytest.mark.parametrize("extents", ["9,9", "?,?"])
def test_padding_by_name_counts_like_padding_by_number(extents: str) -> None:
    """The pads that SAME_UPPER and SAME_LOWER stand for on 9 by 9 pixels, strides of 2 and a kernel of 2."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[batch,1,EXTENTS] image) => (float[batch,4] logits) {
      c = Conv<PADS, strides = [2,2], kernel_shape = [2,2]>(image, w)
      r = Relu(c)
      g = GlobalAveragePool(r)
      f = Flatten(g)
      logits = Gemm(f, fc)
    }""".replace("EXTENTS", extents)
    random = np.random.default_rng(0)
    w, fc = (random.standard_normal(shape).astype(np.float32) for shape in ((6, 1, 2, 2), (6, 4)))
    images, labels = random.standard_normal((8, 1, 9, 9)).astype(np.float32), random.integers(0, 4, 8)
    for by_name, pads in {"SAME_UPPER": "0,0,1,1", "SAME_LOWER": "1,1,0,0"}.items():
        model = make(text.replace("PADS", f'auto_pad = "{by_name}"'), w=w, fc=fc)
        named = measure_saliency(model, {"image": images}, labels, ["w", "fc"])
        assert next(iter(model.graph)).attributes["auto_pad"].as_string() == by_name
        written = make(text.replace("PADS", f"pads = [{pads}]"), w=w, fc=fc)
        numbered = measure_saliency(written, {"image": images}, labels, ["w", "fc"])
        assert named.stopped == {}
        for key, found in numbered.first.items():
            np.testing.assert_allclose(named.first[key], found, rtol=1e-6)
            np.testing.assert_allclose(named.second[key], numbered.second[key], rtol=1e-6)


def test_a_class_for_each_pixel() -> None:
    """Scaling a filter by 1 + e changes the loss by e times the sum of w·g."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[batch,2,4,4] image) => (float[batch,3,4,4] logits) {
      c = Conv<pads = [1,1,1,1]>(image, w)
      r = Relu(c)
      logits = Conv(r, v)
    }"""
    random = np.random.default_rng(0)
    w, v = (random.standard_normal(shape).astype(np.float32) for shape in ((5, 2, 3, 3), (3, 5, 1, 1)))
    image = random.standard_normal((1, 2, 4, 4)).astype(np.float32)
    labels = random.integers(0, 3, (1, 4, 4))
    found = measure_saliency(make(text, w=w, v=v), {"image": image}, labels, ["v"]).first["v", 1]

    def loss(channel: int, factor: float) -> float:
        changed = v.copy()
        changed[:, channel] *= factor
        proto = ir.to_proto(make(text, w=w, v=changed)).SerializeToString()
        session = onnxruntime.InferenceSession(proto, providers=["CPUExecutionProvider"])
        rows = session.run(None, {"image": image})[0].transpose(0, 2, 3, 1).reshape(-1, 3).astype(np.float64)
        return -float(log_softmax(rows)[np.arange(16), labels.ravel()].mean())

    for channel in range(5):
        slope = (loss(channel, 1.01) - loss(channel, 0.99)) / 0.02
        assert found[channel] == pytest.approx(abs(slope), rel=0.01, abs=1e-4)


def test_without_gradients_it_says_which_node() -> None:
    text = MLP.replace("r = Relu(h)", "[act] r = Mod<fmod = 1>(h, h)").replace("MatMul(r, w2)", "Identity(r)")
    inputs, labels, _ = samples()
    with pytest.raises(TrainingError, match=r"node 'act' \(Mod\) has no gradient"):
        measure_saliency(mlp(text), inputs, labels, ["w1"])
