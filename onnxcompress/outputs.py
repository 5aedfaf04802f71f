"""What a command is about to write, held against all that it reads, before any work starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from .contract import Pass
from .errors import OutputError
from .files import check_apart, check_folder, check_suffix, check_target
from .package.folder import check_output
from .plans import NAME, file_names
from .report import FORMS
from .samples.data import as_data


def check_outputs(
    model: Path,
    *,
    output: Path | None = None,
    report: Path | None = None,
    plans: Path | None = None,
    read: Mapping[str, str | None],
    passes: Sequence[Pass] = (),
    overwrite: bool = False,
    forms: Collection[str] = FORMS,
) -> None:
    """Raise `OutputError` if an output cannot be written, or would take the place of something that is read.

    Parameters
    ----------
    model : Path
        What is read; `output` may be the same file.
    output, report : Path, optional
        What is written.
    plans : Path, optional
        The folder that gets a plan of each pass.
    read : mapping
        Arguments that may name files: what they are called, and their text.
    passes : sequence of Pass
        Whose options may name files.
    overwrite : bool
        Whether what is there may be replaced.
    forms : collection of str
        What the name of a report may end in.
    """
    named = dict(read)
    for step in passes:
        options = {field.name: getattr(step, field.name) for field in dataclasses.fields(step)}
        named |= {f"{key} of {step.name}": value for key, value in options.items() if isinstance(value, str)}
    written: dict[str, Path | None] = {"-o": output, "--report": report}
    if plans is not None:
        names = file_names(passes)
        _check_plans(plans, names, overwrite=overwrite)
        written |= {f"--plans {plans}": plans} | {f"{name} of --plans": plans / name for name in names}
    check_apart(written, {name: _file_in(text) for name, text in named.items()})
    check_apart({"--report": report}, {"MODEL": model})
    if report is not None:
        check_target(report, overwrite=overwrite)
        check_suffix(report, forms)
    if output is not None:
        check_output(model, output, overwrite=overwrite)
    existing = {name: path for name, path in written.items() if path is not None and path.exists()}
    if existing:
        check_apart(existing, _data_files(model))


def named_by(data: Any, evaluate_on: Any, metric: str | None) -> dict[str, str | None]:
    """Return the arguments of a command that may name files, for `check_outputs`."""
    read: dict[str, str | None] = {"--metric": metric}
    for name, given in {"--data": data, "--evaluate-on": evaluate_on}.items():
        if given is None:
            continue
        data = as_data(given)
        read |= {name: data.source, "--preprocess": data.preprocess, "--tokenizer": data.tokenizer}
    return read


def _check_plans(folder: Path, names: Sequence[str], *, overwrite: bool) -> None:
    """Raise `OutputError` unless a folder takes these plans, and holds none of another run."""
    check_folder(folder, f"--plans {folder}")
    if folder.exists():
        for name in names:
            check_target(folder / name, overwrite=overwrite)
        others = sorted(path.name for path in folder.iterdir() if NAME.fullmatch(path.name) and path.name not in names)
        if others:
            raise OutputError(f"--plans {folder}: holds a plan of another run ({others[0]}); give another folder")


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
