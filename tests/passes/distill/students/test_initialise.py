"""Weights that are drawn anew have the distribution that the literature gives them, by their role."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from corpus.text import model

from onnxcompress.passes.distill.students.initialise import initialised

NET = """g (float[N,4,8,8] x) => (float[A,B,C,D] y) {
  scaled = Mul(x, by) shifted = Add(scaled, plus)
  c1 = Conv<pads = [1,1,1,1], group = 2>(shifted, w1, b1) n1 = BatchNormalization(c1, s, t, m, v) r1 = PRelu(n1, p)
  r = Reshape(r1, six) tw = Transpose<perm = [1,0]>(w2) e = MatMul(r, tw) a = Add(e, b2) q = Add(a, pos)
  l = LayerNormalization(q, g1, g2) z = Mul(l, factors)
  k = LSTM<hidden_size = 64, direction = "bidirectional">(z, lw, lr, lb) y = Relu(k)
}"""
SHAPES = {
    "by": (4, 1, 1), "plus": (4, 1, 1), "w1": (96, 2, 3, 3), "b1": (96,), "s": (96,), "t": (96,), "m": (96,),
    "v": (96,), "p": (96, 1, 1), "w2": (300, 1024), "b2": (300,), "pos": (6, 300), "g1": (300,), "g2": (300,),
    "factors": (300,), "lw": (2, 256, 300), "lr": (2, 256, 64), "lb": (2, 512),
}  # fmt: skip


def net() -> ir.Model:
    found = model(NET, {**SHAPES, "six": np.int64([-1, 6, 1024])})
    found.graph.initializers["v"].const_value = ir.tensor(np.full(96, 3, np.float32), name="v")
    return found


def arrays(subject: ir.Model) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in subject.graph.initializers.items()}


@pytest.fixture
def drawn() -> dict[str, np.ndarray]:
    subject = net()
    before = arrays(subject)
    found, notes = initialised("he", subject, [n for n in SHAPES if n not in ("m", "v")], 0, ())
    assert notes == ("initialise = he: 14 tensors were drawn anew; 2 are kept, whose role is not known: by, plus",)
    for name, array in arrays(subject).items():
        np.testing.assert_array_equal(array, before[name])
    return arrays(found)


@pytest.mark.parametrize(("name", "variance"), [
    ("w1", 2 / (2 * 3 * 3)), ("w2", 2 / 1024), ("lw", 1 / 300), ("lr", 1 / 64), ("pos", 1 / 300),
])  # fmt: skip
def test_layers_have_the_variance_that_their_fan_in_asks_for(
    drawn: dict[str, np.ndarray], name: str, variance: float
) -> None:
    array = drawn[name]
    assert array.dtype == np.float32
    assert array.shape == SHAPES[name]
    assert abs(array.mean()) < 4 * np.sqrt(variance / array.size)
    assert array.var() == pytest.approx(variance, rel=8 / np.sqrt(array.size))


@pytest.mark.parametrize(("name", "value"), [
    ("b1", 0), ("s", 1), ("t", 0), ("m", 0), ("v", 1), ("p", 0.25), ("b2", 0), ("g1", 1), ("g2", 0), ("factors", 1),
    ("lb", 0),
])  # fmt: skip
def test_what_else_is_trained_starts_as_if_it_were_not_there(
    drawn: dict[str, np.ndarray], name: str, value: float
) -> None:
    assert (drawn[name] == value).all()


def test_what_stands_before_the_first_layer_stays(drawn: dict[str, np.ndarray]) -> None:
    for name in ("by", "plus"):
        np.testing.assert_array_equal(drawn[name], arrays(net())[name])


def test_the_seed_decides_and_only_what_is_named_changes() -> None:
    one, again, other = (arrays(initialised("he", net(), ["w2", "g1"], seed, ())[0]) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one["w2"], again["w2"])
    assert not np.array_equal(one["w2"], other["w2"])
    assert [name for name, array in arrays(net()).items() if not np.array_equal(one[name], array)] == ["w2", "g1"]


def test_masks_stay_and_what_is_left_makes_up_for_them() -> None:
    subject = net()
    mask = np.random.default_rng(0).random(SHAPES["w2"]) < 0.25
    subject.graph.initializers["w2"].const_value = ir.tensor(mask.astype(np.float32), name="w2")
    found = arrays(initialised("he", subject, ["w2"], 0, ["w2"])[0])["w2"]
    np.testing.assert_array_equal(found != 0, mask)
    assert found[mask].var() == pytest.approx(2 / (1024 * mask.mean()), rel=0.03)


def test_rows_of_an_embedding_have_length_one_on_average() -> None:
    subject = model("g (int64[N] i) => (float[N,50] y) { y = Gather(table, i) }", {"table": (400, 50)})
    table = arrays(initialised("he", subject, ["table"], 0, ())[0])["table"]
    assert np.linalg.norm(table, axis=1).mean() == pytest.approx(1, abs=0.02)


def test_as_is_is_the_model_itself() -> None:
    subject = net()
    assert initialised("as-is", subject, ["w1"], 0, ()) == (subject, ())
