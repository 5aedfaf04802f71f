"""The report as JSON, as a table and as a page."""

from __future__ import annotations

import doctest
import json
import math
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from onnxcompress import speed
from onnxcompress.contract import Change, Refusal
from onnxcompress.details import Layer, LayerTime, NotFaster, OperatorTime
from onnxcompress.display import page, units
from onnxcompress.evidence import Stage, Step
from onnxcompress.report import Report
from onnxcompress.speed import Speed

VOID = {"meta", "link", "br", "hr", "img"}


def report() -> Report:
    return Report(
        metric="top1",
        data="d.npz",
        samples=400,
        steps=[
            Step("prune", {"sparsity": 0.5}, [Change("w1", "4 of 8 channels zeroed")], [Refusal("head", "frozen")]),
            Step("shrink", {}, [], [Refusal(f"n{i}", "an odd <b>reason</b>") for i in range(9)]),
        ],
        stages=[
            Stage("original", 670475, 166730, 6191040, 0.995, 1.0, 0.15, 1.0),
            Stage("prune", 670475, 166730, 6191040, 0.2, 0.21, 0.15, 1.01),
            Stage("shrink", 60100, 41994, 1559520, 0.99, 0.98, 0.05, 0.33),
        ],
        layers=[Layer("a<b", "Conv", bytes=2304, bytes_after=832), Layer("bn", "Mul", bytes=1024)],
        versions={"onnx": "1.18"},
    )


