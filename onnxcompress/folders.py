"""Runs passes over all models of a folder, such as an encoder and its decoders, and writes them together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from . import pipeline
from .contract import Pass
from .errors import OptionError
from .package.folder import check_output, is_file_name, models_in, save_folder
from .plans import PlannedStep
from .report import Report
from .samples.data import as_data


def apply_all(
    model: Path,
    passes: Sequence[Pass] = (),
    *,
    plans: Sequence[PlannedStep] | None = None,
    output: Path | None = None,
    overwrite: bool = False,
    **options: Any,
) -> dict[str, Report]:
    """Run the same passes over each model of a folder, and write the folder; of a file, or a folder of one, do it.

    Parameters
    ----------
    model : Path
        A file, or a folder.
    passes, plans, overwrite
        As for `onnxcompress.apply`.
    output : Path, optional
        The file or folder to write. What several models have in common is stored once in it.
    **options
        As for `onnxcompress.apply`. Where ``data`` and ``evaluate_on`` are folders in which there is something named
        after each model (``encoder_model.npz``), each model gets its own.

    Returns
    -------
    dict of str to Report
        The name of each file → what was done.

    Raises
    ------
    OnnxCompressError
        As for `onnxcompress.apply`; nothing is written then.
    """
    paths = models_in(model) if model.is_dir() else [model]
    if len(paths) < 2:
        _, report = pipeline.apply(model, passes, plans=plans, output=output, overwrite=overwrite, **options)
        return {paths[0].name: report}
    if plans is not None:
        raise OptionError(f"{model}: a folder of {len(paths)} models, and plans are for one; give its file")
    if output is not None:
        check_output(model, output, overwrite=overwrite)
        if is_file_name(output):
            raise OptionError(f"{output}: {model} has {len(paths)} models; give a folder to write")
    made: dict[Path, ir.Model] = {}
    reports: dict[str, Report] = {}
    for path in paths:
        made[path], reports[path.name] = pipeline.apply(path, passes, **options | _own(options, path, paths))
    if output is not None:
        reports[paths[-1].name].stays = save_folder(made, model, output, overwrite=overwrite)
    return reports


def _own(options: dict[str, Any], path: Path, paths: Sequence[Path]) -> dict[str, Any]:
    """Return the samples that are named after a model, where there are such for each."""
    found = {}
    for name in ("data", "evaluate_on"):
        folder = None if options.get(name) is None else as_data(options[name]).path
        named = {each.stem: each for each in folder.iterdir()} if folder is not None and folder.is_dir() else {}
        if all(each.stem in named for each in paths):
            data = as_data(options[name])
            found[name] = type(data)(**{**vars(data), "source": named[path.stem]})
    return found
