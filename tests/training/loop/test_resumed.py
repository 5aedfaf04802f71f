"""A training that breaks off in the middle of a pruning schedule, or of integers, ends as if it had not."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpus.trainable import mlp, samples

from onnxcompress import apply
from onnxcompress.errors import TrainingError
from onnxcompress.passes import QuantizeWeights
from onnxcompress.passes.distill.keeping import KeepingPass
from onnxcompress.passes.distill.qat.masters import find_masters
from onnxcompress.passes.distill.qat.rounding import with_floats
from onnxcompress.training import CrossEntropy, Settings, process, train
from onnxcompress.training.loop.pruning import KEPT
from onnxcompress.training.loop.state import CHECKPOINT

EPOCHS, STEPS = 40, 5
PRUNE = {"final": 0.75, "frequency": 3.0, "begin": 0.1, "end": 0.9}


def killed(monkeypatch: pytest.MonkeyPatch, after: int) -> Any:
    """Return a callback that kills the worker, the first time that it has taken so many steps."""
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen
    monkeypatch.setattr(
        process.subprocess, "Popen", lambda *args, **options: started.append(real(*args, **options)) or started[-1]
    )

    def kill(_what: str, done: int, total: int) -> None:
        if total == EPOCHS * STEPS and done >= after and started[-1].poll() is None:
            os.killpg(started[-1].pid, signal.SIGKILL)

    return kill


@pytest.mark.parametrize(
    "what",
    [*(pytest.param(what, marks=pytest.mark.slow) for what in ("pruning", "integers")), "integers that are pruned"],
)
def test_it_goes_on_bit_for_bit(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, labels, _ = samples()
    start = mlp()
    if "integers" in what:
        start, _ = apply(start, [QuantizeWeights(dtype="int4", granularity="channel", minimum_size=1)])
    masters = find_masters(start)[0]
    model = with_floats(start, masters)
    step = KeepingPass(prune=PRUNE if "prun" in what else {})
    free = [name for name in model.graph.initializers if name.startswith("w")]
    how: dict[str, Any] = {
        "settings": Settings(epochs=EPOCHS, batch_size=10, learning_rate=0.01),
        "hooks": step.hooks(start, masters, free).job,
    }
    whole = train(model, inputs, CrossEntropy(labels), **how).weights
    kill = killed(monkeypatch, EPOCHS * STEPS // 2)
    with pytest.raises(TrainingError, match=r"checkpoint of epoch \d+ is in"):
        train(model, inputs, CrossEntropy(labels), **how, checkpoint=tmp_path, progress=kill)
    with np.load(tmp_path / CHECKPOINT) as kept:
        if "prun" in what:
            assert 0 < kept[KEPT].mean() < 0.75
    resumed = train(model, inputs, CrossEntropy(labels), **how, checkpoint=tmp_path).weights
    for name, array in whole.items():
        np.testing.assert_array_equal(resumed[name], array)
    for name in {*free} & {*whole}:
        if "prun" in what:
            assert np.count_nonzero(whole[name] == 0) == round(0.75 * whole[name].size)
