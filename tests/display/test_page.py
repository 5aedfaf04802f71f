"""What page, Markdown and notebook say: all the same, whatever the evidence, and nothing that a name asks for."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from html.parser import HTMLParser

import jsonschema
import pytest
from corpus.evidence import hostile, reports
from hypothesis import given, settings
from test_report import report as usual

from onnxcompress.contract import Refusal
from onnxcompress.details import GroupInfo, Layer, Origin, Preview
from onnxcompress.display import curves, inspected, units
from onnxcompress.evaluation.sensitivity import Point, Sensitivity
from onnxcompress.evidence import Evidence, Trial
from onnxcompress.inspection import Inspection, NodeInfo, PortInfo
from onnxcompress.report import Report

NAME = '"><img src=x onerror=alert(1)><script>alert(2)</script>{{7*7}}</style>`|[x](javascript:alert(3))\n\n# @you <b>'
NUMBER = r"([\d.]+)"


class Page(HTMLParser):
    """What a browser would run or load, and the words that it would show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.loaded: list[str] = []
        self.handlers: list[str] = []
        self.policy, self.words, self._inside = "", "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        names = dict(attrs)
        self._inside = tag if tag in ("script", "style") else ""
        self.scripts += [""] if tag == "script" else []
        self.loaded += [names[key] for key in ("src", "href", "data", "action") if key in names]
        self.loaded += [tag] if tag in ("link", "iframe", "object", "embed", "base", "form") else []
        self.handlers += [key for key in names if key.startswith("on")]
        if names.get("http-equiv") == "Content-Security-Policy":
            self.policy = names["content"]

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1] += data
        elif not self._inside:
            self.words += data


def said_of_time(text: str) -> list[tuple[str, str]]:
    """Every statement about the result's time that a page makes."""
    return re.findall(rf"{NUMBER} × the time \({NUMBER}", text)


@settings(max_examples=30, deadline=None)
@given(reports())
def test_all_that_is_said_of_time_and_size_agrees(report: Report) -> None:
    page, markdown, notebook = Page(report.to_html()), report.to_markdown(), Page(report._repr_html_())
    assert "None" not in page.words + markdown and "nan" not in page.words.replace("nothing", "")
    first, last = report.stages[0], report.stages[-1]
    grown = units.smaller(first.bytes, last.bytes)
    assert all(grown in text for text in (page.words, markdown, notebook.words))
    speed = last.speed
    if speed is None:
        assert "× the time (" not in page.words and not re.search(r"× (faster|slower)", page.words + markdown)
        return
    if speed.state == "faster":
        assert "Not faster" not in page.words
    ratios = {float(found) for found, _ in said_of_time(page.words)}
    assert ratios == {float(f"{speed.ratio:.2f}")}, "headline, tile and table of what costs the time"
    assert said_of_time(markdown)[-1][0] == f"{speed.ratio:.2f}"
    for text in (page.words, notebook.words, markdown):
        claims = {
            float(times) if way == "slower" else 1 / float(times)
            for times, way in re.findall(rf"{NUMBER}× (faster|slower)", text)
        }
        assert all(claim == pytest.approx(speed.ratio, rel=0.02) for claim in claims)
        assert bool(claims) == (speed.state in ("faster", "slower"))
        before, after = re.search(rf"{NUMBER} → {NUMBER} ms", text).groups()
        assert float(after) / float(before) == pytest.approx(speed.ratio, rel=0.02)


def test_names_are_text_and_nothing_else() -> None:
    report = hostile(NAME)
    for text in (report.to_html(), report._repr_html_(), sensitivity_page(NAME), inspection_page(NAME)):
        page = Page(text)
        assert len(page.scripts) <= 1 and not any("alert" in script for script in page.scripts)
        assert page.handlers == []
        assert page.loaded == [] or {source[:22] for source in page.loaded} == {"data:image/png;base64,"}
        assert "{{7*7}}" in page.words and "49" not in page.words
        for script in page.scripts:
            digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
            assert f"script-src 'sha256-{digest}'" in page.policy and "default-src 'none'" in page.policy
    prose = re.sub(r"\n```\n.*?\n```\n", "", report.to_markdown(), flags=re.S)
    assert "```" not in prose
    for line in prose.splitlines():
        assert not line.startswith("# ") and "@you" not in line
        assert not re.search(r"(?<!\\)<(script|img|b>|/style)", line)
        assert not re.search(r"(?<!\\)\[x", line)


def test_only_pictures_of_our_own_are_shown() -> None:
    report = hostile("x")
    report.worst[0].inputs[:] = [Preview("a", "picture", "https://example.org/a.png"), Preview("b", "picture", NAME)]
    assert Page(report.to_html()).loaded == []


def test_the_json_is_what_its_schema_says() -> None:
    validator = jsonschema.Draft202012Validator(Evidence.schema())
    jsonschema.Draft202012Validator.check_schema(Evidence.schema())
    for report in (Report(), usual(), hostile("x")):
        validator.validate(json.loads(report.to_json()))
    wrong = json.loads(usual().to_json())
    wrong["stages"][0]["bytes"] = "many"
    assert not validator.is_valid(wrong)
    assert not validator.is_valid({**json.loads(Report().to_json()), "speed": 1})


