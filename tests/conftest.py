"""What all tests share."""

from __future__ import annotations

import signal
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

# Started in the background (by a shell without job control, or by nohup): programs started from here would inherit that
# some signals are ignored.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, usual)

KIT = Path(__file__).parents[2] / "shared" / "kit"


@pytest.fixture(autouse=True)
def _time_only_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test asserts a latency, so a few rounds will do, and layers are as quick as they are small."""
    monkeypatch.setattr("onnxcompress.pipeline.TIMED_SECONDS", 0.0)
    monkeypatch.setattr("onnxcompress.evaluation.profile.SECONDS", 0.0)
    monkeypatch.setattr("onnxcompress.layer_times.micro.SHORT", 0.0)
    monkeypatch.setattr("onnxcompress.layer_times.layer_times.LEAST_MACS", float("inf"))
    monkeypatch.setattr("onnxcompress.layer_times.model_time.TIMED_SECONDS", 0.0)


@pytest.fixture(scope="session")
def kit() -> Path:
    """The folder of real pretrained models, where it is there."""
    if not KIT.is_dir():
        pytest.skip("the kit of real models is not here")
    return KIT


@pytest.fixture(scope="session")
def parse():
    """Make an `onnx_ir.Model` of a text model."""

    def make(text, opset=17):
        return ir.from_proto(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{text}'))

    return make
