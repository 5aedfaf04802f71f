"""Where sessions run: names, options, what is not there, and that what checks a rewrite stays on the CPU."""

from __future__ import annotations

import types

import numpy as np
import pytest
from command_line import call, make_data, make_model
from onnxruntime import SessionOptions

import onnxcompress
from onnxcompress.errors import NoRuntimeError, OptionError
from onnxcompress.passes import Quantize, Shrink
from onnxcompress.runtime import installed, provider, session
from onnxcompress.runtime.provider import Provider, on_cpu, running, running_on
from onnxcompress.runtime.saturation import products_saturate
from onnxcompress.targets import elsewhere, load_target, local_target, target_names


class FakeSession:
    """Stands for an InferenceSession; notes what it is asked for."""

    def __init__(self, places, started):
        self.places, self.started = places, started

    def get_providers(self):
        return self.started


@pytest.fixture
def has(monkeypatch):
    """Let onnxruntime have providers that are not here."""

    def pretend(*names):
        real = installed.import_onnxruntime()
        monkeypatch.setattr(real, "get_available_providers", lambda: [*names, "CPUExecutionProvider"])

    return pretend


def test_the_cpu_is_where_sessions_run_unless_something_is_said(has):
    has("OpenVINOExecutionProvider")
    assert running() == Provider("cpu")
    with running_on("openvino"):
        assert running().full_name == "OpenVINOExecutionProvider"
        with running_on(None):
            assert running().name == "openvino"
        with running_on(Provider("CPU", custom_ops=())):
            assert running().is_cpu
    assert running() == Provider("cpu")


def test_options_and_what_a_command_line_gives(has):
    has("OpenVINOExecutionProvider")
    found = Provider.parse("openvino", ["device_type=CPU", "cache_dir=/tmp/a=b"])
    assert found.options == (("device_type", "CPU"), ("cache_dir", "/tmp/a=b"))
    assert found.describe() == "openvino (device_type=CPU, cache_dir=/tmp/a=b)"
    places = session._places(found, SessionOptions())
    assert places == [("OpenVINOExecutionProvider", dict(found.options)), "CPUExecutionProvider"]
    with running_on(found):
        assert (on_cpu().name, on_cpu().options) == ("cpu", ())


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        (("cdua",), OptionError, "provider 'cdua': unknown; did you mean 'cuda'[?]; here there is cpu$"),
        (("cuda",), NoRuntimeError, r"provider 'cuda': .* does not have it, only cpu; pip install .*\[gpu\]"),
        (("coreml",), NoRuntimeError, "provider 'coreml': .* does not have it, only cpu$"),
        (("cpu", ["threads"]), OptionError, "--provider-option 'threads': expected KEY=VALUE"),
        (("cpu", ["threads=2"]), OptionError, "provider 'cpu' takes no options, got threads"),
        (("cpu", [], ["none.so"]), OptionError, "--custom-ops none.so: no such file"),
    ],
)
def test_what_is_not_there_is_one_sentence(has, given, kind, message):
    has()
    with pytest.raises(kind, match=message):
        Provider.parse(*given)


def test_a_provider_that_does_not_start_is_never_replaced_in_silence():
    cuda = Provider("cuda", (("device_id", "0"),))
    session._check_started(FakeSession([], ["CUDAExecutionProvider", "CPUExecutionProvider"]), cuda)
    with pytest.raises(NoRuntimeError, match=r"provider 'cuda \(device_id=0\)': .*cannot start it on this machine"):
        session._check_started(FakeSession([], ["CPUExecutionProvider"]), cuda)


def test_a_library_that_is_none(tmp_path, parse):
    library = tmp_path / "lib.so"
    library.write_bytes(b"none")
    model = parse("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    with (
        running_on(Provider(custom_ops=(str(library),))),
        pytest.raises(OptionError, match="lib.so: onnxruntime cannot"),
    ):
        session.open_session(model)


def test_passes_are_measured_there_and_checked_on_the_cpu(tmp_path, monkeypatch, has):
    has("OpenVINOExecutionProvider")
    seen = []

    def places(chosen, options):
        seen.append(chosen.name)
        return ["CPUExecutionProvider"]

    monkeypatch.setattr(session, "_places", places)
    monkeypatch.setattr(session, "_check_started", lambda inner, chosen: None)
    monkeypatch.setattr(session.Session, "taken", lambda self, chosen: (1, 3))
    model = make_model(tmp_path / "m.onnx")
    data = dict(np.load(make_data(tmp_path / "d.npz")))
    _, report = onnxcompress.apply(model, [Shrink()], data=data, provider="openvino")
    assert report.provider == "openvino"
    assert "openvino runs 1 of 3 nodes of the original and 1 of 3 nodes of the result" in report.notes
    assert {"cpu", "openvino"} <= set(seen)
    assert seen[0] == "cpu"  # the verifier
    onnxcompress.compare(model, model, data)
    assert seen[-1] == "cpu"
    seen.clear()
    onnxcompress.bench([model], seconds=0.01, provider=Provider("openvino"))
    assert seen == ["openvino"]


