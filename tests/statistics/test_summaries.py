import math
from itertools import pairwise

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxcompress.errors import DataError, PassError
from onnxcompress.samples.samples import load_samples
from onnxcompress.statistics.ranges import collect_ranges
from onnxcompress.statistics.summaries import ChannelMean, Range, collect_channel_means

QUIET = {"progress": lambda _what, _done, _total: None}
CHAIN = "g (float[N,C,W] x) => (float[N,C,W] z) { y = Neg(x) z = Relu(y) }"
# Sums are exact to 2^-128: of values near the smallest floats, a relative tolerance would not hold.
finite = st.floats(-1e6, 1e6, width=32).filter(lambda value: value == 0 or abs(value) > 1e-30)


def chunks(array, cuts):
    """`array` as one dict for each stretch between the cuts."""
    edges = sorted({0, len(array), *(cut for cut in cuts if cut < len(array))})
    return [{"x": array[a:b]} for a, b in pairwise(edges)]


arrays = hnp.arrays(np.float32, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6), elements=finite)


@settings(max_examples=25, deadline=None)
@given(arrays, st.lists(st.integers(1, 5), max_size=3), st.randoms(use_true_random=False))
def test_statistics_equal_numpy_however_samples_are_split_and_ordered(parse, array, cuts, random):
    model = parse(CHAIN)
    order = list(range(len(array)))
    random.shuffle(order)
    whole = load_samples({"x": array}, model)
    split = load_samples(lambda: iter(chunks(array[order], cuts)), model)
    split.labelled = lambda size=None, inner=split.labelled: inner(size or 2)
    values = {"x": array, "y": -array, "z": np.maximum(-array, 0)}
    one, other = (collect_ranges(model, samples, list(values), **QUIET) for samples in (whole, split))
    assert one == other == {name: Range(float(v.min()), float(v.max())) for name, v in values.items()}
    keys = [(name, axis) for name in values for axis in (1, -1)]
    means, others = (collect_channel_means(model, samples, keys, **QUIET) for samples in (whole, split))
    for name, axis in keys:
        wide = np.moveaxis(np.abs(values[name].astype(np.float64)), axis, 0)
        np.testing.assert_allclose(means[name, axis].mean, wide.reshape(len(wide), -1).mean(axis=1), rtol=1e-6)
        np.testing.assert_array_equal(means[name, axis].limbs, others[name, axis].limbs)
        assert means[name, axis].count == others[name, axis].count


sums = hnp.arrays(np.float64, (6, 3), elements=st.floats(0, 3e38))


@given(sums, st.permutations(range(6)), st.integers(1, 5))
def test_channel_means_merge_exactly_in_any_order(sums, order, cut):
    one = ChannelMean.of(sums, 6)
    shuffled = sums[list(order)]
    other = ChannelMean.of(shuffled[cut:], 6 - cut).merge(ChannelMean.of(shuffled[:cut], cut))
    np.testing.assert_array_equal(one.limbs, other.limbs)
    np.testing.assert_array_equal(one.total, other.total)
    expected = [math.fsum(column) for column in sums.T.tolist()]
    np.testing.assert_allclose(one.total, expected, rtol=1e-6, atol=1e-37)


def test_range_merge():
    assert Range(-1, 2).merge(Range(0, 3)) == Range(-1, 3)


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 18, 21])
@pytest.mark.parametrize("limit", [1, 1 << 30])
def test_every_opset_and_any_number_of_lots(parse, opset, limit):
    model = parse("g (float[N,2,3] x) => (float[N,2,3] z) { y = Neg(x) z = Relu(x) }", opset)
    array = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    samples = load_samples({"x": array}, model)
    seen = []
    kwargs = {"progress": lambda *args: seen.append(args), "limit_bytes": limit}
    expected = {"x": Range(0, 23), "y": Range(-23, 0), "z": Range(0, 23)}
    assert collect_ranges(model, samples, list(expected), **kwargs) == expected
    passes = 2 if limit == 1 else 1
    assert seen[-1] == ("ranges", 4 * passes, 4 * passes)
    found = collect_channel_means(model, samples, [("y", 0), ("y", 1), ("x", 2)], **kwargs)
    np.testing.assert_array_equal(found["y", 0].mean, array.mean(axis=(1, 2)))
    np.testing.assert_array_equal(found["y", 1].mean, array.mean(axis=(0, 2)))
    np.testing.assert_array_equal(found["x", 2].mean, array.mean(axis=(0, 1)))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "bool", "float16", "double", "bfloat16"])
