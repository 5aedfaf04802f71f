"""The union-find agrees with a naive one, and products with what they mean."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxcompress.channels.labels import Labels

SIZE = 6


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.permutations(range(SIZE))), max_size=8))
def test_joining_axes_gives_the_finest_common_classes(joins: list[tuple[int, int, list[int]]]) -> None:
    labels = Labels()
    axes = [labels.fresh(SIZE) for _ in range(4)]
    naive = {(a, p): {(a, p)} for a in range(4) for p in range(SIZE)}
    for a, b, order in joins:
        labels.join(axes[a], axes[b][:, order], "")
        for position, other in enumerate(order):
            union = naive[a, position] | naive[b, other]
            for key in union:
                naive[key] = union
    resolved = [labels.resolve(axis)[0] for axis in axes]
    for (a, p), together in naive.items():
        for b, q in naive:
            assert (resolved[a][p] == resolved[b][q]) == ((b, q) in together)


def test_a_label_against_several_becomes_their_product_everywhere() -> None:
    labels = Labels()
    d, heads, inner = labels.fresh(6), labels.fresh(2), labels.fresh(3)
    labels.join(d, np.concatenate([np.repeat(heads, 3, 1), np.tile(inner, 2)]), "")
    resolved = labels.resolve(d)
    assert resolved.T.tolist() == [[int(heads[0, p // 3]), int(inner[0, p % 3])] for p in range(6)]


def test_a_product_read_in_two_ways_stays_sound() -> None:
    """6 = 2 * 3 = 3 * 2: no factor of either survives, so that everything goes together or not at all."""
    labels = Labels()
    d, a, b, c, e = (labels.fresh(n) for n in (6, 2, 3, 3, 2))
    labels.join(d, np.concatenate([np.repeat(a, 3, 1), np.tile(b, 2)]), "")
    labels.join(d, np.concatenate([np.repeat(c, 2, 1), np.tile(e, 3)]), "")
    gone = np.zeros(labels.count, bool)
    gone[labels.resolve(a)[0, 0]] = True
    assert gone[labels.resolve(d)].any(0).all()


def test_meeting_a_fixed_position_freezes_with_the_reason() -> None:
    labels = Labels()
    axis = labels.fresh(3)
    labels.join(axis, np.array([[0, 0, 0]]), "fixed by x")
    assert set(labels.frozen().values()) == {"fixed by x"}
    assert len(labels.frozen()) == 3


def test_a_frozen_factor_leaves_the_product() -> None:
    labels = Labels()
    heads, inner = labels.fresh(2), labels.fresh(3)
    rows = np.concatenate([np.repeat(heads, 3, 1), np.tile(inner, 2)])
    labels.freeze(heads, "heads stay")
    assert labels.resolve(rows).tolist() == np.tile(inner, 2).tolist()


def test_what_is_joined_with_a_frozen_label_in_one_go_is_frozen() -> None:
    """a = b and b = c are said at once, and c is frozen: then the product a·d is d alone."""
    labels = Labels()
    a, b, c, d = (labels.fresh(1) for _ in range(4))
    labels.freeze(c, "")
    labels.join(np.concatenate([a, b], 1), np.concatenate([b, c], 1), "")
    assert labels.resolve(np.concatenate([a, d])).tolist() == d.tolist()
