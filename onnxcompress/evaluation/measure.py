"""Measure the layers of a model at many widths, to choose widths for this machine on another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..channels.groups import find_groups
from ..errors import OptionError
from ..kinds import to_ir, working_copy
from ..layer_times.layer_times import LayerTimes
from ..layer_times.model_time import candidate_widths, learn_rest, model_time
from ..layer_times.table import Table, blank_table, write_table
from ..progress import Progress, silent

if TYPE_CHECKING:
    from ..kinds import AnyModel

SECONDS = 60.0


def measure(
    model: AnyModel,
    table: str | Path | None = None,
    *,
    threads: int = 1,
    seconds: float = SECONDS,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Table:
    """Time the layers of a model at the widths that pruning may choose from.

    Parameters
    ----------
    model : str, Path, onnx.ModelProto, onnx_ir.Model or gs.Graph
        Not changed.
    table : str or Path, optional
        Where to write the times.
    threads : int
        Threads inside one operator.
    seconds : float
        How long it may take; what is missing then is estimated by whoever reads the table.
    overwrite : bool
        Replace `table` if it exists.
    progress : callable
        Called as ``progress(what, done, total)``.

    Returns
    -------
    Table

    Raises
    ------
    ModelError
        onnxruntime cannot run the model.

    Notes
    -----
    Shen et al., HALP, arXiv:2110.10811, and Yang et al., NetAdapt, arXiv:1804.03230, choose widths by such tables.
    """
    if threads < 1 or not seconds > 0:
        raise OptionError(f"measure: expected threads >= 1 and seconds > 0, got {threads} and {seconds}")
    loaded = working_copy(to_ir(model)[0])
    groups, times = find_groups(loaded), LayerTimes(blank_table(threads))
    times.table.rest = learn_rest(loaded, groups, times, None)
    parts = model_time(groups, times)
    parts.prepare([candidate_widths(group.size) for group in groups.prunable], seconds=seconds, progress=progress)
    if table is not None:
        write_table(times.table, table, overwrite=overwrite)
    return times.table