def test_trials_stand_where_their_numbers_are() -> None:
    report = usual()
    report.objective = "latency"
    report.trials = [
        Trial(0, "folds", 100, None, 10, 1.0, 0.0, 0.01, "front"),
        Trial(1, "int8", 50, None, 10, 0.5, 0.02, 0.01, "winner"),
        Trial(2, "prune", 70, None, 5, 0.75, 0.04, None, "dominated"),
        Trial(3, "broken", 0, None, 0, None, None, None, "failed", "it took too long"),
    ]
    text = report.to_html()
    marks = re.findall(r'<g class="(\w+)"><title>(\d): .*?cx="([\d.]+)" cy="([\d.]+)"', text)
    places = {int(number): (float(x), float(y)) for _, number, x, y in marks}
    assert {state for state, *_ in marks} == {"front", "winner", "dominated"}
    assert places[1][0] < places[2][0] < places[0][0], "faster is further to the left"
    assert places[0][1] < places[1][1] < places[2][1], "less lost is further up"
    assert (places[2][0] - places[1][0]) == pytest.approx(places[0][0] - places[2][0], abs=0.2)
    assert "it took too long" in text and "time over the original" in text
    report.objective = "size"
    assert "<figcaption" in report.to_html() and "bytes (right)" in report.to_html()


def test_reasons_are_gathered_over_passes() -> None:
    report = usual()
    report.steps[0].refused.append(Refusal("n9", "an odd <b>reason</b>"))
    report.frozen = [GroupInfo("a", 8, 1, "it reaches an output"), GroupInfo("b", 4, 1, "it reaches an output")]
    words = Page(report.to_html()).words
    assert "10 times: an odd <b>reason</b> (prune, shrink)" in words
    assert "2 groups, 12 channels: it reaches an output" in words


def test_pages_of_large_models_stay_below_a_megabyte() -> None:
    report, name = usual(), "/model/layers.{}/self_attn/q_proj/MatMul"
    report.layers = [
        Layer(name.format(i), "MatMul", bytes=i, bytes_after=i, macs=i, macs_after=i, precision="float16", sqnr=30.5)
        for i in range(5000)
    ]
    text = report.to_html()
    assert len(text.encode()) < 1_000_000
    assert "These are the 1000 that take most of 5000" in text
    assert name.format(4999) in text and name.format(3999) not in text
    assert len(json.loads(report.to_json())["layers"]) == 5000
    nodes = [NodeInfo(name.format(i), "MatMul", i, i) for i in range(5000)]
    groups = [GroupInfo(name.format(i), i, 2) for i in range(5000)]
    text = inspected.page(Inspection(0, 0, 0, 8, {"": 17}, [], [], nodes, groups), Origin())
    assert len(text.encode()) < 1_000_000
    assert "These are the 1000 that take most of 5000" in text


def test_markdown_is_short_and_has_the_stages() -> None:
    report = usual()
    report.origin = Origin(model="m.onnx", command="onnxcompress apply m.onnx -p shrink")
    text = report.to_markdown()
    assert text.startswith("### Compression report: m.onnx\n")
    assert "| stage | top1 | MACs | bytes | ms | time |" in text
    assert "| shrink | 0.9900 | 1.56 M | 60.1 kB | 0.0500 | 0.33 × the time (0.33 – 0.33) |" in text
    assert "**11.16× smaller** size (670.5 kB → 60.1 kB)" in text
    assert "n7 and 1 more: an odd \\<b\\>reason\\</b\\>" in text
    assert text.count("<details>") == text.count("</details>") == 2
    assert "```\nonnxcompress apply m.onnx -p shrink\n```" in text


def sensitivity_page(name: str, *, quantized: bool = True) -> str:
    points = (Point(1.0, 0.9, 0.05, 0.99, 20.0),), (Point(1.0, 0.95, 0.0, 0.99, 40.0),)
    found = Sensitivity(
        "top1", 0.95, 9, True, name, ("quantize",), name, True, (), {name: points[0], "b": points[1]}, ()
    )
    found = dataclasses.replace(found, refused=(Refusal(name, name),))
    if not quantized:
        found = dataclasses.replace(found, shares=(1.0,))
    return curves.page(found, name)


def inspection_page(name: str) -> str:
    ports, groups = [PortInfo(name, "float32", [1, name, None])], [GroupInfo(name, 8, 2, name)]
    nodes = [NodeInfo(name, "Conv", 100, 1000), NodeInfo("relu", "Relu", 0, 0), NodeInfo("loop", "Conv", 50, None)]
    found = Inspection(150, 30, 1000, 8, {"": 17, name: 1}, ports, ports, nodes, groups, groups)
    return inspected.page(found, Origin(model=name))


def test_layers_changed_alone_are_ranked_by_their_noise() -> None:
    text = sensitivity_page("a")
    rows = re.findall(r'<tr>\n<th scope="row">(\w)</th><td data-value="(\d)">', text)
    assert rows == [("a", "1"), ("b", "2")], "the noisier first"
    assert "0.0500" in text and "20.0" in text and "<svg" not in text
    assert "<svg" in sensitivity_page("a", quantized=False)


def test_a_model_is_drawn_by_its_bytes_and_its_work() -> None:
    page = Page(inspection_page("conv"))
    for words in ("150 B", "1.00 k", "Channels that can go", "1 group, 8 channels: conv", "[1, conv, ?]"):
        assert words in page.words
    nodes = [NodeInfo(f"n{i}", "Conv", 1000 - i, i) for i in range(60)]
    found = Inspection(0, 0, 0, 8, {"": 17}, [], [], nodes)
    drawn = inspected.bars(found)
    assert len(drawn) == inspected.MOST + 1
    assert sum(bar.bytes for bar in drawn) == sum(node.bytes for node in nodes)
    assert sum(bar.share_macs for bar in drawn) == pytest.approx(100)
