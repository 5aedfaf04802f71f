"""Who made a result of what, when and where, and the command that makes it again."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
import shlex
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from .details import Origin
from .display.units import typed_options
from .graph.exports import model_file
from .runtime.machine import cpu_features, machine_name
from .runtime.session import usable_cores

if TYPE_CHECKING:
    from .contract import Pass

CHUNK = 1 << 22


def find_origin(model: Any, loaded: ir.Model, command: str = "") -> Origin:
    """Describe a run that begins.

    Parameters
    ----------
    model : str, Path or any kind of model
        As the user gave it.
    loaded : onnx_ir.Model
    command : str
        What makes the result again.
    """
    path = Path(model) if isinstance(model, (str, Path)) else None
    return Origin(
        model=path.name if path else loaded.graph.name or "",
        sha256=_digest(model_file(path)) if path else "",
        producer=f"{loaded.producer_name or ''} {loaded.producer_version or ''}".strip(),
        made=_now(),
        system=f"{platform.system()} {platform.machine()}",
        processor=machine_name(),
        features=cpu_features(),
        cores=usable_cores(),
        command=command,
    )


def command_of(
    model: Any, passes: Sequence[Pass], *, data: Any, evaluate_on: Any, metric: str | None, output: Any, seed: int
) -> str:
    """Return the command line that does what `apply` was asked for; empty where none does.

    Models and samples in memory have no name that a command could take.
    """
    sources = (each for each in (data, evaluate_on) if each is not None)
    if not isinstance(model, (str, Path)) or not all(isinstance(each, (str, Path)) for each in sources):
        return ""
    words = ["onnxcompress", "apply", str(model)]
    for step in passes:
        words += ["-p", " ".join([step.name, *(shlex.quote(option) for option in typed_options(_chosen(step)))])]
    given = {"--data": data, "--evaluate-on": evaluate_on, "--metric": metric, "-o": output}
    for option, value in given.items():
        words += [option, str(value)] if value is not None else []
    return shlex.join([*words, *(["--seed", str(seed)] if seed else [])])


def _chosen(step: Pass) -> dict[str, Any]:
    """Return the options that are not at their defaults."""
    defaults = {f.name: f.default for f in dataclasses.fields(step)}
    return {name: value for name, value in step.options().items() if value != defaults[name]}


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _now() -> str:
    """Return the time; ``SOURCE_DATE_EPOCH`` stands for it where the same run has to give the same report.

    See https://reproducible-builds.org/specs/source-date-epoch/.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    moment = datetime.fromtimestamp(int(epoch), timezone.utc) if epoch.isdigit() else datetime.now(timezone.utc)
    return moment.isoformat(timespec="seconds")
