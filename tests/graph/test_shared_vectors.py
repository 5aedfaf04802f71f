"""What an exporter stored once by accident ties no layers together, and is stored once again where it stays equal."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from corpus.oracle import assert_same, drawn_feeds, plain_run
from corpus.text import model

from onnxcompress import apply
from onnxcompress.channels.groups import find_groups
from onnxcompress.graph import cost
from onnxcompress.graph.shared_vectors import separate
from onnxcompress.kinds import working_copy
from onnxcompress.passes import FoldConstants, PruneChannels, Shrink

LAYERS = """g (float[N,16] x) => (float[N,16] y) {
    a = Gemm<transB=1>(x, w1, zeros) b = Relu(a)
    c = Gemm<transB=1>(b, w2, zeros) d = Relu(c)
    e = Gemm<transB=1>(d, w3, zeros) f = LayerNormalization(e, ones, zeros)
    y = Gemm<transB=1>(f, w4, last)
}"""


def layers(*, shared: bool) -> ir.Model:
    sizes = {"w1": (16, 16), "w2": (16, 16), "w3": (16, 16), "w4": (16, 16), "last": (16,)}
    known = {"ones": np.ones(16, np.float32), "zeros": np.zeros(16, np.float32)}
    text = LAYERS
    for number in range(4 * (not shared)):
        text, known[f"zeros{number}"] = text.replace("zeros)", f"zeros{number})", 1), known["zeros"]
    return model(text, sizes | known)


def test_shared_zeros_tie_no_layers() -> None:
    steps = [PruneChannels(sparsity=0.5, round_to=1, ranking="local"), Shrink(exact=True)]
    kept = []
    for shared in (True, False):
        small, _ = apply(layers(shared=shared), steps)
        assert_same(
            plain_run(small, drawn_feeds(small)),
            plain_run(apply(layers(shared=shared), steps[:1])[0], drawn_feeds(small)),
            1e-5,
        )
        kept.append(
            {name: v.const_value.shape.numpy() for name, v in small.graph.initializers.items() if name[0] == "w"}
        )
    assert kept[0] == kept[1]
    assert kept[0]["w2"] == (8, 8)


def test_what_stays_equal_is_stored_once() -> None:
    subject = layers(shared=True)
    apart = working_copy(subject)
    assert len(apart.graph.initializers) == len(subject.graph.initializers) + 3
    assert cost.cost(apart).parameters == cost.cost(subject).parameters
    again, _ = apply(subject, [FoldConstants()])
    assert list(ir.to_proto(again).graph.node) == list(ir.to_proto(subject).graph.node)
    assert list(again.graph.initializers) == list(subject.graph.initializers)


def test_what_differs_is_stored_apart() -> None:
    small, _ = apply(layers(shared=True), [PruneChannels(include="w1", sparsity=0.5), Shrink(exact=True)])
    sizes = sorted(v.const_value.size for n, v in small.graph.initializers.items() if n.startswith("zeros"))
    assert sizes == [8, 16]


def test_matrices_stay_shared_but_those_of_one_number() -> None:
    def tied(weight: np.ndarray) -> int:
        subject = model(
            "g (int64[1,4] x) => (float[1,4,9] y) { a = Gather(w, x) t = Transpose<perm=[1,0]>(w) y = MatMul(a, t) }",
            {"w": weight},
        )
        separate(subject.graph)
        return len(subject.graph.initializers)

    assert tied(np.arange(72, dtype=np.float32).reshape(9, 8)) == 1
    assert tied(np.zeros((9, 8), np.float32)) == 2


@pytest.mark.slow
def test_norms_written_as_instance_normalisation_do_not_hang_together(kit) -> None:  # type: ignore[no-untyped-def]
    from onnxcompress.graph.load import load

    groups = find_groups(working_copy(load(kit / "structures" / "unet_dyn.onnx")))
    assert sum(group.size for group in groups.frozen) < sum(group.size for group in groups.prunable) / 8
