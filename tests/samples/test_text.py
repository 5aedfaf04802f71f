"""Lines, columns and pairs of text become tokens; what else the model takes is filled."""

from __future__ import annotations

import json
import sys

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from onnxcompress.errors import DataError, OptionError
from onnxcompress.samples.data import Data
from onnxcompress.samples.samples import load_samples

BERT = (
    "g (int64[N,T] input_ids, int64[N,T] attention_mask, int64[N,T] token_type_ids) => (int64[N,T] y) "
    "{ z = Add(input_ids, attention_mask) y = Add(z, token_type_ids) }"
)
FIXED = BERT.replace("[N,T]", "[N,6]")
CACHED = (
    "g (int64[N,T] input_ids, int64[N,P] attention_mask, int64[N,T] position_ids, float[N,2,past_length,4] "
    "past_key_values_0_key, bool[1] use_cache_branch) => (int64[N,T] y) { y = Add(input_ids, position_ids) }"
)
STRINGS = "g (string[N,1] text) => (string[N,1] y) { y = Identity(text) }"
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "b", "c", "d"]


@pytest.fixture
def place(tmp_path):
    """A folder with a tokenizer whose words are letters."""
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    pair = "[CLS] $A [SEP] $B:1 [SEP]:1"
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", pair, [("[CLS]", 1), ("[SEP]", 2)])
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def ids(samples) -> list[list[int]]:
    return [row for feed in samples.batches() for row in feed["input_ids"].tolist()]


def test_lines_of_their_own_lengths(parse, place):
    (place / "lines.txt").write_text("a b\n\nc\nd x\n")
    samples = load_samples(place / "lines.txt", parse(BERT))
    assert ids(samples) == [[1, 6, 2], [1, 4, 5, 2], [1, 7, 3, 2]]
    feeds = list(samples.batches())
    assert [feed["attention_mask"].tolist() for feed in feeds] == [[[1] * 3], [[1] * 4] * 2]
    assert samples.count == 3
    assert samples.notes == [f"text: tokenizer.json of {place.name}/, 512 tokens at most"]
    assert ids(load_samples(Data(place / "lines.txt", length=3), parse(BERT))) == [[1, 4, 2], [1, 6, 2], [1, 7, 2]]


