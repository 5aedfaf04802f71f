"""Plans as files, one for each pass of a run, and back."""

from __future__ import annotations

import mmap
import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import onnx_ir as ir

from . import files, plan_json, recipe
from .contract import Changes, Pass, Plan
from .errors import OnnxCompressError, OptionError, PlanError
from .graph.written import unwritten

NAME = re.compile(r"\d+-[a-z0-9-]+\.json")
"""What plan files are called: by order and pass."""


@dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """A pass and what it decided about a model.

    Attributes
    ----------
    step : Pass
    plan : Plan
    model : str
        The fingerprint of the model that the pass got; see `onnxcompress.graph.fingerprint`.
    fitted_to : str
        What samples the pass looked at; empty where it looked at none.
    where : str
        The file that it comes from.
    """

    step: Pass
    plan: Plan
    model: str
    fitted_to: str = ""
    where: str = ""

    def of(self) -> str:
        """Return what errors call it: its file, or the pass."""
        return self.where or f"the plan of {self.step.name}"

    def carry_out(self, model: ir.Model) -> Changes:
        """Apply the plan to a model.

        Raises
        ------
        PlanError
            It comes from a file, and does not fit the model or the pass.
        """
        if not self.where:
            with unwritten(model):
                return self.step.apply(model, self.plan)
        try:
            with unwritten(model):
                return self.step.apply(model, self.plan)
        except OnnxCompressError as error:
            raise PlanError(f"{self.where}: plan: {error}") from None
        except Exception as error:
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            raise PlanError(f"{self.where}: plan: it does not fit the model: {what}") from error


class _Content(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a plan file holds; the pass is a table as in a recipe."""

    number: int
    of: int
    options: dict[str, Any] = msgspec.field(name="pass")
    model: str
    fitted_to: str = ""
    plan: msgspec.Raw


def file_names(passes: Sequence[Pass]) -> list[str]:
    """Return what the plan of each pass is called, such as ``01-prune-channels.json``."""
    digits = max(2, len(str(len(passes))))
    return [f"{number:0{digits}}-{step.name}.json" for number, step in enumerate(passes, 1)]


def write_plans(folder: str | Path, planned: Sequence[PlannedStep], *, overwrite: bool = False) -> None:
    """Write a file for each plan into a folder, which is made if it is not there.

    Raises
    ------
    OutputError
        A file exists and `overwrite` is false, or cannot be written.
    """
    folder = files.make_folder(folder)
    names = file_names([each.step for each in planned])
    for number, (name, each) in enumerate(zip(names, planned, strict=True), 1):
        content = {"number": number, "of": len(planned), "pass": recipe.step_table(each.step)}
        content |= {"model": each.model, "fitted_to": each.fitted_to, "plan": each.plan}
        files.write_pieces(folder / name, plan_json.pieces(content), overwrite=overwrite)


def read_plans(path: str | Path) -> list[PlannedStep]:
    """Read the plans of a folder, in order, or the single one of a file.

    Raises
    ------
    PlanError
        Names the file and the field: one is missing, damaged, or not in its place.
    """
    path = Path(path)
    found = plan_files(path)
    contents = [_content(file) for file in found]
    if path.is_dir():
        _check_order(path, found, contents)
    planned = [_planned(file, content) for file, content in zip(found, contents, strict=True)]
    for file, each in zip(found, planned, strict=True):
        if path.is_dir() and file.name.partition("-")[2] != f"{each.step.name}.json":
            raise PlanError(f"{file}: pass: {each.step.name}, and the file is named after another")
    return planned


def plan_files(path: str | Path) -> list[Path]:
    """Return the plan files of a folder, or the one that is named."""
    path = Path(path)
    try:
        kind = files.kind_of(path)
        if kind is None and path.exists():
            return [path]
        found = [file for file in sorted(path.iterdir()) if NAME.fullmatch(file.name)]
    except (OSError, ValueError) as error:
        raise PlanError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if not found:
        raise PlanError(f"{path}: there are no plans in it, such as 01-shrink.json")
    return found


def _content(file: Path) -> _Content:
    """Read a file as far as the plan itself; its text stays on disk."""
    try:
        with file.open("rb") as opened:
            text = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) if file.stat().st_size else b""
    except (OSError, ValueError) as error:
        raise PlanError(f"{file}: {getattr(error, 'strerror', None) or error}") from None
    return plan_json.read(text, _Content, str(file))


def _check_order(folder: Path, found: Sequence[Path], contents: Sequence[_Content]) -> None:
    """Raise `PlanError` unless these are the plans of one run, all of them, in order."""
    for number, (file, content) in enumerate(zip(found, contents, strict=True), 1):
        if content.of != contents[0].of:
            raise PlanError(f"{file}: of: {content.of}, and {found[0].name} is one of {contents[0].of}")
        if content.number > number:
            raise PlanError(f"{folder}: the plan of pass {number} of {content.of} is missing")
        if content.number < number:
            raise PlanError(f"{file}: number: {content.number}, and it is file {number} of the folder")
    if len(found) < contents[0].of:
        raise PlanError(f"{folder}: the plan of pass {len(found) + 1} of {contents[0].of} is missing")
    if len(found) > contents[0].of:
        raise PlanError(f"{found[-1]}: of: {contents[0].of}, and there are {len(found)} plans in the folder")


def _planned(file: Path, content: _Content) -> PlannedStep:
    try:
        step = recipe.make_step(content.options, f"{file}: pass")
    except OptionError as error:
        raise PlanError(str(error)) from None
    plan = plan_json.read(content.plan, plan_type(step), str(file), "plan")
    return PlannedStep(step=step, plan=plan, model=content.model, fitted_to=content.fitted_to, where=str(file))


def plan_type(step: Pass) -> type[Plan]:
    """Return the class of a pass's plans: the annotation of what its `plan` returns."""
    try:
        kind = typing.get_type_hints(step.plan).get("return")
    except NameError as error:
        raise PlanError(f"{step.name}: plans cannot be read: '{error.name}' in the annotations of `plan`") from None
    if not (isinstance(kind, type) and issubclass(kind, Plan)):
        raise PlanError(f"{step.name}: plans cannot be read: `plan` is not annotated with a subclass of Plan")
    return kind
