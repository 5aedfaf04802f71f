import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.errors import DataError, OptionError
from onnxcompress.runtime.session import open_session
from onnxcompress.runtime.user_code import load_function
from onnxcompress.samples.inputs import find_layout, model_inputs
from onnxcompress.samples.random_values import example_feed
from onnxcompress.samples.samples import load_samples

DYNAMIC = "g (float[N,3] image) => (float[N,3] y) { y = Relu(image) }"
FIXED = "g (float[4,3] image) => (float[4,3] y) { y = Relu(image) }"
TOKENS = "g (int64[batch,tokens] ids) => (int64[batch,tokens] y) { y = Identity(ids) }"
VOICE = (
    "g (float[?,?] audio, float[2,?,5] state, int64 sr) => (float[?,?] y, float[2,?,5] s, int64 r) "
    "{ y = Relu(audio) s = Relu(state) r = Identity(sr) }"
)


def rows(count, start=0):
    return np.arange(start * 3, (start + count) * 3, dtype=np.float32).reshape(count, 3)


def sizes(samples, size=None):
    return [len(feeds["image"]) for feeds in samples.batches(size)]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_file_with_labels(parse, tmp_path, save):
    save(tmp_path / "d.npz", image=rows(70), labels=np.arange(70))
    samples = load_samples(str(tmp_path / "d.npz"), parse(DYNAMIC))
    assert (samples.count, samples.description, samples.random) == (70, "d.npz", False)
    assert sizes(samples) == [32, 32, 6]
    np.testing.assert_array_equal(samples.labels, np.arange(70))
    np.testing.assert_array_equal(samples.arrays()["image"], rows(70))


def test_stored_arrays_are_mapped(parse, tmp_path):
    np.savez(tmp_path / "d.npz", image=rows(4))
    feeds = next(load_samples(tmp_path / "d.npz", parse(DYNAMIC)).batches())
    assert isinstance(feeds["image"].base, np.memmap)


def test_a_fortran_ordered_array_reads_the_same(parse, tmp_path):
    np.savez(tmp_path / "d.npz", image=np.asfortranarray(rows(4)))
    np.testing.assert_array_equal(load_samples(tmp_path / "d.npz", parse(DYNAMIC)).arrays()["image"], rows(4))


def test_a_folder_whose_files_differ_in_shape(parse, tmp_path):
    for name, shape in (("b", (3, 5)), ("a", (2, 4)), ("c", (1, 5))):
        np.savez(tmp_path / f"{name}.npz", ids=np.zeros(shape, np.int64))
    samples = load_samples(tmp_path, parse(TOKENS))
    assert [feeds["ids"].shape for feeds in samples.batches()] == [(2, 4), (4, 5)]
    assert samples.description == f"{tmp_path.name}/ (3 .npz files)"
    with pytest.raises(DataError, match="shapes differ between samples"):
        samples.arrays()


def test_a_function_is_called_anew(parse, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\ndef feed():\n    for i in range(3):\n"
        "        yield {'image': np.full((2, 3), i, np.float32), 'labels': np.array([i, i])}\n"
    )
    samples = load_samples(f"{file}:feed", parse(DYNAMIC))
    assert samples.known_count is None
    assert sizes(samples, 4) == sizes(samples, 4) == [4, 2]
    assert (samples.count, samples.known_count, samples.description) == (6, 6, "mine.py:feed")
    assert samples.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_python_kinds(parse):
    model = parse(DYNAMIC)
    for data in ({"image": rows(4)}, [{"image": rows(2)}, {"image": rows(2, 2)}], lambda: [{"image": rows(4)}]):
        np.testing.assert_array_equal(load_samples(data, model).arrays()["image"], rows(4))
    samples = load_samples({"image": rows(4)}, model_inputs(model))
    assert load_samples(samples, model) is samples


