"""What each position of each axis of each weight contributes to the loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .data import read_buckets
from .engine import open_session
from .flat import views
from .tell import Reporter, tell


def measure(job: dict[str, Any], folder: Path) -> None:
    """Sum up, sample by sample, what each position of each axis of each weight contributes to the loss.

    Writes ``first_K_A``, the mean over samples of ``|sum(w·g)|``, and ``second_K_A``, the mean of ``sum((w·g)²) / 2``,
    for axis A of weight K; sums go over the other axes.
    """
    start = np.load(folder / "start.npz")
    weights = dict(zip(job["weights"], views(start["flat"], job["shapes"]), strict=True))
    buckets = read_buckets(job, folder)
    samples = [(bucket, number) for bucket in buckets for number in bucket.trained]
    session = open_session(folder / "objective.onnx", job)
    sums: dict[str, Any] = {}
    reporter = Reporter()
    for done, (bucket, number) in enumerate(samples):
        feeds = bucket.read(np.array([number]))
        gradients = session.run([f"{name}_grad" for name in weights], feeds | weights)
        for number, (weight, gradient) in enumerate(zip(weights.values(), gradients, strict=True)):
            product = (weight * gradient).astype(np.float64)
            for axis in range(product.ndim):
                others = tuple(a for a in range(product.ndim) if a != axis)
                for key, part in (("first", np.abs(product.sum(others))), ("second", (product**2).sum(others) / 2)):
                    name = f"{key}_{number}_{axis}"
                    sums[name] = part if done == 0 else sums[name] + part
        if reporter.due():
            tell(event="step", what="gradients", done=done + 1, total=len(samples))
    with Path(job["result"]).open("wb") as file:
        np.savez(file, **{name: array / len(samples) for name, array in sums.items()})
