"""Whether a drop of the metric is within what was asked for, and how sure that is."""

from __future__ import annotations

import math

from .evaluation.compare import ROUNDING, Comparison
from .evaluation.interval import samples_needed
from .evidence import Verdict


def no_samples(max_drop: float) -> Verdict:
    """Return the verdict where there is nothing to judge by."""
    sentence = f"Not shown: at most {max_drop:g} may be lost, and there are no samples to tell; give them with --data"
    return Verdict("not shown", sentence, asked={"max_drop": max_drop})


def judge_drop(found: Comparison, max_drop: float, *, unseen: bool | None = True) -> Verdict:
    """Return whether a model loses at most so much of the metric.

    Parameters
    ----------
    found : Comparison
    max_drop : float
    unseen : bool or None
        Nothing was fitted to the samples that judge; None where nobody knows.
    """
    drop = math.nan if found.drop is None else found.drop
    lost = f"{found.metric} lost {drop:.4g}"
    if found.drop_low is not None and found.drop_high is not None:
        lost += f" (95 %: {found.drop_low:.3g} to {found.drop_high:.3g})"
    on = f"{lost} on {found.count:,} samples"
    bounds = {"drop": drop, "low": found.drop_low, "high": found.drop_high}

    def verdict(state: str, sentence: str, *details: str) -> Verdict:
        return Verdict(state, sentence, details, **bounds, asked={"max_drop": max_drop})  # type: ignore[arg-type]

    if not drop <= max_drop + ROUNDING:
        return verdict("not held", f"Not held: {on}; at most {max_drop:g} was asked for")
    doubts = _doubts(found, max_drop, unseen=unseen)
    if doubts:
        return verdict("not shown", f"Not shown: {on}, within {max_drop:g}, which may be luck", *doubts)
    unknown = [f"How far {found.metric} is off on other samples is not known"] if found.drop_high is None else []
    return verdict("held", f"Held: {on}; at most {max_drop:g} was asked for", *unknown)


def _doubts(found: Comparison, max_drop: float, *, unseen: bool | None) -> list[str]:
    """Return why a drop that is small enough may be so by luck."""
    doubts = []
    if found.random:
        doubts.append("The samples are random values, which say nothing about the model's job")
    if not unseen:
        seen = "Passes were fitted to the samples that judge" if unseen is False else "Nobody knows what was fitted to"
        doubts.append(f"{seen}; give others with --evaluate-on, or 50 samples at least with --data")
    if found.drop_high is not None and not found.drop_high <= max_drop + ROUNDING:
        enough = samples_needed(found.drop or 0.0, found.drop_high, found.count, max_drop, found.changed)
        missing = "The drop is all that was asked for" if enough is None else f"About {enough:,} samples would show it"
        doubts.append(missing)
    return doubts