class Checker(HTMLParser):
    """Notes unbalanced elements and everything that would be loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.foreign: list[str] = []
        self.wrong: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        names = dict(attrs)
        outside = "href" in names or not names.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
        self.foreign += [tag] if tag in ("link", "iframe", "object") or outside else []
        self.scripts += tag == "script"

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_units():
    assert doctest.testmod(units).failed == 0
    assert doctest.testmod(page).failed == 0
    assert doctest.testmod(speed).failed == 0


@pytest.mark.parametrize("value", [0, 1, 999, 1000, 999_949, 999_951, 10**9, 10**18, 10**21])
def test_sizes_are_short_and_right(value):
    text = units.size(value)
    number, unit = text.split()
    assert float(number) * 1000 ** ("", "k", "M", "G", "T", "P").index(unit[:-1]) == pytest.approx(value, rel=6e-3)
    assert len(number) <= 5 or value >= 10**18


def test_page_is_whole_and_needs_nothing_else():
    html = report().to_html()
    checker = Checker()
    checker.feed(html)
    assert (checker.open, checker.wrong, checker.foreign) == ([], [], [])
    assert "url(" not in html
    assert "://" not in html


def test_page_holds_everything_and_escapes_names():
    html = report().to_html()
    for text in ("11.16× smaller", "3.03× faster", "0.9900", "was 0.9950", "sparsity=0.5", "4 of 8 channels zeroed"):
        assert text in html
    assert "9 times: an odd &lt;b&gt;reason&lt;/b&gt;" in html
    assert "a&lt;b" in html
    assert "<span>832 B</span> <small>2.30 kB</small>" in html
    assert "<span>gone</span> <small>1.02 kB</small>" in html
    assert "It changed nothing." in html
    assert "onnx</dt><dd>1.18" in html


def test_page_says_that_random_data_proves_nothing():
    found = report()
    assert "Random data." not in found.to_html()
    found.random = True
    assert "Random data." in found.to_html()
    console = Console(width=100)
    with console.capture() as captured:
        console.print(found.to_table())
    assert "says nothing about the model's job" in captured.get()


def test_page_without_samples_or_passes():
    empty = Report(stages=[Stage("original", 100, 10, 0)])
    html = empty.to_html()
    assert "No samples were given" in html
    assert "There were none." in html
    assert "<svg" not in html
    assert Report().to_html()


def test_marks_lie_inside_the_drawing_and_in_order():
    chart = page.chart(report().stages)
    assert [mark.number for mark in chart.marks] == [1, 2, 3]
    for mark in chart.marks:
        assert chart.frame.left <= mark.x <= chart.frame.right
        assert chart.frame.top <= mark.y <= chart.frame.bottom
    original, pruned, shrunk = chart.marks
    assert original.x == pruned.x > shrunk.x
    assert pruned.y > shrunk.y > original.y, "up is better, and an SVG counts downwards"


def test_marks_in_the_same_place_share_a_label():
    stages = [Stage("a", 100, 1, 1, 0.9), Stage("b", 100, 1, 1, 0.9), Stage("c", 10, 1, 1, 0.9)]
    assert [mark.label for mark in page.chart(stages).marks] == ["1, 2", "", "3"]


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_what_cannot_be_drawn_is_left_out(value):
    stages = [Stage("a", 100, 1, 1, value), Stage("b", 50, 1, 1, 0.9)]
    assert page.chart(stages) is None
    assert page.chart([*stages, Stage("c", 10, 1, 1, 0.9)]) is not None


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.2, 0.995), (-3, -1), (0.9949, 0.995), (0, 3e9), (5, 5)])
def test_ticks_enclose_the_values(low, high):
    found = page.ticks(low, high)
    assert found[0] <= low
    assert found[-1] >= high
    assert 2 <= len(found) <= 7


def test_agreement_is_not_shown_twice():
    found = report()
    assert found.to_html().count("Agreement") == 2, "a tile and a column"
    found.metric = "agreement"
    assert "Agreement" not in found.to_html()
    assert len(found.to_table().renderables[-1].columns) == 7


def test_json_holds_everything():
    found = report()
    found.stages[0].metric = math.inf
    decoded = json.loads(found.to_json())
    assert decoded["stages"][0]["metric"] is None
    assert decoded["steps"][0]["refused"] == [{"subject": "head", "reason": "frozen"}]
    assert [(layer["name"], layer["bytes"], layer["bytes_after"]) for layer in decoded["layers"]][1] == ("bn", 1024, 0)


def test_table_fits_eighty_columns():
    console = Console(width=80)
    with console.capture() as captured:
        console.print(report().to_table())
    lines = captured.get().splitlines()
    assert len([line for line in lines if line.strip()]) == 2 + 2 + 3, "no row is wrapped"
    assert re.search(r"shrink +0\.9900 +0\.9800 +42\.0 k +1\.56 M +60\.1 kB", captured.get())


def test_what_costs_the_time_is_shown_where_a_quantized_model_is_not_faster():
    found = report()
    layers = [
        LayerTime(
            "a<b", "a<b_token_1", "QLinearConv", "integer", 1.0, 3.0, 0.5, 0.75, "3.0 × the time of Conv in float"
        ),
        LayerTime("q", "q", "QuantizeLinear", "conversion", None, 1.0, None, 0.25, "converts x to integers"),
    ]
    operators = [
        OperatorTime("QLinearConv", "integer", 0, 1, 0, 3.0),
        OperatorTime("QuantizeLinear", "conversion", 0, 1, 0, 1.0),
        OperatorTime("Conv", "float", 2, 0, 2.0, 0),
    ]
    found.stages[-1].time(Speed(1.25, 1.125, 1.375), 0.15)
    kinds = {"integer": 0.75, "conversion": 0.25}
    found.not_faster = NotFaster(2.0, 4.0, kinds, operators, layers)
    html = found.to_html()
    checker = Checker()
    checker.feed(html)
    assert (checker.open, checker.wrong, checker.foreign) == ([], [], [])
    console = Console(width=120)
    with console.capture() as captured:
        console.print(found.to_table())
    text = captured.get()
    for line in ("Slower than the original: 1.25 × the time (1.12 – 1.38)", "1 QLinearConv 75%"):
        assert line in html
        assert line in text
    assert re.search(r"a<b +QLinearConv +3\.00 +1\.00 +75\.0% +3\.0 × the time of Conv in float", text)
    assert '<th scope="row">a&lt;b</th>' in html
    assert json.loads(found.to_json())["not_faster"]["layers"][0]["kernel"] == "a<b_token_1"
    found.stages[-1].ratio_low = 0.99
    assert "Not faster than the original" in found.to_html()
    found.not_faster = None
    assert "than the original" not in found.to_html()


def test_options_are_shown_as_they_are_typed() -> None:
    options = {"include": (), "sparsity": 0, "target": None, "exclude": ("a", "b*"), "correct": False, "masks": ""}
    own = {"overrides": {"conv*": {"sparsity": 0.2}, "type:Gemm": {"block": (4, 1)}}}
    assert list(units.typed_options({**options, **own})) == [
        "sparsity=0",
        "exclude=a,b*",
        "correct=false",
        "overrides.conv*.sparsity=0.2",
        "overrides.type:Gemm.block=4,1",
    ]
