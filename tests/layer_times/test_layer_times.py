"""Times of layers: micro-models, tables of this machine and others, estimates, and the time of a model as their sum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from command_line import call
from corpus.convolutions import bottleneck, conv_chain, depthwise, flatten_to_gemm, grouped

from onnxcompress import measure
from onnxcompress.channels.groups import find_groups
from onnxcompress.channels.remove import remove
from onnxcompress.channels.widths import Widths
from onnxcompress.errors import DataError, OptionError
from onnxcompress.layer_times import layer_times
from onnxcompress.layer_times.layer_times import LayerTimes
from onnxcompress.layer_times.micro import Case, micro_model, time_cases
from onnxcompress.layer_times.model_time import candidate_widths, model_time
from onnxcompress.layer_times.signature import Signature
from onnxcompress.layer_times.table import Table, blank_table, read_table, write_table
from onnxcompress.runtime.session import open_session

CONV = Signature("Conv", (1, 0, 12, 12), (3, 3), (("pads", (1, 1, 1, 1)),))
DEPTHWISE = Signature("Conv", (1, 0, 12, 12), (3, 3), (("pads", (1, 1, 1, 1)),), 0)
TRANSPOSED = Signature("ConvTranspose", (1, 0, 12), (2,), (("strides", (2,)),), output_first=False)
GEMM = Signature("Gemm", (1, 0), (), (("transB", 1),))
MATMUL = Signature("MatMul", (1, 7, 0), output_first=False)


@pytest.fixture(autouse=True)
def _layers_are_measured(_time_only_a_moment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_times, "LEAST_MACS", 10_000)


@pytest.mark.parametrize(
    ("case", "shape"),
    [
        (Case(CONV, 5, 7), (1, 1, 12, 12)),
        (Case(DEPTHWISE, 6, 6), (1, 1, 12, 12)),
        (Case(TRANSPOSED, 3, 4), (1, 1, 24)),
        (Case(GEMM, 5, 7), (1, 7)),
        (Case(MATMUL, 5, 7), (1, 7, 7)),
    ],
)
def test_a_micro_model_runs_and_its_layer_is_timed(case: Case, shape: tuple[int, ...]) -> None:
    made, feed = micro_model(case)
    assert next(iter(open_session(made).run(feed).values())).shape == shape
    assert time_cases([case], threads=1)[0] > 0


def test_a_layer_of_more_work_takes_longer() -> None:
    small, large = time_cases([Case(CONV, 8, 8), Case(CONV, 256, 256)], threads=1)
    assert large > 5 * small


MODELS = {m.__name__: m for m in (conv_chain, bottleneck, depthwise, flatten_to_gemm, grouped)}


@pytest.mark.parametrize("made", MODELS.values(), ids=MODELS)
def test_widths_are_those_of_the_removal(made) -> None:
    subject = made()
    groups = find_groups(subject)
    widths = Widths(groups)
    gone = {g.name: list(range(g.size // 2)) for g in groups.prunable}
    kept = widths.counts({g.name: g.size - g.size // 2 for g in groups.prunable})
    small = subject.clone()
    remove(small, find_groups(small), gone)
    after = {value.name: value.const_value.shape.numpy() for value in small.graph.initializers.values()}
    for name, value in subject.graph.initializers.items():
        sizes = [widths.of(value, axis, extent).at(kept) for axis, extent in enumerate(value.const_value.shape.numpy())]
        if name in after and value.dtype == ir.DataType.FLOAT:
            assert tuple(sizes) == tuple(after[name])


def counted(signature: Signature, pairs: list[tuple[int, int]], cost=lambda i, o: float(-(-i // 8) * -(-o // 8))):
    table = Table(machine="elsewhere")
    table.layers[str(signature)] = {f"{i}>{o}": cost(i, o) for i, o in pairs}
    return LayerTimes(table, measuring=False)


def test_times_between_measured_ones_are_products_of_what_was_measured_along_the_axes() -> None:
    steps = range(8, 65, 8)
    times = counted(CONV, [*((i, 64) for i in steps), *((64, o) for o in steps)])
    assert times.of(CONV, 24, 64) == 24
    assert times.of(CONV, 24, 16) == pytest.approx(3 * 2)
    assert times.of(CONV, 28, 64) == pytest.approx(28)
    assert times.of(CONV, 0, 64) == 0


def test_the_time_of_a_model_is_that_of_its_layers_and_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_times, "LEAST_MACS", 0)
    groups = find_groups(conv_chain(64, 64))
    times = LayerTimes(Table(machine="elsewhere", rest=0.0), measuring=False)
    parts = model_time(groups, times)
    for site in parts.sites:
        found = times.table.layers.setdefault(str(site.signature), {})
        found |= {f"{i}>{o}": float(i * o) for i in (site.inputs.full, 32) for o in (site.outputs.full, 32)}
    expected = sum(site.inputs.full * site.outputs.full for site in parts.sites)
    assert parts.costs.total(parts.widths.full) == expected
    half = parts.widths.counts({groups.prunable[0].name: 32})
    changed = [s for s in parts.sites if 0 in (*s.inputs.numbers, *s.outputs.numbers)]
    assert changed
    lost = sum(s.inputs.full * s.outputs.full - s.inputs.at(half) * s.outputs.at(half) for s in changed)
    assert parts.costs.total(half) == expected - lost


@pytest.mark.parametrize("size", [1, 3, 8, 16, 24, 96, 384, 2048])
def test_candidates_are_few_and_hold_the_width_itself(size: int) -> None:
    found = candidate_widths(size)
    assert found[-1] == size
    assert len(found) <= 65
    assert len({width % 16 for width in found if size >= 256 and width < size}) <= 1


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    made = measure(conv_chain(64, 64), tmp_path / "table.json")
    assert read_table(tmp_path / "table.json") == made
    assert sum(map(len, made.layers.values())) > 4
    assert made.is_from_here()
    read = LayerTimes.read(tmp_path / "table.json")
    assert read.is_here
    assert "read from a table" in read.notes()[0]


def test_a_table_of_another_machine_is_estimated_from_and_said(tmp_path: Path) -> None:
    table = blank_table()
    table.machine = "a phone"
    write_table(table, tmp_path / "phone.json")
    times = LayerTimes.read(tmp_path / "phone.json")
    times.prepare([Case(CONV, 64, 64)])
    assert not times.is_here
    assert not table.layers
    assert times.of(CONV, 64, 64) > 0
    assert times.notes() == (
        "times of layers were read from a table of a phone, cpu, 1 thread, which is not this machine with this "
        "onnxruntime; 1 of the times that were asked for are not in it, and were estimated",
    )


def test_what_cannot_be_measured_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_times, "time_cases", refuse)
    times = LayerTimes(blank_table())
    times.prepare([Case(CONV, 64, 64)])
    assert (times.measured, times.missing) == (0, 1)
    assert np.isfinite(times.of(CONV, 64, 64))


def test_the_command_writes_a_table_and_apply_reads_it(tmp_path: Path) -> None:
    ir.save(conv_chain(64, 64), tmp_path / "m.onnx")
    made = call("measure", tmp_path / "m.onnx", "--table", tmp_path / "t.json")
    assert (made.exit_code, "times of" in made.stdout) == (0, True)
    again = call("measure", tmp_path / "m.onnx", "--table", tmp_path / "t.json")
    assert (again.exit_code, "exists already" in again.stderr) == (2, True)
    read = call("apply", tmp_path / "m.onnx", "--dry-run", "-p", "shrink", "--table", tmp_path / "t.json")
    assert read.exit_code == 0
    missing = call("apply", tmp_path / "m.onnx", "--dry-run", "-p", "shrink", "--table", tmp_path / "gone.json")
    assert (missing.exit_code, missing.stderr.count("\n")) == (2, 1)


def refuse(*args, **options):
    from onnxcompress.errors import ModelError

    raise ModelError("no kernel")


def test_bad_tables_and_options_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "no.json").write_text("{}")
    with pytest.raises(DataError, match=r"no\.json: no table of times: .*machine.*onnxcompress measure"):
        read_table(tmp_path / "no.json")
    with pytest.raises(DataError, match=r"gone\.json: No such file .*onnxcompress measure"):
        read_table(tmp_path / "gone.json")
    with pytest.raises(OptionError, match="expected threads >= 1 and seconds > 0, got 0 and 60"):
        measure(conv_chain(), threads=0)
