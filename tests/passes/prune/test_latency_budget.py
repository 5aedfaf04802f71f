"""The latency budget, with a clock that counts multiply-accumulates; and once with a real one."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from corpus.convolutions import conv_chain

from onnxcompress import apply
from onnxcompress.channels.remove import remove
from onnxcompress.contract import Context
from onnxcompress.evaluation.timing import Timing
from onnxcompress.graph.cost import macs
from onnxcompress.passes import PruneChannels, Shrink
from onnxcompress.passes.prune.sparsity.budget import reach
from onnxcompress.passes.prune.sparsity.latency import Clock
from onnxcompress.passes.prune.sparsity.ranking import Ranker


class Counter:
    """Says that a model takes as long as it has multiply-accumulates, give or take `noise`."""

    def __init__(self, noise: float = 0.0) -> None:
        self.noise, self.asked = noise, 0
        self.longest = 0.0

    def __call__(self, one: ir.Model, other: ir.Model, seconds: float) -> Timing:
        self.asked += 1
        self.longest = max(self.longest, seconds)
        ratio = sum(macs(other).values()) / sum(macs(one).values())
        return Timing(1, 1, 1, ratio, ratio - self.noise, ratio + self.noise, 5)


def setting(round_to: int = 1) -> tuple[ir.Model, Ranker]:
    model = conv_chain(64, 64)
    return model, PruneChannels(importance="l1", round_to=round_to).ranker(Context(model))[0]


def left_of(model: ir.Model, channels: dict[str, list[int]]) -> float:
    copy = model.clone()
    remove(copy, Context(copy).groups, channels)
    return sum(macs(copy).values()) / sum(macs(model).values())


@pytest.mark.parametrize("round_to", [1, 8])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.7])
def test_the_smallest_of_128_shares_that_is_fast_enough(share: float, round_to: int) -> None:
    model, ranker = setting(round_to)
    timer = Counter()
    channels, refused = reach(ranker, Clock(model, None, timer), "latency", share)
    tried = (ranker.choose(k / 128) for k in range(1, 129))
    assert channels == next(cut for cut in tried if left_of(model, cut) <= 1 - share)
    assert refused == []
    assert timer.asked <= 8
    assert all((64 - len(gone)) % round_to == 0 for gone in channels.values())


def test_what_noise_hides_is_not_searched_for() -> None:
    model, ranker = setting()
    exact, noisy = Counter(), Counter(noise=0.02)
    reach(ranker, Clock(model, None, exact), "latency", 0.5)
    channels, _ = reach(ranker, Clock(model, None, noisy), "latency", 0.5)
    assert abs(left_of(model, channels) - 0.5) < 0.02
    assert noisy.asked < exact.asked


def test_a_noisy_machine_is_timed_longer_and_never_believed_blindly() -> None:
    model, ranker = setting()
    timer = Counter(noise=0.5)
    channels, _ = reach(ranker, Clock(model, None, timer), "latency", 0.5)
    assert timer.longest == 8
    assert abs(left_of(model, channels) - 0.5) < 0.03


def test_a_latency_out_of_reach_is_said() -> None:
    model = conv_chain(64, 64)
    ranker = PruneChannels(importance="l1", keep_at_least=32).ranker(Context(model))[0]
    channels, refused = reach(ranker, Clock(model, None, Counter()), "latency", 0.95)
    most = 1 - left_of(model, channels)
    assert {name: len(gone) for name, gone in channels.items()} == {"w1": 32, "w2": 32}
    assert [r.reason for r in refused] == [f"at most {most:.1%} of its latency can go, and 95.0% were asked for"]


def test_what_was_measured_is_said_and_channels_go() -> None:
    prune = PruneChannels(sparsity=0.3, budget="latency", round_to=8)
    _, report = apply(conv_chain(64, 64), [prune, Shrink()])
    assert report.steps[0].notes[0].startswith("without these channels it takes ")
    assert report.stages[-1].parameters < report.stages[0].parameters
