"""Imports run one way: no circle of files, none of folders, and the core knows no pass.

The graph is drawn from the sources, so that imports inside functions and for type checkers are arrows too.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOPS = {"onnxcompress": "onnxcompress", "passes": "onnxcompress.passes"}
"""Folder → the package that it is."""

Arrows = dict[tuple[str, str], list[str]]
"""(from, to) → the lines that import."""


def files_of(root: Path) -> dict[str, str]:
    """Return module → file, for every source."""
    found = {}
    for top, package in TOPS.items():
        for path in sorted((root / top).rglob("*.py")):
            inside = path.relative_to(root / top).with_suffix("").parts
            parts = inside[:-1] if inside[-1] == "__init__" else inside
            found[".".join((package, *parts))] = path.relative_to(root).as_posix()
    return found


def imported(module: str, source: str, *, package: bool) -> Iterator[tuple[int, str, str]]:
    """Yield line, module and name of each import, wherever in the file it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            around = module.split(".")[: -(node.level - package) or None] if node.level else []
            base = ".".join([*around, *(node.module or "").split(".")]).rstrip(".")
            yield from ((node.lineno, base, alias.name) for alias in node.names)


def draw(root: Path) -> Arrows:
    """Return the arrows between files."""
    files, found = files_of(root), {}
    for module, file in files.items():
        source = (root / file).read_text(encoding="utf-8")
        for line, base, name in imported(module, source, package=file.endswith("/__init__.py")):
            target = files.get(f"{base}.{name}", files.get(base))
            if target is not None and target != file:
                found.setdefault((file, target), []).append(f"{file}:{line}")
    return found


def room(file: str) -> str:
    """Return the folder that a file is in; a file beside such folders is a room of its own."""
    parts = file.split("/")
    depth = 2 if parts[0] == "onnxcompress" else 3
    return "/".join(parts[:depth])


def between(arrows: Arrows, place: Callable[[str], str]) -> Arrows:
    """Return the arrows between the places that files are in."""
    found: Arrows = {}
    for (start, end), lines in arrows.items():
        if place(start) != place(end):
            found.setdefault((place(start), place(end)), []).extend(lines)
    return found


def circles(arrows: Arrows) -> list[str]:
    """Describe a shortest circle through each arrow that is in one, the arrow of fewest imports as what runs back."""
    after: dict[str, list[str]] = {}
    for start, end in sorted(arrows):
        after.setdefault(start, []).append(end)
    found: dict[frozenset[str], str] = {}
    for start, end in arrows:
        way = shortest(after, end, start)
        if way and not any(seen <= {*way} for seen in found):
            ring = list(zip([start, *way[:-1]], way, strict=True))
            back = min(ring, key=lambda arrow: len(arrows[arrow]))
            circle, lines = " -> ".join([start, *way]), ", ".join(arrows[back])
            found[frozenset(way)] = f"circle {circle}; what runs back: {' -> '.join(back)} ({lines})"
    return list(found.values())


def shortest(after: dict[str, list[str]], start: str, end: str) -> list[str]:
    """Return a shortest way between two places, both included; empty where there is none."""
    ways = {start: [start]}
    waiting = [start]
    for place in waiting:
        if place == end:
            return ways[place]
        for following in after.get(place, ()):
            if following not in ways:
                ways[following] = [*ways[place], following]
                waiting.append(following)
    return []


@pytest.fixture(scope="module")
def arrows() -> Arrows:
    return draw(ROOT)


def test_every_file_is_drawn(arrows: Arrows) -> None:
    assert len(files_of(ROOT)) > 200
    assert len(arrows) > 800
    assert ("passes/prune/prune_channels.py", "onnxcompress/contract.py") in arrows
    assert ("onnxcompress/report.py", "onnxcompress/display/page.py") in arrows, "an import inside a function"
    assert ("onnxcompress/display/page.py", "onnxcompress/evidence.py") in arrows, "an import for type checkers"


def test_no_circle_of_files(arrows: Arrows) -> None:
    assert circles(arrows) == []


def test_no_circle_of_folders(arrows: Arrows) -> None:
    assert circles(between(arrows, room)) == []


def test_the_core_knows_no_pass(arrows: Arrows) -> None:
    assert [
        lines for (start, end), lines in arrows.items() if not start.startswith("passes/") and "passes/" in end
    ] == []


def test_what_runs_back_is_named(tmp_path: Path) -> None:
    sources = {
        "onnxcompress/a/one.py": "from ..b import two\nfrom ..b.two import g\n",
        "onnxcompress/b/two.py": "def f():\n    from ..a.one import f\n",
        "onnxcompress/c.py": "if TYPE_CHECKING:\n    from .d import e\n",
        "onnxcompress/d/__init__.py": "from . import e\nfrom ..passes.p.q import r\n",
        "onnxcompress/d/e.py": "import onnxcompress.c\n",
        "passes/p/q.py": "",
    }
    for name, source in sources.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    found = draw(tmp_path)
    assert set(found) == {
        ("onnxcompress/a/one.py", "onnxcompress/b/two.py"),
        ("onnxcompress/b/two.py", "onnxcompress/a/one.py"),
        ("onnxcompress/c.py", "onnxcompress/d/e.py"),
        ("onnxcompress/d/__init__.py", "onnxcompress/d/e.py"),
        ("onnxcompress/d/__init__.py", "passes/p/q.py"),
        ("onnxcompress/d/e.py", "onnxcompress/c.py"),
    }
    first, second = circles(found)
    assert first.endswith("runs back: onnxcompress/b/two.py -> onnxcompress/a/one.py (onnxcompress/b/two.py:2)")
    assert "circle onnxcompress/c.py -> onnxcompress/d/e.py -> onnxcompress/c.py" in second
    assert [text.split(";")[0] for text in circles(between(found, room))] == [
        "circle onnxcompress/a -> onnxcompress/b -> onnxcompress/a",
        "circle onnxcompress/c.py -> onnxcompress/d -> onnxcompress/c.py",
    ]
