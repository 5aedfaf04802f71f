"""What the documentation shows, runs."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import call
from corpus.decoders import genai_folder, grouped
from corpus.topologies import mlp

from onnxcompress import apply

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(), re.S)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.S)


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda p: p.name)
def test_commands_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that holds what a clone holds, and a language model, one after another."""
    for name in ("models", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    genai_folder(tmp_path / "llama_genai", grouped())
    monkeypatch.chdir(tmp_path)
    for command in commands(page):
        program, *arguments = shlex.split(command, comments=True)
        assert program == "onnxcompress"
        done = call(*arguments)
        assert done.exit_code == command.endswith("# ends with 1"), (command, done.output)
        assert done.output, command


def mapped() -> list[str]:
    """The lines that stand for other tools' functions."""
    table = (ROOT / "docs" / "prune.md").read_text().split("## From other tools")[1].split("## ")[0]
    return re.findall(r"`(-p [^`]+)`", table)


@pytest.mark.parametrize("line", mapped())
def test_what_stands_for_other_tools_runs(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, kind in (("masks", bool), ("scores", float)):
        values = np.arange(64 * 9).reshape(64, 1, 3, 3) > 8  # the first channel goes
        np.savez(f"{name}.npz", **{"stem.weight": values.astype(kind)})
    out = [] if "--dry-run" in line else ["-o", "out.onnx"]
    result = call("apply", ROOT / "models" / "digits.onnx", *shlex.split(line), *out)
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "out.onnx").exists() == bool(out)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_blocks_compile(page: Path) -> None:
    for block in python_blocks(page):
        compile(block, page.name, "exec")


def test_the_example_pass_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "example_pass.py").write_text(python_blocks(ROOT / "docs" / "passes.md")[0])
    monkeypatch.syspath_prepend(tmp_path)
    example = importlib.import_module("example_pass")
    _, report = apply(mlp(), [example.ClipWeights(deviations=1.0)])
    assert len(report.steps[0].done) == 3
    assert report.steps[0].done[0].what.startswith("clipped at ")


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_files_that_are_named_are_there(page: str) -> None:
    named = re.findall(r"`((?:\w+/)+[\w.]*|\w+\.(?:py|md|toml))`", (ROOT / page).read_text())
    assert len(named) > 30
    assert [name for name in named if name != "__init__.py" and not (ROOT / name).exists()] == []


def test_the_guide_shows_the_recipe_that_is_there() -> None:
    shown = re.search(r"```toml\n(.*?)\n\n#", (ROOT / "docs" / "guide.md").read_text(), re.S)
    assert shown is not None
    assert shown.group(1).strip() == (ROOT / "docs" / "recipe.toml").read_text().strip()
