"""How long models of any kind take, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
from ..kinds import to_ir
from ..runtime.provider import Provider, runs_on_provider
from ..samples.samples import load_samples
from .timing import Timing, time_models

if TYPE_CHECKING:
    from ..kinds import AnyModel


@runs_on_provider
def bench(
    models: Sequence[AnyModel],
    *,
    seconds: float = 2.0,
    data: Any = None,
    threads: int = 0,
    provider: Provider | str | None = None,
) -> list[Timing]:
    """Time models on one sample, interleaved in one process.

    Parameters
    ----------
    models : sequence of str, Path, onnx.ModelProto, onnx_ir.Model or gs.Graph
        They take the same inputs; the first is what the others are compared with.
    seconds : float
        How long to measure, all models together.
    data : optional
        Samples as for `onnxcompress.apply`, of which the first is used; by default small random values.
    threads : int
        0 means all cores that this process may use.
    provider : Provider or str, optional
        Where to run them.

    Returns
    -------
    list of Timing
        One for each model, in order.

    Raises
    ------
    ModelError
        A model cannot be loaded, or does not take the sample.
    """
    if isinstance(models, (str, bytes)) or not models:
        raise OptionError("bench: expected a list of one model or more")
    if not 0 < seconds < float("inf") or threads < 0:
        raise OptionError(f"bench: expected seconds > 0 and threads >= 0, got {seconds} and {threads}")
    loaded = [to_ir(model)[0] for model in models]
    feeds = None if data is None else next(iter(load_samples(data, loaded[0]).head(1).batches()))
    return time_models(loaded, feeds, seconds=seconds, threads=threads)