def test_a_fixed_length_is_filled_and_cut(parse, place):
    (place / "lines.txt").write_text("a\na b c d a b c d\n")
    samples = load_samples(place / "lines.txt", parse(FIXED))
    (feed,) = samples.batches()
    assert feed["input_ids"].tolist() == [[1, 4, 2, 0, 0, 0], [1, 4, 5, 6, 7, 2]]
    assert feed["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0], [1] * 6]
    assert samples.notes == [f"text: tokenizer.json of {place.name}/, 6 tokens at most, padded to 6"]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_tables_of_pairs_with_labels(parse, place, kind):
    rows = [{"premise": "a", "hypothesis": "b c", "label": "no"}, {"premise": "d", "hypothesis": "c b", "label": "yes"}]
    path = place / f"pairs.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    elif kind == "parquet":
        pyarrow = pytest.importorskip("pyarrow", reason="needs the extra datasets")
        pytest.importorskip("pyarrow.parquet")
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        join = {"csv": ",", "tsv": "\t"}[kind].join
        path.write_text("\n".join([join(rows[0]), *(join(row.values()) for row in rows)]))
    samples = load_samples(path, parse(BERT))
    (feed,) = samples.batches()
    assert feed["input_ids"].tolist() == [[1, 4, 2, 5, 6, 2], [1, 7, 2, 6, 5, 2]]
    assert feed["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 1]] * 2
    assert samples.labels.tolist() == [0, 1]
    (place / "config.json").write_text('{"label2id": {"yes": 0, "no": 5}}')
    assert load_samples(path, parse(BERT)).labels.tolist() == [5, 0]
    own = Data(path, columns={"text": "hypothesis", "labels": "premise"})
    assert ids(load_samples(own, parse(BERT))) == [[1, 5, 6, 2], [1, 6, 5, 2]]


def test_which_column_is_asked_where_it_is_not_plain(parse, place):
    (place / "t.csv").write_text("one,two,label\na,b,1\n")
    with pytest.raises(
        DataError, match=r"t\.csv: which column is the text: one, two\? Name it with --columns text=..."
    ):
        load_samples(place / "t.csv", parse(BERT))
    with pytest.raises(DataError, match=r"t\.csv: no column 'ones'; did you mean 'one'\?; there are: one, two, label"):
        load_samples(Data(place / "t.csv", columns={"text": "ones"}), parse(BERT))
    with pytest.raises(DataError, match="names a pair and no text"):
        load_samples(Data(place / "t.csv", columns={"pair": "one"}), parse(BERT))
    assert ids(load_samples(Data(place / "t.csv", columns={"text": "two"}), parse(BERT))) == [[1, 5, 2]]


def test_caches_are_empty_and_positions_count(parse, place):
    (place / "lines.txt").write_text("a b\nc d\n")
    samples = load_samples(place / "lines.txt", parse(CACHED))
    (feed,) = samples.batches()
    assert feed["past_key_values_0_key"].shape == (2, 2, 0, 4)
    assert feed["position_ids"].tolist() == [[0, 1, 2, 3]] * 2
    assert feed["use_cache_branch"].tolist() == [False]
    said = "inputs that the samples lack are filled with what is neutral, empty or 0: position_ids and 2 more"
    assert said in samples.notes


def test_a_model_that_takes_text_as_it_is(parse, place):
    (place / "lines.txt").write_text("a b\nc\n")
    assert load_samples(place / "lines.txt", parse(STRINGS)).arrays()["text"].tolist() == [["a b"], ["c"]]


def test_a_table_of_tokens(parse, tmp_path):
    rows = [{"input_ids": [1, 2], "label": 0}, {"input_ids": [3], "label": 1}, {"input_ids": [4, 5], "label": 2}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = parse("g (int64[N,T] input_ids, int64[N,T] token_type_ids) => (int64[N,T] y) { y = Identity(input_ids) }")
    samples = load_samples(tmp_path / "t.jsonl", model)
    assert ids(samples) == [[1, 2], [4, 5], [3]]
    assert samples.labels.tolist() == [0, 2, 1]


def test_what_cannot_be_read(parse, place, tmp_path_factory, monkeypatch):
    (place / "lines.txt").write_text("a\n")
    (place / "bad.txt").write_bytes(b"\xff\xfe\x00a")
    (place / "bad.jsonl").write_text('{"text": "a"}\n\n{"text": \n')
    (place / "list.jsonl").write_text('{"text": "a"}\n[1]\n')
    (place / "holes.jsonl").write_text('{"text": "a"}\n{"other": "b"}\n')
    (place / "ragged.csv").write_text("text,label\na,1\nb\n")
    (place / "junk.json").write_text("{}")
    (place / "empty.csv").write_text("")
    model = parse(BERT)
    for name, message in {
        "bad.txt": r"bad\.txt: is no UTF-8 text \(byte 0\)",
        "bad.jsonl": r"bad\.jsonl: line 3 is no JSON",
        "list.jsonl": r"list\.jsonl: line 2 is a list",
        "holes.jsonl": r"holes\.jsonl: a row has nothing in column 'text': \{'other': 'b'\}",
        "ragged.csv": r"ragged\.csv: line 3 has 1 cells; expected 2",
        "empty.csv": r"empty\.csv: is empty",
    }.items():
        with pytest.raises(DataError, match=message):
            load_samples(place / name, model).arrays()
    for asked, message in {"gone.json": "no such file", place / "junk.json": r"no tokenizer\.json"}.items():
        with pytest.raises(OptionError, match=message):
            load_samples(Data(place / "lines.txt", tokenizer=asked), model)
    alone = tmp_path_factory.mktemp("alone") / "lines.txt"
    alone.write_text("a\n")
    with pytest.raises(DataError, match=r"text needs the model's tokenizer: put its tokenizer\.json beside the model"):
        load_samples(alone, model)
    assert ids(load_samples(Data(alone, tokenizer=place), model)) == [[1, 4, 2]]
    with pytest.raises(
        DataError, match=r"text cannot be fed: no input takes the numbers of tokens; the model takes x: f"
    ):
        load_samples(alone, parse("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"))
    extra = "g (int64[N,T] input_ids, float[N,8] encoder) => (int64[N,T] y) { y = Identity(input_ids) }"
    with pytest.raises(DataError, match="text cannot be fed: 'encoder' would be missing"):
        load_samples(place / "lines.txt", parse(extra))
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(DataError, match=r"tokens need tokenizers, which .*: pip install 'onnxcompress\[text\]'"):
        load_samples(place / "lines.txt", model)


def test_tables_of_numbers(parse, tmp_path):
    model = parse("g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }")
    (tmp_path / "t.csv").write_text("a,b,c,target\n1,2,3,0\n4,5,6.5,1\n")
    samples = load_samples(tmp_path / "t.csv", model)
    assert samples.arrays()["x"].tolist() == [[1, 2, 3], [4, 5, 6.5]]
    assert samples.labels.tolist() == [0, 1]
    (tmp_path / "bare.csv").write_text("1,2,3\n4,5,6\n")
    assert load_samples(tmp_path / "bare.csv", model).arrays()["x"].tolist() == [[1, 2, 3], [4, 5, 6]]
    (tmp_path / "t.jsonl").write_text('{"x": [1, 2, 3], "y": 4}\n{"x": [4, 5, 6], "y": 5}\n')
    samples = load_samples(tmp_path / "t.jsonl", model)
    assert (samples.arrays()["x"].tolist(), samples.labels.tolist()) == ([[1, 2, 3], [4, 5, 6]], [4, 5])
    two = parse("g (float[N,1] age, string[N,1] kind) => (float[N,1] y) { y = Relu(age) }")
    (tmp_path / "two.csv").write_text("years,kind\n3,x\n4,y\n")
    feeds = load_samples(Data(tmp_path / "two.csv", columns={"age": "years"}), two).arrays()
    assert {name: array.tolist() for name, array in feeds.items()} == {"age": [[3], [4]], "kind": [["x"], ["y"]]}
    (tmp_path / "words.csv").write_text("a,b,c\n1,2,3\n4,x,6\n")
    with pytest.raises(DataError, match=r"words\.csv: row 1 and on: column 'b'"):
        load_samples(tmp_path / "words.csv", model).arrays()
    with pytest.raises(
        DataError, match=r"no columns for the model's inputs; the model takes age: .*--columns INPUT=COLUMN"
    ):
        load_samples(tmp_path / "t.csv", two)
    (tmp_path / "more").mkdir()
    for name in ("a.csv", "b.csv"):
        (tmp_path / "more" / name).write_text("1,2,3\n")
    with pytest.raises(DataError, match=r"more: holds 2 tables \(a\.csv, b\.csv, …\); give one of them"):
        load_samples(tmp_path / "more", model)


def test_junk_is_no_parquet(parse, place):
    pytest.importorskip("pyarrow.parquet", reason="needs the extra datasets")
    (place / "junk.parquet").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"junk\.parquet: no Parquet file, or truncated"):
        load_samples(place / "junk.parquet", parse(BERT)).arrays()


@pytest.mark.slow
def test_saved_datasets(parse, place):
    datasets = pytest.importorskip("datasets", reason="needs the extra datasets")
    from PIL import Image

    rows = {"text": ["a b", "c d"], "label": [1, 0]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(place / "set"))
    samples = load_samples(place / "set", parse(BERT))
    assert (ids(samples), samples.labels.tolist()) == ([[1, 4, 5, 2], [1, 6, 7, 2]], [1, 0])
    datasets.DatasetDict({"test": datasets.Dataset.from_dict(rows)}).save_to_disk(str(place / "both"))
    with pytest.raises(DataError, match=r"both/: holds 1 splits; give one, such as --data .*/both/test"):
        load_samples(place / "both", parse(BERT))
    assert len(ids(load_samples(Data(place / "both" / "test", tokenizer=place), parse(BERT)))) == 2
    images = {"image": [Image.new("RGB", (8, 8), color) for color in ("red", "blue")], "label": [3, 4]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    found = datasets.Dataset.from_dict(images, features=features)
    found.save_to_disk(str(place / "images"))
    found.to_parquet(str(place / "images.parquet"))
    model = parse("g (uint8[N,8,8,3] image) => (uint8[N,8,8,3] y) { y = Identity(image) }")
    for name in ("images", "images.parquet"):
        samples = load_samples(place / name, model)
        np.testing.assert_array_equal(samples.arrays()["image"][:, 0, 0], [[255, 0, 0], [0, 0, 255]])
        assert samples.labels.tolist() == [3, 4]


def test_a_tokenizer_with_more_tokens_than_the_embedding_has_rows_is_refused(place):
    (place / "lines.txt").write_text("a b\n")
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (int64[N, T] input_ids) => (float[N, T, 1] y) <float[7, 1] table = {0, 0, 0, 0, 0, 0, 0}> {
        y = Gather(table, input_ids)
    }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    with pytest.raises(DataError, match=r"has 8 tokens, and the embedding 'table' has 7 rows; give the tokenizer"):
        load_samples(place / "lines.txt", model)