def test_random_is_marked_seeded_and_fits(parse):
    samples = load_samples("random", parse(VOICE), seed=3)
    assert samples.random
    assert samples.description == "random"
    again = load_samples("random", parse(VOICE), seed=3).arrays()
    for name, array in samples.arrays().items():
        np.testing.assert_array_equal(array, again[name])
    for feeds in samples.batches(4):
        assert feeds["audio"].shape == (4, 16)
        assert feeds["state"].shape == (2, 4, 5)
        assert feeds["sr"] in (0, 1)


def test_layout_finds_batch_axes(parse):
    def axes(text):
        layout = find_layout(model_inputs(parse(text)))
        return [item.batch_axis for item in layout.inputs], layout.fixed_batch

    assert axes(VOICE) == ([0, 1, None], None)
    assert axes(FIXED) == ([0], 4)
    assert axes("g (float[1,2] a, float[2,1] s) => (float[1,2] y) { y = Relu(a) }") == ([0, None], 1)
    assert axes("g (int64[b,t] a, int64[t] p) => (int64[b,t] y) { y = Add(a, p) }") == ([0, None], None)


def test_example_feed_runs_and_skips_inputs_with_defaults(parse):
    model = parse("g (float[N,3] x, float[3] w) => (float[N,3] y) <float[3] w = {1,2,3}> { y = Mul(x, w) }")
    feed = example_feed(model)
    assert list(feed) == ["x"]
    assert open_session(model).run(feed)["y"].shape == (1, 3)


def test_shared_inputs_go_into_every_batch(parse):
    data = {"audio": np.zeros((5, 7), np.float32), "state": np.ones((2, 1, 5), np.float32), "sr": np.array(8000)}
    feeds = list(load_samples(data, parse(VOICE)).batches(2))
    assert [f["state"].shape for f in feeds] == [(2, 2, 5), (2, 2, 5), (2, 1, 5)]
    assert all(f["sr"] == 8000 for f in feeds)


def test_a_fixed_batch_counts_what_it_leaves_out(parse):
    samples = load_samples({"image": rows(10)}, parse(FIXED))
    assert sizes(samples, 3) == [4, 4]
    assert (samples.count, samples.dropped) == (10, 2)
    assert sizes(samples.head(1)) == [4]
    with pytest.raises(DataError, match="0 samples asked for; at least 1 is needed"):
        samples.head(0)
    with pytest.raises(DataError, match="the model takes 4 samples at a time, there are 3"):
        list(load_samples({"image": rows(3)}, parse(FIXED)).batches())


def test_a_model_whose_inputs_have_no_axes(parse):
    model = parse("g (float a) => (float y) { y = Relu(a) }")
    samples = load_samples([{"a": np.float32(1)}, {"a": np.float32(2)}], model)
    assert samples.count == 2
    assert [float(feeds["a"]) for feeds in samples.batches()] == [1, 2]


def test_an_input_called_labels_is_an_input(parse):
    model = parse("g (float[N,3] x, int64[N] labels) => (float[N,3] y) { y = Relu(x) }")
    samples = load_samples({"x": rows(2), "labels": np.zeros(2, np.int64)}, model)
    assert samples.labels is None
    assert set(next(samples.batches())) == {"x", "labels"}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 7), st.integers(1, 40))
def test_batches_keep_every_sample_in_order(parse, pieces, size, n):
    if not sum(pieces):
        return
    starts = np.cumsum([0, *pieces])
    data = [{"image": rows(c, s), "labels": np.arange(s, s + c)} for c, s in zip(pieces, starts, strict=False)]
    samples = load_samples(data, parse(DYNAMIC)).head(n)
    batches = list(samples.labelled(size))
    total = min(n, sum(pieces))
    np.testing.assert_array_equal(np.concatenate([b.feeds["image"] for b in batches]), rows(total))
    np.testing.assert_array_equal(np.concatenate([b.labels for b in batches]), np.arange(total))
    assert all(b.count == size for b in batches[:-1])
    assert (samples.count, samples.dropped) == (total, 0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 40), st.integers(0, 9))
