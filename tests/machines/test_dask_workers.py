"""Processes of a Dask cluster give what this process gives, to the last bit, whatever becomes of them."""

import os
import socket
import threading
import time

import numpy as np
import pytest
from command_line import call, make_data, make_model
from corpus import text
from corpus.work import adds, kills_itself_once, needs_a_file, refuses
from distributed import Client, LocalCluster

import onnxcompress
from onnxcompress import apply, load
from onnxcompress.errors import ClusterError, DataError, OptionError
from onnxcompress.machines import crew
from onnxcompress.machines import dask_workers as module
from onnxcompress.machines.dask_workers import DaskWorkers
from onnxcompress.passes import PruneChannels, Quantize
from onnxcompress.progress import silent
from onnxcompress.samples.samples import load_samples
from onnxcompress.search import trial
from onnxcompress.search.compress import compress
from onnxcompress.search.job import Job, Part, Source
from onnxcompress.statistics.gram import collect_grams
from onnxcompress.statistics.ranges import observe
from onnxcompress.statistics.summaries import collect_channel_means

NET = """net (float[N,3,8,8] x) => (float[N,4,8,8] y) {
    c = Conv<pads=[1,1,1,1]>(x, w, b)
    r = Relu(c)
    y = Add(r, c)
}"""


@pytest.fixture(scope="module")
def processes():
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as found:
        yield found


@pytest.fixture
def near():
    """A cluster whose parts are all in this process: quick to start, and easy to stop."""
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0") as found:
        yield found


@pytest.fixture(scope="module")
def net():
    model = text.model(NET, {"w": (4, 3, 3, 3), "b": (4,)})
    images = np.random.default_rng(1).standard_normal((150, 3, 8, 8), np.float32)
    return model, load_samples({"x": images}, model)


def test_statistics_are_the_same_to_the_last_bit(processes, net):
    model, samples = net
    with DaskWorkers(processes.scheduler_address) as workers:
        here, there = (
            (
                observe(model, samples, ["x", "c", "r", "y"], progress=silent, histograms=True, workers=each),
                collect_channel_means(model, samples, [("c", 1), ("y", 1)], progress=silent, workers=each),
                collect_grams(model, samples, [("c", 0, 1), ("y", 0, 1)], workers=each),
            )
            for each in (None, workers)
        )
    for name, seen in here[0].items():
        assert seen.extremes == there[0][name].extremes
        np.testing.assert_array_equal(seen.means.limbs, there[0][name].means.limbs)
        np.testing.assert_array_equal(seen.histogram.keys, there[0][name].histogram.keys)
        np.testing.assert_array_equal(seen.histogram.counts, there[0][name].histogram.counts)
    for key, seen in here[1].items():
        np.testing.assert_array_equal(seen.limbs, there[1][key].limbs)
    for key, seen in here[2].items():
        np.testing.assert_array_equal(seen.own, there[2][key].own)
    assert workers.notes == []


RECIPE = (
    PruneChannels(sparsity=0.25, importance="reconstruction"),
    Quantize(calibration="entropy", max_drop=0.02),
)


def test_a_recipe_gives_the_same_bytes_and_a_sensitivity_the_same_figures(processes, tmp_path):
    model, data = make_model(tmp_path / "m.onnx", width=16), tmp_path / "d.npz"
    values = np.random.default_rng(1).standard_normal((80, 4), np.float32)
    make_data(data, x=values, labels=np.arange(80) % 3)
    found = {}
    with DaskWorkers(processes.scheduler_address) as workers:
        for name, each in (("here", None), ("there", workers)):
            told = []
            apply(
                model,
                RECIPE,
                data=str(data),
                output=tmp_path / f"{name}.onnx",
                progress=lambda *args, told=told: told.append(args),
                workers=each,
            )
            found[name] = onnxcompress.sensitivity(model, str(data), Quantize(), workers=each)
            assert {"ranges", "grams"} <= {what for what, _, _ in told}
    assert (tmp_path / "here.onnx").read_bytes() == (tmp_path / "there.onnx").read_bytes()
    assert found["here"] == found["there"]
    assert len(found["here"].curves) == 2


def test_trials_come_out_the_same(processes, tmp_path):
    values = np.random.default_rng(1).standard_normal((80, 4), np.float32)
    source = Source({"x": values, "labels": np.arange(80) % 3})
    tester = trial.Tester(load(make_model(tmp_path / "m.onnx", width=64)), source)
    recipes = [("quantize",), ("prune-channels sparsity=0.5", "shrink"), ("prune-channels sparsity=1.5",)]
    jobs = [
        Job(number, tuple(Part(text) for text in recipe), stop_above=1.0, timed=False)
        for number, recipe in enumerate(recipes)
    ]
    with DaskWorkers(processes.scheduler_address) as workers:
        there = list(workers.map(trial.trials_of, tester.sent, jobs))
    assert there == [tester.run(job) for job in jobs]
    assert there[0].bytes > there[1].bytes > 0
    assert "sparsity" in there[2].failed