def test_a_provider_of_another_kind():
    with pytest.raises(OptionError, match="provider: expected a name or a Provider, got int"):
        onnxcompress.bench(["m.onnx"], provider=3)


def test_every_command_that_runs_models_takes_it(tmp_path):
    model, data = make_model(tmp_path / "m.onnx"), make_data(tmp_path / "d.npz")
    commands = [
        ["apply", model, "-p", "shrink", "--dry-run"],
        ["compare", model, model, "--data", data],
        ["sensitivity", model, "--data", data],
        ["bench", model],
    ]
    for command in commands:
        result = call(*command, "--provider", "cdua")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "did you mean 'cuda'?" in result.stderr
    assert call("bench", model, "--provider", "cpu", "--json").exit_code == 0


def test_extras_and_names_go_together():
    assert set(provider.EXTRAS) <= set(provider.PROVIDERS)


@pytest.mark.parametrize(
    ("name", "target"),
    [("openvino", "openvino"), ("cuda", "onnxruntime-gpu"), ("tensorrt", "tensorrt"), ("qnn", "qnn"), ("rocm", None)],
)
def test_quantize_is_for_the_provider_unless_told(has, name, target):
    here = local_target()
    has(provider.PROVIDERS[name])
    with running_on(name):
        assert local_target() == (target or here)
        assert elsewhere([None, target]) is None
        assert elsewhere(["onnxruntime-cpu", target]) == "onnxruntime-cpu"
        assert not products_saturate()
    assert elsewhere([None, here]) is None
    assert target is None or elsewhere([None, target]) == target


def test_targets_name_providers_that_there_are():
    named = [each for name in target_names() for each in load_target(name).providers]
    assert set(named) <= set(provider.PROVIDERS)


def test_a_model_for_another_engine_is_not_called_slow_here(tmp_path):
    data = dict(np.load(make_data(tmp_path / "d.npz")))
    model = make_model(tmp_path / "m.onnx")
    _, report = onnxcompress.apply(model, [Quantize(target="openvino")], data=data)
    assert report.not_faster is None
    assert "Made for openvino: its time on cpu here is not the time there" in report.notes


class Plugin:
    """Stands for onnxruntime beside a package that brings a provider of its own."""

    def __init__(self, *, broken=False):
        self.known, self.broken, self.loaded = ["CPUExecutionProvider"], broken, []

    def get_available_providers(self):
        return self.known

    def register_execution_provider_library(self, name, path):
        if self.broken:
            raise RuntimeError("no such\nlibrary")
        self.known.append(name)
        self.loaded.append(path)


@pytest.fixture
def plugin(monkeypatch):
    def install(runtime):
        package = types.SimpleNamespace(get_library_path=lambda: "libqnn.so")
        monkeypatch.setattr(provider, "import_onnxruntime", lambda: runtime)
        monkeypatch.setattr(provider, "find_spec", lambda name: name == "onnxruntime_qnn" or None)
        monkeypatch.setattr(provider, "import_module", {"onnxruntime_qnn": package}.__getitem__)
        provider._load_plugins.cache_clear()
        return runtime

    yield install
    provider._load_plugins.cache_clear()


def test_a_provider_that_is_a_package_of_its_own_is_registered_once(plugin):
    runtime = plugin(Plugin())
    assert provider.available() == ["cpu", "qnn"]
    assert provider.available() == ["cpu", "qnn"]
    assert runtime.loaded == ["libqnn.so"]


def test_a_plugin_that_does_not_load_is_one_warning(plugin):
    plugin(Plugin(broken=True))
    with pytest.warns(UserWarning, match="^onnxruntime_qnn cannot be loaded: no such library$"):
        assert provider.available() == ["cpu"]


def test_a_plugin_is_given_its_device(monkeypatch):
    device = types.SimpleNamespace(ep_name="QNNExecutionProvider")
    given = []
    options = types.SimpleNamespace(
        add_session_config_entry=lambda *entry: None, add_provider_for_devices=lambda *all_: given.append(all_)
    )
    real = installed.import_onnxruntime()
    monkeypatch.setattr(real, "get_ep_devices", lambda: [types.SimpleNamespace(ep_name="CPUExecutionProvider"), device])
    assert session._places(Provider("qnn", (("backend_type", "htp"),)), options) is None
    assert given == [([device], {"backend_type": "htp"})]


def test_libraries_of_cuda_are_looked_for_quietly(monkeypatch, capsys):
    called = []
    runtime = types.SimpleNamespace(preload_dlls=lambda: (called.append(1), print("no cudnn")))
    monkeypatch.setattr(provider, "import_onnxruntime", lambda: runtime)
    provider.load_cuda.cache_clear()
    provider.load_cuda()
    provider.load_cuda()
    provider.load_cuda.cache_clear()
    assert called == [1]
    assert capsys.readouterr().out == ""