def test_every_type(parse, dtype):
    code = {"double": 11, "bfloat16": 16}.get(dtype) or int(ir.DataType[dtype.upper()])
    model = parse(f"g (float[N,2] x) => ({dtype}[N,2] y) {{ y = Cast<to={code}>(x) }}")
    array = np.array([[0, 1], [5, 100]], np.float32)
    samples = load_samples({"x": array}, model)
    kind = {"double": np.float64, "bfloat16": ml_dtypes.bfloat16}.get(dtype, dtype)
    expected = array.astype(kind).astype(np.float64)
    assert collect_ranges(model, samples, ["y"], **QUIET) == {"y": Range(0, expected.max())}
    np.testing.assert_array_equal(
        collect_channel_means(model, samples, [("y", 1)], **QUIET)["y", 1].mean, expected.mean(axis=0)
    )


def test_half_precision_sums_do_not_overflow(parse):
    model = parse("g (float16[N,4] x) => (float16[N,4] y) { y = Identity(x) }")
    samples = load_samples({"x": np.full((40, 4), 60000, np.float16)}, model)
    assert collect_ranges(model, samples, ["y"], **QUIET)["y"] == Range(60000, 60000)
    assert collect_channel_means(model, samples, [("y", 1)], **QUIET)["y", 1].mean.tolist() == [60000] * 4


def test_masks_of_the_lowest_float_are_no_nan(parse):
    model = parse("g (float[N,4] x) => (float[N,4] y) { y = Identity(x) }")
    low = float(np.finfo(np.float32).min)
    samples = load_samples({"x": np.full((40, 4), low, np.float32)}, model)
    assert collect_ranges(model, samples, ["y"], **QUIET)["y"] == Range(low, low)


def test_constants_are_taken_from_the_model(parse):
    model = parse(
        "g (float[N,2] x) => (float[N,2] z) <float[2,2] w = {1,-2,3,4}> "
        "{ c = Constant<value_floats=[5.0, 6.0]>() y = MatMul(x, w) z = Add(y, c) }"
    )
    samples = load_samples({"x": np.ones((3, 2), np.float32)}, model)
    found = collect_ranges(model, samples, ["w", "c", "x"], **QUIET)
    assert found == {"w": Range(-2, 4), "c": Range(5, 6), "x": Range(1, 1)}
    assert list(found) == ["w", "c", "x"]
    means = collect_channel_means(model, samples, [("w", 0), ("w", 1), ("c", 0)], **QUIET)
    assert means["w", 0].mean.tolist() == [1.5, 3.5]
    assert means["w", 1].mean.tolist() == [2, 3]
    assert means["c", 0].mean.tolist() == [5, 6]


def test_the_model_stays_as_it_was(parse):
    model = parse(CHAIN)
    before = ir.to_proto(model).SerializeToString()
    samples = load_samples({"x": np.ones((2, 2, 2), np.float32)}, model)
    collect_ranges(model, samples, ["y"], **QUIET)
    collect_channel_means(model, samples, [("y", 1)], **QUIET)
    assert ir.to_proto(model).SerializeToString() == before


