"""Pruned equals masked on random networks: hundreds here, thousands with `pytest -m slow`."""

from __future__ import annotations

import numpy as np
import pytest
from corpus.oracle import assert_same, drawn_feeds, plain_run
from corpus.random_graphs import random_graph
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.contract import Context
from onnxcompress.passes import MagnitudePrune, PruneChannels, Shrink


def check(seed: int) -> int:
    """Mask a random graph in one of two ways, shrink it, compare; return how many constants' elements went."""
    model = random_graph(seed)
    random = np.random.default_rng(seed)
    sparsity = float(random.choice([0.2, 0.5, 0.9]))
    prune = PruneChannels(sparsity=sparsity, importance="random") if seed % 3 else MagnitudePrune(sparsity=sparsity)
    masked = model.clone()
    prune.apply(masked, prune.plan(model, Context(model, seed=seed)))  # type: ignore[arg-type]
    small = masked.clone()
    Shrink().apply(small, Shrink().plan(masked, Context(masked)))
    feeds = drawn_feeds(model, batch=2, seed=seed)
    before, after = plain_run(masked, feeds), plain_run(small, feeds)
    assert_same(before, after, 2e-5)
    sizes = [sum(v.const_value.size for v in m.graph.initializers.values() if v.const_value) for m in (masked, small)]
    return sizes[0] - sizes[1]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**24))
def test_pruned_equals_masked_on_random_graphs(seed: int) -> None:
    check(seed)


def test_most_random_graphs_get_smaller() -> None:
    assert sum(check(seed) > 0 for seed in range(30)) > 15


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_pruned_equals_masked_on_many_more(block: int) -> None:
    for seed in range(1000 + 100 * block, 1100 + 100 * block):
        check(seed)
