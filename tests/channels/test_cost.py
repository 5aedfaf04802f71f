"""What the analysis costs grows with the graph: counted, not timed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from corpus.text import model

from onnxcompress.channels import dead
from onnxcompress.channels.dead import Use, find_dead, uses_of
from onnxcompress.channels.groups import find_groups
from onnxcompress.contract import Context
from onnxcompress.passes import Shrink


def chain(depth: int) -> ir.Model:
    """Channel k of a layer feeds channel k of the next alone, and of the last one nobody reads channel 0."""
    weights = {f"w{n}": np.eye(4, dtype=np.float32) for n in range(depth)} | {"end": np.ones((4, 2), np.float32)}
    weights["end"][0] = 0
    steps = " ".join(f"x{n + 1} = MatMul(x{n}, w{n})" for n in range(depth))
    text = f"chain (float[N,3] x) => (float[N,2] y) {{ x0 = MatMul(x, start) {steps} y = MatMul(x{depth}, end) }}"
    return model(text, weights | {"start": np.ones((3, 4), np.float32)})


def test_layers_that_die_one_after_the_other_are_each_looked_at_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    whole = Use.alive
    monkeypatch.setattr(dead.Use, "alive", lambda use, gone: looked.append(use) or whole(use, gone))
    for depth in (20, 40):
        looked.clear()
        groups = find_groups(chain(depth))
        found = find_dead(groups, uses_of(groups))
        assert found.channels == {group.name: [0] for group in groups.prunable}
        assert len(found.channels) == depth + 1
        assert len(looked) <= 4 * depth


def test_a_chain_of_dead_channels_goes() -> None:
    subject = chain(6)
    Shrink().apply(subject, Shrink().plan(subject, Context(subject)))
    shapes = {name: v.const_value.shape.numpy() for name, v in subject.graph.initializers.items() if v.const_value}
    assert shapes == {"start": (3, 3), **{f"w{n}": (3, 3) for n in range(6)}, "end": (3, 2)}


def test_where_a_group_stands_on_an_axis_is_found_in_its_own_labels_alone() -> None:
    """Two tensors side by side, the first one twice: index and places say the same."""
    subject = model(
        """sides (float[N,3,4,4] x) => (float[N,2,4,4] y) {
            a = Conv(x, w1) b = Conv(x, w2) c = Concat<axis=1>(a, b, a) y = Conv(c, w3)
        }""",
        {"w1": (4, 3, 1, 1), "w2": (5, 3, 1, 1), "w3": (2, 13, 1, 1)},
    )
    first, second = find_groups(subject).prunable
    on_c = {g.name: next(m for m in g.members if m.value.name == "c") for g in (first, second)}
    assert on_c["w1"].index.tolist() == [0, 1, 2, 3, -1, -1, -1, -1, -1, 0, 1, 2, 3]
    assert on_c["w2"].index.tolist() == [-1, -1, -1, -1, 0, 1, 2, 3, 4, -1, -1, -1, -1]
    positions, channels = on_c["w1"].places
    assert sorted(zip(positions.tolist(), channels.tolist(), strict=True)) == [
        *((i, i) for i in range(4)),
        *((9 + i, i) for i in range(4)),
    ]
