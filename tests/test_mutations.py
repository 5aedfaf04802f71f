"""Whatever is wrong in a file ends in one of our statuses and at most one line, whichever file it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from command_line import call
from corpus.mutations import base_model, mutated_model, mutated_npz, mutated_recipe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

KINDS: dict[str, tuple[str, Callable[[int], bytes], list[str]]] = {
    "model, inspected": ("m.onnx", mutated_model, ["inspect", "m.onnx"]),
    "model, linted": ("m.onnx", mutated_model, ["lint", "m.onnx", "--target", "tensorrt"]),
    "model, compressed": ("m.onnx", mutated_model, ["apply", "m.onnx", "-p", "shrink", "-o", "o.onnx", "--overwrite"]),
    "samples": ("d.npz", mutated_npz, ["compare", "ok.onnx", "ok.onnx", "--data", "d.npz"]),
    "recipe": ("r.toml", mutated_recipe, ["apply", "ok.onnx", "-r", "r.toml", "--dry-run"]),
}

fuzzing = settings(
    deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def assert_ends_in_one_line(kind: str, seed: int) -> None:
    name, make, arguments = KINDS[kind]
    Path("w.bin").write_bytes(bytes(128))
    onnx.save(base_model(), "ok.onnx")
    Path(name).write_bytes(make(seed))
    result = call(*arguments)
    assert result.exit_code in (0, 1, 2), (seed, result.stderr)
    if result.exit_code == 1 and not result.stderr:  # a verdict, such as what the linter found
        assert "rejected" in result.stdout, (seed, result.stdout)
        return
    assert result.stderr.count("\n") == (result.exit_code != 0), (seed, result.stderr)
    assert result.stderr.startswith("error: ") or not result.exit_code, (seed, result.stderr)


@pytest.mark.parametrize("kind", KINDS)
def test_files_with_something_wrong(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    @settings(fuzzing, max_examples=60)
    @given(st.integers(0, 2**32))
    def check(seed: int) -> None:
        assert_ends_in_one_line(kind, seed)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_files_with_something_wrong(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    @settings(fuzzing, max_examples=5000)
    @given(st.integers(0, 2**32))
    def check(seed: int) -> None:
        assert_ends_in_one_line(kind, seed)

    check()