def test_head_and_tail_are_the_two_parts(parse, pieces, n, skip):
    total = sum(pieces)
    if total <= skip + n:
        return
    starts = np.cumsum([0, *pieces])
    data = [{"image": rows(c, s), "labels": np.arange(s, s + c)} for c, s in zip(pieces, starts, strict=False)]
    samples = load_samples(data, parse(DYNAMIC)).tail(skip)
    np.testing.assert_array_equal(samples.head(n).labels, np.arange(skip, skip + n))
    np.testing.assert_array_equal(samples.tail(n).labels, np.arange(skip + n, total))
    np.testing.assert_array_equal(samples.tail(n).arrays()["image"], rows(total - skip - n, skip + n))
    with pytest.raises(DataError, match="there are no samples in it"):
        samples.tail(total).arrays()


BAD = [
    (
        {"imgae": rows(1), "more": rows(1)},
        r"data: model input 'image' is missing; there are: imgae, more; did you mean 'imgae'\?; "
        r"the model takes image: float32 \[N, 3\]; for example np.savez",
    ),
    ({"image": rows(1), "extra": rows(1)}, r"data: array 'extra' is no input of the model \(inputs: image\)"),
    ({"image": rows(1).astype(complex)}, r"input 'image': expected float32, got complex128"),
    ({"image": rows(1)[0, :2]}, r"input 'image': expected 2 axes \[N, 3\], got shape \[2\]"),
    ({"image": rows(1)[:, :2]}, r"input 'image': expected shape \[N, 3\], got \[1, 2\]"),
    ({"image": rows(3), "labels": np.zeros(2)}, "data: 2 labels for 3 samples"),
    ({"image": rows(3), "labels": np.array(1)}, "data: 1 labels for 3 samples"),
    ({"image": rows(0)}, "arrays: there are no samples in it"),
    ([], "arrays: there are no samples in it"),
    ([{"image": rows(1)}, {"image": rows(1), "labels": np.zeros(1)}], r"data\[1\]: labels are there, unlike before"),
    (3, "data: expected a path, .* got int"),
    ("nothing.npz", "data 'nothing.npz': no such file or folder; expected images, sound, .npz"),
    ("randm", r"data 'randm': no such file or folder; did you mean 'random'\?"),
]


@pytest.mark.parametrize(("data", "message"), BAD)
def test_bad_data_says_what_is_wrong(parse, data, message):
    with pytest.raises(DataError, match=message):
        load_samples(data, parse(DYNAMIC))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_names_the_array_and_the_sample(parse, value):
    bad = rows(5)
    bad[3, 1] = value
    message = r"data\[1\]: input 'image' holds NaN or infinity, first in sample 5"
    with pytest.raises(DataError, match=message):
        load_samples([{"image": rows(2)}, {"image": bad}], parse(DYNAMIC))


def test_inputs_that_disagree_on_the_number_of_samples(parse):
    model = parse("g (float[N,3] a, float[N,3] b) => (float[N,3] y) { y = Add(a, b) }")
    with pytest.raises(DataError, match="input 'b' has 3 samples, 'a' has 4"):
        load_samples({"a": rows(4), "b": rows(3)}, model)


def test_a_sequence_input_cannot_be_fed(parse):
    model = parse("g (seq(float[2]) s) => (int64 n) { n = SequenceLength(s) }")
    with pytest.raises(DataError, match="model input 's' is a SequenceType; only tensors can be fed"):
        load_samples("random", model)


def test_files_that_are_no_npz(parse, tmp_path):
    model = parse(DYNAMIC)
    (tmp_path / "junk.npz").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"junk\.npz: no \.npz file, or truncated"):
        load_samples(tmp_path / "junk.npz", model)
    np.savez(tmp_path / "cut.npz", image=rows(100))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:300])
    with pytest.raises(DataError, match=r"cut\.npz: no \.npz file, or truncated"):
        load_samples(tmp_path / "cut.npz", model)
    np.savez(tmp_path / "objects.npz", image=np.array([{}], dtype=object))
    with pytest.raises(DataError, match=r"objects\.npz: array 'image': holds Python objects"):
        load_samples(tmp_path / "objects.npz", model)
    (tmp_path / "d.pdf").write_text("1,2")
    with pytest.raises(DataError, match=r"d\.pdf': expected images, sound, \.npz, .* or 'random'; docs/samples\.md"):
        load_samples(tmp_path / "d.pdf", model)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"the folder holds no samples; expected images"):
        load_samples(tmp_path / "empty", model)


