"""Clustered weights: few values, near the old ones; against scipy."""

from __future__ import annotations

import re
import zlib

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.topologies import TOPOLOGIES, behind, conv_chain, mlp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.cluster.vq import kmeans2

from onnxcompress import apply
from onnxcompress.contract import Context
from onnxcompress.errors import OptionError
from onnxcompress.passes import Cluster, MagnitudePrune
from onnxcompress.passes.prune.cluster import ClusterPlan
from onnxcompress.passes.prune.k_means.lloyd import STARTS, cluster

Array = np.ndarray


def weights(subject: ir.Model) -> dict[str, Array]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in ir.to_proto(subject).graph.initializer}


@given(st.integers(2, 9), st.integers(0, 20))
def test_the_centres_are_those_of_scipy(clusters: int, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal(60)
    start = np.quantile(values, (np.arange(clusters) + 0.5) / clusters)
    expected, labels = kmeans2(values[:, None], start[:, None], iter=300, minit="matrix")
    centres, codes = cluster(values, clusters, STARTS["density"], np.random.default_rng(0))
    np.testing.assert_allclose(centres, expected[:, 0], atol=1e-12)
    assert np.array_equal(codes, labels)


arrays = hnp.arrays(np.float64, st.integers(1, 40), elements=st.integers(-20, 20).map(float))


@pytest.mark.parametrize("start", STARTS)
@given(values=arrays, clusters=st.integers(2, 8), seed=st.integers(0, 3))
def test_each_value_goes_to_the_nearest_centre(start: str, values: Array, clusters: int, seed: int) -> None:
    centres, codes = cluster(values, clusters, STARTS[start], np.random.default_rng(seed))
    assert len(centres) <= clusters
    np.testing.assert_allclose(
        np.abs(values - centres[codes]), np.abs(values[:, None] - centres).min(axis=1), atol=1e-9
    )
    if len(np.unique(values)) <= clusters:
        assert np.array_equal(centres[codes], values)


@given(values=arrays, clusters=st.integers(2, 8))
def test_zeros_stay_the_only_zeros(values: Array, clusters: int) -> None:
    centres, codes = cluster(values, clusters, STARTS["linear"], np.random.default_rng(0), keep_zero=True)
    found = centres[codes]
    assert (found[values == 0] == 0).all()
    if (values == 0).any():
        assert (codes[values != 0] != 0).all()


@pytest.mark.parametrize("initialisation", STARTS)
def test_a_model_keeps_few_values(initialisation: str) -> None:
    subject = conv_chain()
    small, report = apply(subject, [Cluster(clusters=4, initialisation=initialisation)])  # type: ignore[arg-type]
    before, after = weights(subject), weights(small)
    for name in ("w1", "w2", "w3"):
        assert len(np.unique(after[name])) <= 4
        assert np.square(after[name] - before[name]).mean() < 0.35 * before[name].var()
    assert np.array_equal(after["b1"], before["b1"])
    what = next(change.what for change in report.steps[0].done if change.subject == "w2")
    match = re.fullmatch(r"(\d) different values; zipped ([\d.]+) → ([\d.]+) kB, in the file 6.9 kB", what)
    assert match
    assert float(match[3]) < 0.4 * float(match[2])
    packed = [sum(len(zlib.compress(found[n].tobytes())) for n in ("w1", "w2", "w3")) for found in (before, after)]
    plain = sum(before[n].nbytes for n in ("w1", "w2", "w3"))
    total = f"zipped {packed[0] / 1000:.1f} → {packed[1] / 1000:.1f} kB, in the file {plain / 1000:.1f} kB"
    assert report.steps[0].notes == [f"all of these: {total}"]


def test_each_channel_has_values_of_its_own() -> None:
    subject = conv_chain()
    after = weights(apply(subject, [Cluster(clusters=2, granularity="channel")])[0])["w2"]
    assert {len(np.unique(row)) for row in after} == {2}
    assert len(np.unique(after)) == 24
    one, _ = cluster(
        weights(subject)["w2"][3].ravel().astype(np.float64), 2, STARTS["linear"], np.random.default_rng(0)
    )
    np.testing.assert_allclose(np.unique(after[3]), one, rtol=1e-6)


def test_channels_of_moved_weights_are_refused() -> None:
    plan = Cluster(granularity="channel").plan(behind(), Context(behind()))
    reasons = {r.subject: r.reason for r in plan.refused}
    assert reasons["w0"] == "an operator moves it before it is used, so that its output channels are not known"


def test_pruned_weights_stay_pruned() -> None:
    sparse, _ = apply(mlp(), [MagnitudePrune(sparsity=0.7)])
    small = apply(sparse, [Cluster(clusters=4, initialisation="density", preserve_sparsity=True)])[0]
    for name in ("w1", "w2", "w3"):
        assert np.array_equal(weights(small)[name] == 0, weights(sparse)[name] == 0)
        assert 3 <= len(np.unique(weights(small)[name])) <= 4


@pytest.mark.parametrize("topology", [name for name in TOPOLOGIES if name != "quantized"])
def test_the_plan_replays_to_the_same_bytes(topology: str) -> None:
    subject = TOPOLOGIES[topology][0]()
    step = Cluster(clusters=3, initialisation="kmeans++", exclude=("w0*",) if "w0" in weights(subject) else ())
    plan = step.plan(subject, Context(subject, seed=3))
    copies = [subject.clone(), subject.clone()]
    for copy, p in zip(copies, (plan, ClusterPlan.from_json(plan.to_json())), strict=True):
        step.apply(copy, p)
    one, other = (ir.to_proto(copy).SerializeToString() for copy in copies)
    assert one == other != ir.to_proto(subject).SerializeToString()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clusters": 1}, "cluster: clusters = 1: expected `int` >= 2"),
        ({"clusters": 257}, "cluster: clusters = 257: expected `int` <= 256"),
        (
            {"initialisation": "kmeans"},
            "cluster: initialisation = 'kmeans': expected one of linear, random, density, kmeans++",
        ),
    ],
)
def test_options_are_checked(options: dict, message: str) -> None:
    with pytest.raises(OptionError) as error:
        Cluster(**options)
    assert str(error.value).startswith(message)
