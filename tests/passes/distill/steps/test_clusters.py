"""Which integers share few values."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from corpus.aware import CASES, images, teacher

from onnxcompress import apply
from onnxcompress.passes.distill.qat.masters import find_masters
from onnxcompress.passes.distill.qat.rounding import with_floats
from onnxcompress.passes.distill.steps.clusters import clusters_of


@pytest.mark.parametrize("name", CASES)
def test_integers_are_clustered_where_floats_were_and_not_for_having_few_bits(name: str) -> None:
    model = ir.from_proto(apply(teacher(), CASES[name], data={"x": images(1, 100)})[0])
    masters = find_masters(model)[0]
    found = clusters_of(with_floats(model, masters, rounded=False), list(masters), masters)
    clustered = {n for n, master in masters.items() if master.steps.ndim > 1} if "CQAT" in name else set()
    assert set(found) == clustered