FUNCTIONS = """
def fails(): raise ValueError('no disk')
def fails_later():
    yield {'image': __import__('numpy').zeros((1, 3), 'float32')}
    raise KeyError('gone')
def no_dict(): return [1]
def nothing(): return []
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", "data function mine.py:fails failed: ValueError: no disk"),
        ("fails_later", "data function mine.py:fails_later failed after 1 dicts: KeyError: 'gone'"),
        ("no_dict", "data function mine.py:no_dict: item 0 is a int, not a dict of arrays"),
        ("nothing", "mine.py:nothing: there are no samples in it"),
    ],
)
def test_a_function_that_fails_is_named(parse, tmp_path, name, message):
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    with pytest.raises(DataError, match=message):
        load_samples(f"{tmp_path / 'mine.py'}:{name}", parse(DYNAMIC)).arrays()


def test_user_code_errors(tmp_path):
    (tmp_path / "good.py").write_text("value = 3\ndef feed(): return []\n")
    (tmp_path / "bad.py").write_text("import no_such_module_here\n")
    (tmp_path / "cut.py").write_text("def feed(:\n")
    for spec, message in [
        ("good.py", "data 'good.py': expected file.py:function or module:function"),
        (f"{tmp_path}/gone.py:feed", "gone.py: no such file"),
        (f"{tmp_path}/good.py:fed", r"has no function 'fed'; did you mean 'feed'\?"),
        (f"{tmp_path}/good.py:value", "'value' is a int, not a function"),
        (f"{tmp_path}/bad.py:feed", "bad.py fails when it is run: ModuleNotFoundError: No module named"),
        (f"{tmp_path}/cut.py:feed", "cut.py fails when it is run: SyntaxError"),
        ("no_such_module_here:feed", "no module named 'no_such_module_here' can be imported"),
    ]:
        with pytest.raises(OptionError, match=message):
            load_function(spec, "data")
    assert load_function("math:sqrt", "data")(4) == 2
    assert not [name for name in sys.modules if name.startswith("onnxcompress_user_bad")]


def test_gathered_samples_of_one_shape_come_together(parse):
    random = np.random.default_rng(0)
    lengths = random.integers(1, 4, 30)
    feeds = [{"ids": np.full((1, n), i), "labels": np.array([i])} for i, n in enumerate(lengths)]
    samples = load_samples(feeds, parse(TOKENS))
    batches = list(samples.head(25).gathered().labelled(4))
    assert sorted(int(i) for batch in batches for i in batch.labels) == list(range(25))
    for batch in batches:
        assert [set(row) for row in batch.feeds["ids"]] == [{i} for i in batch.labels]
        assert {lengths[i] for i in batch.labels} == {batch.feeds["ids"].shape[1]}
        assert list(batch.labels) == sorted(batch.labels)
    counts = Counter(lengths[:25])
    assert len(batches) == sum(-(-n // 4) for n in counts.values())
    in_order = [int(i) for batch in samples.labelled(4) for i in batch.labels]
    assert in_order == list(range(30))


def test_gathered_samples_that_come_in_batches(parse):
    """Open batches of several shapes, of as many pieces each, are told apart."""
    shapes = [(2, 3), (2, 5), (5, 7), (2, 5), (1, 3), (3, 7)]
    feeds = [{"ids": np.full(shape, i)} for i, shape in enumerate(shapes)]
    batches = [feed["ids"] for feed in load_samples(feeds, parse(TOKENS)).gathered().batches(4)]
    assert [batch.shape for batch in batches] == [(4, 7), (4, 5), (4, 7), (3, 3)]
    assert [batch[:, 0].tolist() for batch in batches] == [[2] * 4, [1, 1, 3, 3], [2, 5, 5, 5], [0, 0, 4]]
