"""From a budget to a model: looks, searches, judges once on samples that nothing has seen, and writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from .. import registry
from ..errors import DataError, OptionError, VerifyError
from ..files import check_target
from ..graph import cost
from ..graph.fingerprint import Fingerprints
from ..graph.save import save
from ..inspection import saved_bytes
from ..kinds import to_ir
from ..machines.workers import Here
from ..pipeline import Run, check_budget
from ..progress import Progress, silent
from . import space
from .budget import MAX_DROP, SECONDS, Budget, read_budget
from .decide import Base, best, front, neighbours
from .finish import explain_nothing, judge_limits, trials, untouched
from .job import Outcome, Part, Source
from .look import Look, look
from .memory import peak_bytes
from .rounds import Rounds
from .study import Study
from .trial import Tester, zipped_bytes

if TYPE_CHECKING:
    from ..kinds import AnyModel
    from ..machines.workers import Workers
    from ..plans import PlannedStep
    from ..report import Report


def compress(
    model: AnyModel,
    *,
    objective: str = "latency",
    data: Any = None,
    evaluate_on: Any = None,
    metric: str | None = None,
    max_drop: float | str = MAX_DROP,
    speedup: float | None = None,
    target_size: int | str | None = None,
    max_ms: float | None = None,
    max_memory: int | str | None = None,
    budget: float | str = SECONDS,
    keep: int = 1,
    target: str | None = None,
    study: str | Path | None = None,
    resume: bool = False,
    output: str | Path | None = None,
    overwrite: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
    workers: Workers | None = None,
) -> tuple[Any, Report]:
    """Find the recipe that makes most of a model within a budget.

    Parameters
    ----------
    model : str, Path, onnx.ModelProto, onnx_ir.Model or gs.Graph
        Never changed. The result comes back in the same kind; a path comes back as an `onnx_ir.Model`.
    objective : {"latency", "size", "zipped", "macs", "memory"}
        What is to become small.
    data, evaluate_on, metric
        As for `onnxcompress.apply`. Samples are divided: to some passes are fitted, by others trials are judged, and
        the rest (or `evaluate_on`) gives the verdict.
    max_drop : float or str
        How much of the metric may be lost: 0.01, or "1%".
    speedup : float, optional
        How many times as fast it has to be; never slower, where nothing is asked for.
    target_size, max_memory : int or str, optional
        The most bytes of the file, and of the weights and tensors of a run (estimated): "300kB".
    max_ms : float, optional
        The most milliseconds of a run of one sample, here.
    budget : float or str
        How long to search: "5m".
    keep : int
        How many models of the front to write: others than the best get its name with -2, -3, ...
    target : str, optional
        As for `onnxcompress.passes.Quantize`.
    study : str or Path, optional
        A file that keeps what was tried.
    resume : bool
        Go on with the study in that file.
    output : str or Path, optional
        Where to save the result.
    overwrite : bool
        Replace what is there.
    seed : int
    progress, say : callable, optional
        Called as ``progress(what, done, total)``, and with each line of what the model is and what will be tried.
    workers : Workers, optional
        Who carries out trials.

    Returns
    -------
    model, report
        The best model, or the original where nothing helps; `Report.verdict` says which, `Report.trials` what was
        tried, `Report.plans` what the passes decided.

    Raises
    ------
    OnnxCompressError
        See `onnxcompress.errors`; nothing is written then.

    Notes
    -----
    Known good recipes come first; then the tree-structured Parzen estimator varies them for both, cost and drop.
    Ozaki et al. 2020, "Multiobjective tree-structured Parzen estimator", doi:10.1145/3377930.3389817; Akiba et al. 2019,
    arXiv:1907.10902.
    """
    asked = read_budget(
        objective,
        max_drop=max_drop,
        speedup=speedup,
        target_size=target_size,
        max_ms=max_ms,
        max_memory=max_memory,
        budget=budget,
    )
    check_budget(asked.max_drop, metric)
    if keep < 1:
        raise OptionError(f"keep = {keep}: expected 1 or more")
    names = _names(output, keep)
    for name in names:
        check_target(name, overwrite=overwrite, suffix=".onnx")
    original, back = to_ir(model)
    source = Source(model="", data=data, evaluate_on=evaluate_on, metric=metric, seed=seed)
    tester = Tester(source, model=original, progress=progress)
    found = _look(tester, target)
    search = _search(tester, found, asked, target, study, resume, seed, progress, workers, say or silent_line)
    if "float" in found.facts:
        search.run()
    search.base = dataclasses.replace(search.base, bytes=saved_bytes(model, original))
    return _finished(model, search, names, overwrite=overwrite, back=back, found=found)