def test_empty_tensors_hold_nothing(parse):
    model = parse("g (float[N,3] x) => (float[K,3] y) { a = Constant<value_ints=[0]>() y = Compress<axis=0>(x, m) }")
    nodes = list(model.graph)
    nodes[0].attributes["value_ints"] = ir.AttrInt64s("value_ints", [0])
    cast = ir.node("Cast", [nodes[0].outputs[0]], {"to": 9})
    model.graph.insert_after(nodes[0], cast)
    cast.outputs[0].name = "mask"
    nodes[1].replace_input_with(1, cast.outputs[0])
    samples = load_samples({"x": np.ones((2, 3), np.float32)}, model)
    assert collect_ranges(model, samples, ["y"], **QUIET) == {"y": Range(0, 0)}
    assert collect_channel_means(model, samples, [("y", 1)], **QUIET)["y", 1].mean.tolist() == [0, 0, 0]


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_nan_and_infinity_name_the_tensor(parse, value):
    model = parse("g (float[N,30] x) => (float[N,30] y) { y = Log(x) }")
    array = np.ones((3, 30), np.float32)
    array[1, 17] = value
    samples = load_samples({"x": array}, model)
    with pytest.raises(DataError, match="tensor 'y' holds NaN or infinity for sample 1$"):
        collect_ranges(model, samples, ["y"], **QUIET)
    with pytest.raises(DataError, match="tensor 'y' holds NaN or infinity"):
        collect_channel_means(model, samples, [("y", 1)], **QUIET)


def test_what_cannot_be_tapped(parse):
    model = parse(
        "g (bool c, float[N,2] x) => (float[N,2] y) { y = If(c) "
        "<then_branch = t () => (float[N,2] a) { a = Relu(x) }, else_branch = e () => (float[N,2] b) { b = Neg(x) }> }"
    )
    samples = load_samples({"c": np.array(True), "x": np.ones((2, 2), np.float32)}, model)
    assert collect_ranges(model, samples, ["y"], **QUIET) == {"y": Range(1, 1)}
    with pytest.raises(PassError, match="tensor 'a' lives inside the inner graph 't'"):
        collect_ranges(model, samples, ["a"], **QUIET)
    with pytest.raises(PassError, match=r"the model has no tensor 'yy'; did you mean 'y'\?"):
        collect_ranges(model, samples, ["yy"], **QUIET)
    with pytest.raises(PassError, match="tensor 'y' has 2 axes; it has no axis 2"):
        collect_channel_means(model, samples, [("y", 2)], **QUIET)


def test_an_axis_that_changes_length(parse):
    model = parse(CHAIN)
    samples = load_samples([{"x": np.ones((1, 2, w), np.float32)} for w in (3, 4)], model)
    assert collect_channel_means(model, samples, [("y", 1)], **QUIET)["y", 1].count == 7
    with pytest.raises(DataError, match="tensor 'y': axis 2 has different lengths for different samples: 3 and 4"):
        collect_channel_means(model, samples, [("y", 2)], **QUIET)


@pytest.mark.parametrize(
    ("moment", "expected"),
    [("absolute", np.abs), ("square", np.square), ("nonzero", lambda x: (x != 0).astype(np.float64))],
)
def test_every_moment_of_activations_and_constants(parse, moment, expected):
    model = parse("g (float[N,3] x) => (float[N,3] z) <float[3] w = {0,-2,3}> { y = Relu(x) z = Add(y, w) }")
    array = np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32)
    samples = load_samples({"x": array}, model)
    found = collect_channel_means(model, samples, [("y", 1), ("w", 0)], moment=moment, **QUIET)
    relu = np.maximum(array, 0).astype(np.float64)
    np.testing.assert_allclose(found["y", 1].mean, expected(relu).mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(found["w", 0].mean, expected(np.array([0.0, -2, 3])))


@pytest.mark.parametrize("moment", ["absolute", "square", "nonzero"])
def test_nan_is_found_whatever_is_averaged(parse, moment):
    model = parse("g (float[N,3] x) => (float[N,3] y) { y = Log(x) }")
    samples = load_samples({"x": np.array([[1, -1, 2]], np.float32)}, model)
    with pytest.raises(DataError, match="tensor 'y' holds NaN or infinity"):
        collect_channel_means(model, samples, [("y", 1)], moment=moment, **QUIET)


def test_squares_that_do_not_fit_are_refused(parse):
    model = parse("g (float[N,3] x) => (float[N,3] y) { y = Neg(x) }")
    samples = load_samples({"x": np.full((1, 3), 1e30, np.float32)}, model)
    with pytest.raises(DataError, match="tensor 'y' holds values too large to be squared"):
        collect_channel_means(model, samples, [("y", 1)], moment="square", **QUIET)
