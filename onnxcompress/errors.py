"""Every error that a user can meet: one line that says what, where, what was expected and what to do."""

from __future__ import annotations


class OnnxCompressError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line exits with."""

    exit_code = 2

    def __init__(self, message: str = "") -> None:
        super().__init__(" ".join(str(message).splitlines()))  # names that files bring may hold line breaks


class ModelError(OnnxCompressError):
    """The model file is missing, truncated, not ONNX, invalid, or points outside its folder."""


class NoRuntimeError(OnnxCompressError):
    """There is no onnxruntime, none that is new enough, or it has not the provider that was asked for."""


class DataError(OnnxCompressError):
    """The samples do not fit the model, or are empty, or hold NaN."""


class OptionError(OnnxCompressError):
    """A recipe or an option of a pass is wrong: names the field, the value and what is allowed."""


class PlanError(OnnxCompressError):
    """A plan cannot be replayed: its file is damaged, or it was made by another pass or for another model."""


class MetricError(OnnxCompressError):
    """The metric is unknown, needs labels that are not there, or the user's function failed."""


class OutputError(OnnxCompressError):
    """The output cannot be written: it exists, its folder is read-only, or the disk is full."""


class PassError(OnnxCompressError):
    """A pass cannot run on this model at all (what it cannot do in part it refuses instead)."""


class VerifyError(OnnxCompressError):
    """A pass produced a model that does not hold what the pass promised; it was rolled back."""


class ClusterError(OnnxCompressError):
    """A cluster does not answer, has no worker, or its machines have other versions than this one."""


class TrainingError(OnnxCompressError):
    """The training interpreter cannot start, a node has no gradient, or the worker died."""


def did_you_mean(word: str, allowed: list[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest allowed word, or an empty string."""
    import difflib

    close = difflib.get_close_matches(word, allowed, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
