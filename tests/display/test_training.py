"""The curve of a training, in blocks and as drawings."""

from __future__ import annotations

import io
import re

from rich.console import Console

from onnxcompress.contract import Epoch
from onnxcompress.display.page import render
from onnxcompress.display.tables import report as table
from onnxcompress.display.training import LONGEST, blocks, drawings, summary
from onnxcompress.evidence import Evidence, Step

CURVE = [Epoch(None, 4.0, 0.5), Epoch(2.0, 3.0, 0.6), Epoch(1.0, float("nan"), 0.9)]


def test_lines_say_where_it_began_and_ended() -> None:
    assert summary(CURVE) == [
        "score, held out: ▁▂█ 0.5000 → 0.9000",
        "loss, held out: █▁ 4.0000 → 3.0000",
        "loss, trained on: █▁ 2.0000 → 1.0000",
    ]
    assert summary([]) == [] and summary(CURVE[:1]) == []
    assert len(blocks(range(1000))) <= LONGEST


def test_points_of_the_drawings_lie_where_the_values_are() -> None:
    score, loss = drawings(CURVE)
    assert (score.name, loss.name) == ("Score", "Loss")
    (line,) = score.lines
    points = [tuple(map(float, point.split(","))) for point in line.points.split()]
    frame = score.frame
    assert points == [(frame.x(i), frame.y(v)) for i, v in enumerate((0.5, 0.6, 0.9))]
    assert [len(line.points.split()) for line in loss.lines] == [2, 2]
    assert drawings([Epoch(trained=1.0)]) == []


def test_both_are_shown() -> None:
    found = Evidence(steps=[Step("distill", {}, [], [], ["a note"], CURVE)])
    page = render(found)
    assert len(re.findall("<figure", page)) == 2 and "Score by epoch" in page
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table(found))
    assert "score, held out: ▁▂█" in console.export_text()
