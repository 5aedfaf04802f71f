"""What a command is about to write, held against all that it reads, before any work starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

from .contract import Pass
from .errors import OutputError
from .files import check_apart, check_target


def check_outputs(
    model: Path,
    *,
    output: Path | None = None,
    report: Path | None = None,
    read: Mapping[str, str | None],
    passes: Iterable[Pass] = (),
    overwrite: bool = False,
) -> None:
    """Raise `OutputError` if an output cannot be written, or would take the place of something that is read.

    Parameters
    ----------
    model : Path
        What is read; `output` may be the same file.
    output, report : Path, optional
        What is written.
    read : mapping
        Arguments that may name files: what they are called, and their text.
    passes : iterable of Pass
        Whose options may name files.
    overwrite : bool
        Whether what is there may be replaced.
    """
    named = dict(read)
    for step in passes:
        options = {field.name: getattr(step, field.name) for field in dataclasses.fields(step)}
        named |= {f"{key} of {step.name}": value for key, value in options.items() if isinstance(value, str)}
    both = {"-o": output, "--report": report}
    check_apart(both, {name: _file_in(text) for name, text in named.items()})
    check_apart({"--report": report}, {"MODEL": model})
    if report is not None:
        if report.suffix.lower() == ".onnx" or (output is not None and _is_data_name(report, output)):
            raise OutputError(f"--report {report}: that is the name of a model's file; a report ends in .html or .json")
        check_target(report, overwrite=overwrite)
    if output is not None:
        check_target(output, overwrite=overwrite, suffix=".onnx")
    existing = {name: path for name, path in both.items() if path is not None and path.exists()}
    if existing:
        check_apart(existing, _data_files(model))


def _file_in(text: str | None) -> Path | None:
    """Return the file that an argument names, by itself or before a colon and a function."""
    for name in (text, (text or "").rpartition(":")[0]):
        try:
            if name and Path(name).exists():
                return Path(name)
        except (OSError, ValueError):
            continue
    return None


def _data_files(model: Path) -> dict[str, Path]:
    from .graph.data_file import Replaced

    return {f"the weights of {model}": model.parent / name for name in Replaced.at(model).files}


def _is_data_name(path: Path, output: Path) -> bool:
    return path.name.startswith(f"{output.name}.") and path.name.endswith("data")
