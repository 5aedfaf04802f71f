"""Bits by layer: the budget is kept, and bits go where errors cost most."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest
from corpus.text import model
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress import apply
from onnxcompress.contract import Context
from onnxcompress.errors import OptionError, PassError
from onnxcompress.graph.cost import model_bytes
from onnxcompress.passes import QuantizeWeights
from onnxcompress.passes.quantize.weight_only.formats import stored_bytes
from onnxcompress.passes.quantize.weight_only.least_loss import least_loss
from onnxcompress.samples.samples import load_samples

DECODER = """g (int64[n, m] ids) => (float[n, m, 32] logits)
{
    x = Gather(table, ids)
    a = MatMul(x, up)
    b = Mul(a, small)
    c = MatMul(x, other)
    s = Add(b, c)
    r = Relu(s)
    logits = MatMul(r, head)
}"""
SHAPES = {"table": (32, 64), "up": (64, 64), "other": (64, 64), "head": (64, 32)}
ELEMENTS = sum(int(np.prod(shape)) for shape in SHAPES.values())


def decoder() -> ir.Model:
    return model(DECODER, {**SHAPES, "small": np.full(1, 0.01, np.float32)})


def planned(subject: ir.Model, *, samples: bool = True, **options: object) -> dict[str, tuple[int, int]]:
    """Return the bits and the bytes of each weight."""
    feeds = {"ids": np.random.default_rng(0).integers(0, 32, (16, 8))}
    context = Context(subject, samples=load_samples(feeds, subject) if samples else None)
    step = QuantizeWeights(format="matmulnbits", **options)  # type: ignore[arg-type]
    plan = step.plan(subject, context)
    bits = {name: int(stored.dtype[-1]) for name, stored in plan.weights.items()}
    return {n: (bits[n], stored_bytes(SHAPES[n], stored)) for n, stored in plan.weights.items()}


@given(
    st.lists(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=4), min_size=1, max_size=4),
    st.integers(1, 40),
)
@settings(max_examples=60, deadline=None)
def test_no_other_choice_within_the_budget_loses_less(table: list[list[tuple[int, int]]], budget: int) -> None:
    costs, losses = ([[pair[place] for pair in each] for each in table] for place in (0, 1))
    found = least_loss(costs, losses, budget)
    every = itertools.product(*(range(len(each)) for each in table))
    fitting = [way for way in every if sum(c[i] for c, i in zip(costs, way, strict=True)) <= budget]
    if not fitting:
        assert found is None
        return
    assert tuple(found or ()) in fitting
    lost = [sum(each[i] for each, i in zip(losses, way, strict=True)) for way in (found or (), *fitting)]
    assert lost[0] == min(lost)


@pytest.mark.parametrize("samples", [True, False])
def test_a_mean_of_bits_is_kept_and_used(samples: bool) -> None:
    sizes = []
    for bits in (3.2, 4.5, 7.0):
        total = sum(size for _, size in planned(decoder(), samples=samples, bits=bits).values())
        assert 0.85 * bits * ELEMENTS <= 8 * total <= bits * ELEMENTS
        sizes.append(total)
    assert sizes == sorted(sizes)


def test_a_layer_whose_error_hardly_matters_gets_the_fewest_bits() -> None:
    found = planned(decoder(), bits=4.2)
    assert found["up"][0] < found["other"][0]
    assert found["up"][1] == min(found["up"][1], found["other"][1])


def test_the_file_is_no_larger_than_was_asked() -> None:
    for size in (9_000, "12kB"):
        result, report = apply(decoder(), [QuantizeWeights(format="matmulnbits", bytes=size)])
        asked = 12_000 if size == "12kB" else size
        assert 0.9 * asked <= model_bytes(result) <= asked
        assert "bits chosen by layer" in " ".join(note for step in report.steps for note in step.notes)


def test_overrides_and_exclude_count() -> None:
    step = {"overrides": {"head": {"dtype": "uint8", "block_size": 16}}, "exclude": ("other",)}
    found = planned(decoder(), bits=5.0, **step)
    assert found["head"][0] == 8 and "other" not in found


@pytest.mark.parametrize(
    ("options", "least"),
    [({"bits": 1.5}, r"bits = 1\.5 cannot be reached: the least is 2\.\d+ bits"), ({"bytes": 900}, r"[\d,]+ bytes;")],
)
def test_what_cannot_be_reached_is_said_with_the_least(options: dict, least: str) -> None:
    with pytest.raises(PassError, match=least):
        planned(decoder(), **options)


@pytest.mark.parametrize(
    "options",
    [{"bits": 4.0, "bytes": 1000}, {"bits": 4.0, "dtype": "uint4"}, {"bytes": "much"}, {"bits": 0.0}, {"bytes": -1}],
)
def test_options_that_contradict_each_other_are_refused(options: dict) -> None:
    with pytest.raises(OptionError, match="quantize-weights: (b|dtype)"):
        QuantizeWeights(**options)
