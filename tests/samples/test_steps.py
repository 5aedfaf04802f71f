"""A decoder's tokens are taken in steps, and come to what they come to at once."""

from __future__ import annotations

import numpy as np
import pytest
from corpus.decoders import GROUPS, HEAD, WORDS, grouped
from samples.test_random import decoder

from onnxcompress.errors import DataError
from onnxcompress.runtime.session import open_session
from onnxcompress.samples.samples import load_samples
from onnxcompress.samples.split import split

IDS = np.random.default_rng(0).integers(0, 11, (3, 12))


def test_steps_come_to_what_the_whole_comes_to():
    """Attention reads several tokens behind a cache of one sample only: samples go one by one then."""
    model = grouped()
    session, samples = open_session(model), load_samples({"input_ids": IDS}, model)
    whole = session.run(next(samples.batches()))["logits"]
    feeds = list(samples.stepwise().batches())
    assert [feed["input_ids"].shape for feed in feeds] == [(1, 9), (1, 1), (1, 2)] * 3
    assert [feed["attention_mask"].shape[1] for feed in feeds[:3]] == [9, 10, 12]
    assert [feed["past_key_values.1.value"].shape for feed in feeds[:3]] == [(1, GROUPS, n, HEAD) for n in (0, 9, 10)]
    stepped = [session.run(feed)["logits"] for feed in feeds]
    for number in range(3):
        together = np.concatenate(stepped[3 * number : 3 * number + 3], axis=1)
        np.testing.assert_allclose(together[0], whole[number], atol=1e-5)


def test_passes_see_steps_and_whole_texts_judge():
    model = grouped()
    ids = np.random.default_rng(0).integers(0, WORDS, (60, 8))
    found = split(model, {"input_ids": ids}, fits=True)
    assert found.fit is not None and found.judge is not None
    assert {feed["past_key_values.0.key"].shape[2] for feed in found.fit.batches()} == {0, 6, 7}
    assert {feed["past_key_values.0.key"].shape[2] for feed in found.judge.batches()} == {0}
    assert (found.fit.count, found.judge.count) == (48, 12)


def test_a_mask_and_positions_that_are_missing_go_on_behind_the_cache():
    model = decoder()
    model.graph.outputs[0].name = "present.0.key"
    feeds = list(load_samples({"input_ids": IDS}, model).stepwise().batches())
    assert [feed["position_ids"][0].tolist() for feed in feeds] == [list(range(9)), [9], [10, 11]]
    assert [feed["attention_mask"].shape for feed in feeds] == [(3, 9), (3, 10), (3, 12)]


def test_what_has_something_in_its_cache_is_taken_as_it_is():
    model = grouped()
    caches = {
        v.name: np.zeros((3, GROUPS, 2, HEAD), np.float32)
        for v in model.graph.inputs
        if ".0." in v.name or ".1." in v.name
    }
    given = {"input_ids": IDS[:, :1], "attention_mask": np.ones((3, 3), np.int64)} | caches
    assert [feed["input_ids"].shape for feed in load_samples(given, model).stepwise().batches()] == [(3, 1)]


@pytest.mark.parametrize("wrong", [WORDS, -WORDS - 1])
def test_ids_that_the_embedding_does_not_have_are_refused(wrong):
    ids = IDS.copy()
    ids[1, 2] = wrong
    with pytest.raises(DataError, match=f"input 'input_ids' holds {wrong} in sample 1, and 'embed', .* has 24 rows"):
        load_samples({"input_ids": ids}, grouped())
