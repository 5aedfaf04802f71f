"""The page in a real browser: its script runs, nothing is wider than a telephone, and it looks as it should.

Screenshots go to ``$SCREENSHOTS``, where that is set, for people to look at.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from corpus.evidence import hostile
from test_report import report as usual

from onnxcompress.details import Layer
from onnxcompress.evaluation.preview import preview

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]

PROBE = """<script>
const wide = [...document.querySelectorAll("main *")].filter((each) => {
  const box = each.getBoundingClientRect();
  return !each.closest(".scroll, svg") && box.width && box.right > document.documentElement.clientWidth + 0.5;
});
const table = document.querySelector("table.layers"), input = table.closest("section").querySelector("input");
const shown = () => [...table.tBodies[0].rows].filter((row) => !row.hidden);
const names = () => shown().map((row) => row.cells[0].textContent).join();
const head = [...table.tHead.rows[0].cells].find((each) => each.textContent === "Bytes");
const found = {wide: wide.map((each) => each.outerHTML.slice(0, 80)).join(" / "), given: names()};
head.querySelector("button").click(); found.largest = names();
head.querySelector("button").click(); found.smallest = names();
head.querySelector("button").click(); found.again = names();
input.value = "mul"; input.dispatchEvent(new Event("input")); found.mul = names();
found.ink = getComputedStyle(document.body).color;
found.width = innerWidth;
for (const [key, value] of Object.entries(found)) document.documentElement.setAttribute(`data-found-${key}`, value);
</script></body>"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BROWSER, reason="no Chromium is installed here: no browser opens the page"),
]


def browse(folder: Path, *options: str, page: Path) -> str:
    """Open a page in a browser that knows nothing yet."""
    profile = folder / "profile"
    shutil.rmtree(profile, ignore_errors=True)
    command = [BROWSER, *QUIET, f"--user-data-dir={profile}", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A page with all its parts, and a script beside ours that looks at it."""
    report = hostile("a_name_without_a_single_place_to_break_" * 4)
    report.notes, report.trials = usual().notes, report.trials * 3
    report.stages, report.metric = usual().stages, "top1"
    report.layers = [Layer("conv", "Conv", bytes=9, bytes_after=30), Layer("mul", "Mul", bytes=7, bytes_after=10)]
    report.layers.append(Layer("gemm_" * 30, "Gemm", bytes=7, bytes_after=20, milliseconds=1.0, sqnr=20.0))
    image = np.random.default_rng(0).random((1, 3, 32, 32), np.float32)
    report.worst[0].inputs[:] = [
        preview("image", image),
        preview("sound", np.sin(np.arange(9000, dtype="f") / 99)[None]),
    ]
    file = tmp_path / "page.html"
    text = re.sub("script-src 'sha256-[^']*'", "script-src 'unsafe-inline'", report.to_html())
    file.write_text(text.replace("</body>", PROBE), encoding="utf-8")
    return file


def found(dom: str) -> dict[str, str]:
    return dict(re.findall(r' data-found-(\w+)="([^"]*)"', dom))


def test_the_page_works_on_a_telephone(page: Path, tmp_path: Path) -> None:
    dom = browse(tmp_path, "--dump-dom", "--window-size=400,900", page=page)
    assert 'data-ready=""' in dom, "our own script ran to its end"
    seen = found(dom)
    assert int(seen["width"]) <= 500, "browsers have a least width"
    assert seen["wide"] == ""
    gemm = "gemm_" * 30
    assert seen["given"] == seen["again"] == f"conv,mul,{gemm}"
    assert seen["largest"] == f"conv,{gemm},mul"
    assert seen["smallest"] == f"mul,{gemm},conv"
    assert seen["mul"] == "mul"


def test_the_page_is_dark_where_the_system_is(page: Path, tmp_path: Path) -> None:
    light = found(browse(tmp_path, "--dump-dom", page=page))
    dark = found(browse(tmp_path, "--dump-dom", "--blink-settings=preferredColorScheme=0", page=page))
    ink = [sum(map(int, re.findall(r"\d+", seen["ink"])[:3])) for seen in (light, dark)]
    assert ink[0] < 200 < 600 < ink[1]


def test_pictures_are_taken_and_it_prints(page: Path, tmp_path: Path) -> None:
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    dark = "--blink-settings=preferredColorScheme=0"
    for name, options in {
        "light.png": ["--window-size=1100,3000"],
        "dark.png": ["--window-size=1100,3000", dark],
        "narrow.png": ["--window-size=400,4000"],
    }.items():
        browse(tmp_path, f"--screenshot={folder / name}", *options, page=page)
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    browse(tmp_path, f"--print-to-pdf={folder / 'page.pdf'}", "--no-pdf-header-footer", dark, page=page)
    pdf = (folder / "page.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and len(pdf) > 10_000
