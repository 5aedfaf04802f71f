"""Random, slice, block, n:m and ready-made masks, against numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.oracle import assert_same, drawn_feeds, plain_run
from corpus.text import model
from corpus.topologies import TOPOLOGIES, behind, conv_chain, mlp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxcompress import apply
from onnxcompress.contract import Context, Pass
from onnxcompress.errors import OptionError, PassError
from onnxcompress.passes import (
    ApplyMask,
    MagnitudePrune,
    PruneBlocks,
    PruneNOfM,
    PruneSlices,
    RandomPrune,
    Shrink,
)
from onnxcompress.passes.prune.masks.masks import Mask, MaskPlan
from onnxcompress.passes.prune.masks.weights import keep_highest

Array = np.ndarray


def weights(subject: ir.Model) -> dict[str, Array]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in ir.to_proto(subject).graph.initializer}


def masks(subject: ir.Model, prune: Pass, seed: int = 0) -> dict[str, Array]:
    plan = prune.plan(subject, Context(subject, seed=seed))
    assert isinstance(plan, MaskPlan)
    return {name: mask.keep() for name, mask in plan.masks.items()}


def product(values: Array) -> ir.Model:
    rows, columns = values.shape
    return model(f"g (float[N,{rows}] x) => (float[N,{columns}] y) {{ y = MatMul(x, w) }}", {"w": values})


def drawn(rows: int, columns: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


@given(
    st.floats(0, 0.999), hnp.arrays(np.float32, hnp.array_shapes(max_dims=2), elements=st.integers(-3, 3).map(float))
)
def test_the_lowest_share_is_what_a_stable_sort_says(sparsity: float, score: Array) -> None:
    expected = np.ones(score.size, bool)
    expected[np.argsort(score.ravel(), kind="stable")[: int(sparsity * score.size)]] = False
    assert np.array_equal(keep_highest(score, int(sparsity * score.size)), expected.reshape(score.shape))


@given(st.floats(0, 0.99), st.integers(0, 9))
def test_a_random_share_by_the_seed(sparsity: float, seed: int) -> None:
    subject = mlp()
    found = masks(subject, RandomPrune(sparsity=sparsity), seed)
    for name in ("w1", "w2", "w3"):
        size = weights(subject)[name].size
        keep = found.get(name, np.ones(size, bool))
        assert size - keep.sum() == int(sparsity * size)
    again = masks(subject, RandomPrune(sparsity=sparsity), seed)
    assert all(np.array_equal(found[name], again[name]) for name in found)


def test_another_seed_draws_others() -> None:
    one, other = (masks(mlp(), RandomPrune(), seed)["w1"] for seed in (1, 2))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(("norm", "order"), [("l1", 1), ("l2", 2), ("inf", np.inf)])
@pytest.mark.parametrize("axis", ["out", "in"])
def test_the_slices_with_the_smallest_norms_go(norm: str, order: float, axis: str) -> None:
    subject = conv_chain()
    found = masks(subject, PruneSlices(sparsity=0.25, norm=norm, axis=axis))  # type: ignore[arg-type]
    for name, dim in {"w1": axis == "in", "w2": axis == "in", "w3": axis == "in"}.items():
        array = np.moveaxis(weights(subject)[name], int(dim), 0)
        score = np.linalg.norm(array.reshape(len(array), -1).astype(np.float64), order, axis=1)
        gone = np.argsort(score)[: len(array) // 4]
        expected = np.ones(array.shape, bool)
        expected[gone] = False
        assert np.array_equal(
            found.get(name, np.ones(weights(subject)[name].shape, bool)), np.moveaxis(expected, 0, int(dim))
        )


def test_the_input_axes_of_every_operator() -> None:
    subject = model(
        """g (float[N,4,5,5] x) => (float[N,3] y) {
            a = ConvTranspose(x, w0)
            p = GlobalAveragePool(a)
            f = Flatten(p)
            b = Gemm(f, w1)
            c = Gemm<transB=1>(b, w2)
            y = MatMul(c, w3)
        }""",
        {"w0": (4, 6, 2, 2), "w1": (6, 8), "w2": (10, 8), "w3": (10, 3)},
    )
    found = masks(subject, PruneSlices(axis="in"))
    axes = {"w0": 0, "w1": 0, "w2": 1, "w3": 0}
    for name, axis in axes.items():
        others = tuple(d for d in range(found[name].ndim) if d != axis)
        assert np.array_equal(found[name].any(others), found[name].all(others))
        assert (~found[name].any(others)).sum() == found[name].shape[axis] // 2


def test_filters_that_were_zeroed_can_be_removed() -> None:
    subject = conv_chain()
    feeds = drawn_feeds(subject)
    prune = PruneSlices(sparsity=0.5, exclude=("w3",))
    masked, _ = apply(subject, [prune])
    small, _ = apply(subject, [prune, Shrink()])
    assert weights(small)["w2"].shape[1] < 16
    assert_same(plain_run(masked, feeds), plain_run(small, feeds))


@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.floats(0, 0.99),
    st.sampled_from(["avg", "max"]), st.integers(0, 5),
)  # fmt: skip
def test_blocks_against_loops(
    inputs: int, outputs: int, rows: int, columns: int, sparsity: float, pooling: str, seed: int
) -> None:
    if inputs * outputs < 2:
        return
    values = drawn(inputs, outputs, seed)
    matrix = np.abs(values.T.astype(np.float64))
    judge = np.mean if pooling == "avg" else np.max
    corners = [(i, j) for i in range(0, outputs, rows) for j in range(0, inputs, columns)]
    score = [judge(matrix[i : i + rows, j : j + columns]) for i, j in corners]
    expected = np.ones(matrix.shape, bool)
    for number in np.argsort(score, kind="stable")[: int(sparsity * len(corners))]:
        i, j = corners[number]
        expected[i : i + rows, j : j + columns] = False
    found = masks(product(values), PruneBlocks(block=(rows, columns), sparsity=sparsity, pooling=pooling))  # type: ignore[arg-type]
    assert np.array_equal(found.get("w", np.ones(values.shape, bool)), expected.T)


def test_blocks_of_a_convolution_are_those_of_its_matrix() -> None:
    subject = conv_chain()
    found = masks(subject, PruneBlocks(block=(4, 1)))["w2"].reshape(12, -1)
    array = np.abs(weights(subject)["w2"].reshape(3, 4, 144).astype(np.float64)).mean(axis=1)
    cut = np.sort(array.ravel())[array.size // 2]
    assert np.array_equal(found, np.repeat(array >= cut, 4, axis=0))


@given(st.integers(4, 13), st.integers(1, 5), st.integers(1, 3), st.integers(0, 5))
def test_n_of_m_against_loops(inputs: int, outputs: int, n: int, seed: int) -> None:
    values = drawn(inputs, outputs, seed)
    expected = np.zeros(values.shape, bool)
    for column in range(outputs):
        for start in range(0, inputs, 4):
            part = np.abs(values[start : start + 4, column])
            expected[start + np.argsort(-part, kind="stable")[:n], column] = True
    found = masks(product(values), PruneNOfM(n=n, m=4))
    assert np.array_equal(found.get("w", np.ones(values.shape, bool)), expected)


def test_n_of_m_of_a_convolution_runs_along_its_input_channels() -> None:
    plan = PruneNOfM().plan(conv_chain(), Context(conv_chain()))
    keep = plan.masks["w2"].keep()
    assert (keep.reshape(12, 4, 4, 3, 3).sum(axis=2) == 2).all()
    refused = {r.subject: r.reason for r in plan.refused}
    assert refused == {"w1": "an output sums over 3 input channels, fewer than 4"}


@pytest.mark.parametrize("prune", [PruneSlices(), PruneBlocks(), PruneNOfM()], ids=lambda p: p.name)
def test_weights_that_are_moved_first_are_refused(prune: Pass) -> None:
    plan = prune.plan(behind(), Context(behind()))
    reasons = {r.subject: r.reason for r in plan.refused}
    assert reasons["w0"] == "an operator moves it before it is used, so that its axes are not those of the outputs"


@pytest.mark.parametrize(
    "prune", [RandomPrune(), PruneSlices(), PruneSlices(axis="in"), PruneBlocks(), PruneNOfM()], ids=lambda p: p.name
)
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_every_topology_still_runs(topology: str, prune: Pass) -> None:
    subject = TOPOLOGIES[topology][0]()
    copy = subject.clone()
    plan = prune.plan(subject, Context(subject))
    changes = prune.apply(copy, MaskPlan.from_json(plan.to_json()))
    assert changes.done or changes.refused
    assert list(plain_run(copy, drawn_feeds(copy))) == [o.name for o in copy.graph.outputs]


@pytest.mark.parametrize(
    "prune", [MagnitudePrune(exclude=("w[12]",)), RandomPrune(exclude=("w[12]",))], ids=lambda p: p.name
)
def test_excluded_weights_are_left_and_said(prune: Pass) -> None:
    plan = prune.plan(mlp(), Context(mlp()))
    assert list(plan.masks) == ["w3"]  # type: ignore[attr-defined]
    assert [(r.subject, r.reason) for r in plan.refused] == [(n, "excluded by 'w[12]'") for n in ("w1", "w2")]


def test_a_pattern_that_matches_no_weight() -> None:
    with pytest.raises(PassError, match="random-prune: exclude: 'w9' matches nothing in the model; there are a, b, b1"):
        apply(mlp(), [RandomPrune(exclude=("w9",))])


def test_masks_from_a_file(tmp_path: Path) -> None:
    subject = conv_chain()
    keep = {"w1": np.random.default_rng(0).random((16, 3, 3, 3)) > 0.3, "b1": (np.arange(16) % 2).astype(np.float32)}
    np.savez(tmp_path / "masks.npz", w3=np.ones((5, 12)), **keep)
    found, report = apply(subject, [ApplyMask(masks=str(tmp_path / "masks.npz"))])
    for name, mask in keep.items():
        assert np.array_equal(weights(found)[name], weights(subject)[name] * mask)
    assert {change.subject for change in report.steps[0].done} == {"w1", "b1"}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"w11": np.ones((16, 3, 3, 3))}, "'w11': the model has no such constant here; did you mean 'w1'?"),
        ({"w1": np.ones((16, 3))}, "'w1': its shape is (16, 3); the constant's is (16, 3, 3, 3)"),
        ({"b1": np.full(16, 0.5)}, "'b1': expected only 0 and 1 (or false and true)"),
        ({"b1": np.full(16, np.nan)}, "'b1': expected finite numbers"),
        ({"b1": np.full(16, "yes")}, "'b1': expected finite numbers"),
    ],
)
def test_masks_that_do_not_fit(tmp_path: Path, arrays: dict[str, Array], message: str) -> None:
    np.savez(tmp_path / "masks.npz", **arrays)
    with pytest.raises(PassError) as error:
        apply(conv_chain(), [ApplyMask(masks=str(tmp_path / "masks.npz"))])
    assert str(error.value) == f"apply-mask: masks = {str(tmp_path / 'masks.npz')!r}: {message}"


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\x03\x04broken"])
def test_a_file_that_holds_no_masks(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.npz").write_bytes(content)
    with pytest.raises(OptionError, match="m.npz': expected an .npz file of arrays, as numpy.savez writes it"):
        apply(conv_chain(), [ApplyMask(masks=str(tmp_path / "m.npz"))])
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(OptionError, match="one.npy': expected an .npz file"):
        apply(conv_chain(), [ApplyMask(masks=str(tmp_path / "one.npy"))])
    with pytest.raises(OptionError, match="none.npz': no such file"):
        apply(conv_chain(), [ApplyMask(masks=str(tmp_path / "none.npz"))])


def test_a_mask_plan_for_another_model_is_refused() -> None:
    for name, shape in (("elsewhere", (2,)), ("w1", (3, 3))):
        plan = MaskPlan(masks={name: Mask.of(np.zeros(shape, bool))})
        with pytest.raises(PassError, match=f"mask '{name}': the model has no constant of that name and shape"):
            RandomPrune().apply(mlp(), plan)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomPrune(sparsity=1.0), "random-prune: sparsity = 1.0: expected `float` < 1.0"),
        (lambda: PruneSlices(axis="both"), "prune-slices: axis = 'both': expected a number, or one of out, in"),  # type: ignore[arg-type]
        (
            lambda: PruneSlices(norm="l3"),  # type: ignore[arg-type]
            "prune-slices: norm = 'l3': expected a number, or one of l1, l2, inf, random",
        ),
        (lambda: PruneBlocks(block=(0, 1)), "prune-blocks: block = (0, 1): expected `int` >= 1"),
        (lambda: PruneBlocks(block=(4,)), "prune-blocks: block = (4,): expected `array` of length 2, got 1"),  # type: ignore[arg-type]
        (lambda: PruneNOfM(n=4, m=4), "prune-n-of-m: n = 4: expected less than m = 4"),
        (lambda: PruneNOfM(n=0), "prune-n-of-m: n = 0: expected `int` >= 1"),
    ],
)
def test_options_are_checked(make: object, message: str) -> None:
    with pytest.raises(OptionError) as error:
        make()  # type: ignore[operator]
    assert str(error.value).startswith(message)
