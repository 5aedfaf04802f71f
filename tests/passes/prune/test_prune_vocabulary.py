"""Vocabularies: the tokens of texts stay, tied or not; scores of kept tokens are what they were."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from corpus.oracle import plain_run
from corpus.text import model

from onnxcompress import apply
from onnxcompress.errors import DataError
from onnxcompress.passes import PruneVocabulary
from onnxcompress.passes.prune.tokens.kept import of_tokenizer

SIZE, WIDTH = 20, 6
HEADS = {
    "own": ("logits = MatMul(h, w)", {"table": (SIZE, WIDTH), "w": (WIDTH, SIZE)}),
    "tied": ("t = Transpose<perm=[1,0]>(table) logits = MatMul(h, t)", {"table": (SIZE, WIDTH)}),
    "biased": ("m = MatMul(h, w) logits = Add(m, b)", {"table": (SIZE, WIDTH), "w": (WIDTH, SIZE), "b": (SIZE,)}),
}
IDS = np.array([[3, 5, 5, 7, 11], [3, 19, 7, 5, 3]])
KEPT = [3, 5, 7, 11, 19]


def subject(head: str = "own") -> ir.Model:
    text, shapes = HEADS[head]
    return model(
        f"g (int64[N,T] ids) => (float[N,T,{SIZE}] logits) {{ e = Gather(table, ids) h = Tanh(e) {text} }}", shapes
    )


def logits(of: ir.Model, ids: np.ndarray = IDS) -> np.ndarray:
    return plain_run(ir.to_proto(of), {"ids": ids})["logits"]


@pytest.mark.parametrize("head", HEADS)
def test_kept_tokens_score_as_before_and_the_others_never(head: str) -> None:
    whole = subject(head)
    small, report = apply(whole, [PruneVocabulary()], data={"ids": IDS})
    got, wanted = logits(small), logits(whole)
    np.testing.assert_allclose(got[..., KEPT], wanted[..., KEPT], rtol=1e-5, atol=1e-6)
    assert (np.delete(got, KEPT, -1) == -1e3).all()
    shapes = {name: tuple(value.shape) for name, value in small.graph.initializers.items()}
    assert shapes["table"] == (5, WIDTH)
    assert shapes.get("w", (WIDTH, 5)) == (WIDTH, 5)
    assert report.steps[0].notes == ["5 of 20 tokens stay; token 3 stands for the others"]


def test_a_list_names_the_tokens_and_others_count_as_unknown(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("5\n7\n")
    small, _ = apply(subject(), [PruneVocabulary(tokens=str(tmp_path / "ids.txt"), unknown=2)])
    other, unknown = logits(small, np.array([[9, 5]])), logits(small, np.array([[2, 5]]))
    np.testing.assert_array_equal(other, unknown)
    assert tuple(small.graph.initializers["table"].shape) == (3, WIDTH)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("25", r"holds token 25, and the table has 20 rows \(0 to 19\)"),
        ("a", "expected whole numbers"),
        ("", "no token"),
    ],
)
def test_lists_that_do_not_fit_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "ids.txt").write_text(text)
    with pytest.raises(DataError, match=said):
        apply(subject(), [PruneVocabulary(tokens=str(tmp_path / "ids.txt"))])


def test_tokenizers_keep_what_tokens_are_merged_of(tmp_path: Path) -> None:
    vocabulary = {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4, "bc": 5, "cc": 6, "<unk>": 7}
    content = {
        "model": {"vocab": vocabulary, "merges": [["a", "b"], ["ab", "c"], ["b", "c"], "c c"], "unk_token": "<unk>"},
        "added_tokens": [{"id": 7, "content": "<unk>", "special": True}],
    }
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    kept, unknown = of_tokenizer(path, np.array([4]), SIZE)
    assert (kept.tolist(), unknown) == ([0, 1, 2, 3, 4, 7], 7)
    with pytest.raises(DataError, match="holds token 7, and the table has 6 rows"):
        of_tokenizer(path, np.array([4]), 6)


def test_models_without_a_vocabulary_stay() -> None:
    plain = model("g (float[N,4] x) => (float[N,3] y) { y = MatMul(x, w) }", {"w": (4, 3)})
    _, report = apply(plain, [PruneVocabulary()], data={"x": np.zeros((2, 4), np.float32)})
    assert "it has no vocabulary" in report.steps[0].refused[0].reason