@pytest.mark.slow
def test_a_search_finds_the_same_model(processes, tmp_path):
    model, data = tmp_path / "m.onnx", tmp_path / "d.npz"
    make_model(model, width=64)
    values = np.random.default_rng(1).standard_normal((400, 4), np.float32)
    make_data(data, x=values, labels=np.arange(400) % 3)
    reports = {}
    with DaskWorkers(processes.scheduler_address) as workers:
        for name, each in (("here", None), ("there", workers)):
            _, reports[name] = compress(
                model, objective="size", data=str(data), max_drop=0.2, output=tmp_path / f"{name}.onnx", workers=each
            )
    assert (tmp_path / "here.onnx").read_bytes() == (tmp_path / "there.onnx").read_bytes()
    here, there = ([(t.recipe, t.bytes, t.drop) for t in reports[name].trials] for name in ("here", "there"))
    assert here == there
    assert len(here) > 4


def test_a_killed_worker_costs_nothing_but_time(processes, tmp_path):
    with DaskWorkers(processes.scheduler_address) as workers:
        found = list(workers.map(kills_itself_once, (str(tmp_path / "killed"),), range(12)))
        assert workers.notes == []
    assert (tmp_path / "killed").exists()
    assert [item for item, _ in found] == list(range(12))
    assert os.getpid() not in {process for _, process in found}


def test_errors_of_workers_come_in_order_and_by_their_name(near):
    with DaskWorkers(near.scheduler_address) as workers:
        found = workers.map(refuses, (3,), range(9))
        assert [next(found) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(DataError, match=r"^sample 3 is bad$"):
            next(found)
        with pytest.raises(OptionError, match=r"no such file \(on .*; files that options name must be there too\)"):
            list(workers.map(needs_a_file, (), [1]))


def test_what_is_left_is_done_here_when_the_cluster_goes(near):
    with Client(near, set_as_default=False) as client:
        workers = DaskWorkers(client)
        found = workers.map(adds, (10,), range(50))
        first = [next(found) for _ in range(3)]
        near.close()
        assert first + list(found) == list(range(10, 60))
        assert list(workers.map(adds, (1,), [1, 2])) == [2, 3]
        (note,) = workers.notes
        assert "went away, and what was left was done here" in note


def test_nobody_answers(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    start = time.monotonic()
    with pytest.raises(ClusterError, match=r"^scheduler 'tcp://127.0.0.1:9': nobody answers there: "):
        DaskWorkers("tcp://127.0.0.1:9")
    assert time.monotonic() - start < 10
    for address in ("nonsense://x", "localhost", "foo:bar"):
        with pytest.raises(OptionError, match="expected an address such as tcp://host:8786"):
            DaskWorkers(address)


def test_somebody_else_answers(monkeypatch):
    """A server that says no word of Dask's: its lengths are read as sizes of what follows."""

    def answer(server):
        with server.accept()[0] as taken:
            taken.sendall(b"HTTP/1.1 400 Bad Request" * 9)

    monkeypatch.setattr(module, "PATIENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, args=(server,))
        thread.start()
        with pytest.raises(ClusterError, match="^scheduler '.*': (what answers there is no|nobody answers)"):
            DaskWorkers(f"tcp://127.0.0.1:{server.getsockname()[1]}")
        thread.join()


def test_other_versions_are_refused(near, monkeypatch):
    with Client(near, set_as_default=False) as client:
        here = crew.describe()
        other = here._replace(versions=here.versions | {"onnxruntime": "1.0"})
        monkeypatch.setattr(client, "run", lambda *_, **__: {"tcp://far:1": other})
        with pytest.raises(ClusterError, match=r"has onnxruntime 1\.0, and here is .*; install the same"):
            DaskWorkers(client)
        monkeypatch.setattr(client, "run", lambda *_, **__: {"tcp://far:1": ImportError("No module named 'onnx'")})
        with pytest.raises(ClusterError, match="worker tcp://far:1 has no onnxcompress that runs: No module"):
            DaskWorkers(client)
        lossy = here._replace(saturates=True, name="old")
        monkeypatch.setattr(module, "products_saturate", lambda: False)
        monkeypatch.setattr(client, "run", lambda *_, **__: {"tcp://far:1": lossy})
        workers = DaskWorkers(client)
        assert workers.saturating
        assert "CPU of old loses products" in workers.notes[0]


def test_a_cluster_without_workers(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    empty = LocalCluster(n_workers=0, processes=False, dashboard_address=":0")
    no_worker = pytest.raises(ClusterError, match="the cluster has no worker")
    with empty, Client(empty, set_as_default=False) as client, no_worker:
        DaskWorkers(client)


def test_the_command_line_names_a_scheduler(near, tmp_path, monkeypatch):
    model, data = make_model(tmp_path / "m.onnx"), make_data(tmp_path / "d.npz")
    work = ("apply", model, "-o", tmp_path / "o.onnx", "-p", "quantize", "--data", data)
    done = call(*work, "--scheduler", near.scheduler_address)
    assert done.exit_code == 0, done.output
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    done = call(*work, "--overwrite", "--scheduler", "tcp://127.0.0.1:9")
    assert done.exit_code == 2
    assert "error: scheduler 'tcp://127.0.0.1:9': nobody answers there" in done.stderr
