"""The loop: epochs, batches, steps; the best weights are kept."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from .clock import Clock
from .data import batches, step_count
from .feeds import Feeds
from .hooks import Hook, make_hooks
from .judge import Judge, is_best
from .rate import find_rate
from .schedule import rate_factor
from .state import State
from .step import Stepper
from .tell import Reporter, tell


def train(job: dict[str, Any], folder: Path) -> None:
    """Train from the last checkpoint if there is one."""
    Training(job, folder).run()


class Training:
    """One training: the job, what it is fed with, and how far it is."""

    def __init__(self, job: dict[str, Any], folder: Path) -> None:
        self.job, self.settings, self.folder = job, job["settings"], folder
        self.state = State.begin(job, folder)
        self.feeds = Feeds(job, folder)
        self.stepper = Stepper(job, folder)
        self.judge = Judge(job, folder, self.feeds)
        self.steps = step_count(self.feeds.buckets, job["batch_size"], job["fixed"])
        self.total = job["total"] = self.settings["epochs"] * self.steps
        self._taken, self._since = 0, time.monotonic()
        self._clock = Clock(self.settings["seconds"])

    def run(self) -> None:
        """Go through all epochs, or until nothing gets better any more."""
        state = self.state
        tell(event="ready", epoch=state.epoch)
        if state.rate is None:
            self._begin()
        hooks = make_hooks(self.job, self.folder, state)
        self._since = time.monotonic()
        while state.epoch < self.settings["epochs"] and not state.stopped:
            try:
                self._epoch(hooks)
            except FloatingPointError as error:
                if not state.best:
                    raise
                self._stop(str(error))
                return
            self._judge(hooks)
            state.save()
            self._report(state.epoch, state.losses[-1], state.epoch * self.steps)

    def _begin(self) -> None:
        """Measure where the student starts, and find out which learning rate suits it."""
        state = self.state
        if self.judge.samples:
            before = time.monotonic()
            state.curve = [list(self.judge.measure(state))]
            self._clock.judging = time.monotonic() - before
        rate = self.settings["learning_rate"]
        if rate == "auto":
            state.tried = find_rate(self.job, self.folder, self.feeds, self.stepper, self.judge, self._clock.judging)
            rate = min(state.tried, key=lambda each: each[1])[0]
        state.rate = float(rate)
        state.save()

    def _epoch(self, hooks: list[Hook]) -> None:
        """Go through all samples once, or as far as time allows."""
        state, settings, reporter = self.state, self.settings, Reporter()
        assert state.rate is not None
        total, seen = 0.0, 0
        order = batches(self.feeds.buckets, self.job["batch_size"], settings["seed"], state.epoch, self.job["fixed"])
        for number, (bucket, picked) in enumerate(order):
            done = state.epoch * self.steps + number
            feeds = self.feeds.changed(bucket, picked, done)
            rate = state.rate * rate_factor(settings["schedule"], self._progress(done), settings["warmup"])
            try:
                loss = self.stepper.take(state, feeds, rate, done, hooks)
            except FloatingPointError as error:
                raise FloatingPointError(
                    f"{error} at step {done + 1} of {self.total}; try a lower learning rate"
                ) from None
            total, seen = total + loss * len(picked), seen + len(picked)
            self._taken += len(picked)
            if reporter.due():
                self._report(state.epoch + 1, total / seen, done + 1)
            if self._clock.gone >= 1 and _settled(hooks, done + 1):
                break  # no step is worth more than that what was learnt is judged
        if not all(np.isfinite(array).all() for array in (state.flat, *state.running.values())):
            raise FloatingPointError(f"weights are not finite after epoch {state.epoch + 1}; try a lower learning rate")
        state.epoch += 1
        state.losses.append(total / seen)

    def _progress(self, done: int) -> float:
        """Return how far it is, in steps or in its time; where the rate warms up, the first step is taken, too."""
        first = 1 if self.settings["warmup"] else 0
        return min(max(float((done + first) / (self.total + first)), self._clock.gone), 1.0)

    def _judge(self, hooks: list[Hook]) -> None:
        """Measure the student, and keep its weights if they are the best; without samples held out, the last are.

        While it is being pruned it is not what is asked for, however good.
        """
        state = self.state
        if self.judge.samples:
            state.curve.append(list(self.judge.measure(state)))
        if not _settled(hooks, state.epoch * self.steps):
            state.settled = state.epoch
            return
        if not self.judge.samples or self._is_best():
            state.keep()
        patience = self.settings["patience"]
        if self._clock.gone >= 1 and state.epoch < self.settings["epochs"]:
            state.stopped = f"in epoch {state.epoch}: its time was over"
        elif patience and state.epoch - state.best >= patience and state.epoch < self.settings["epochs"]:
            state.stopped = f"after epoch {state.epoch}: none of the last {patience} was better than epoch {state.best}"

    def _is_best(self) -> bool:
        state = self.state
        curve = [state.curve[0], *state.curve[state.settled + 1 :]]
        return is_best(curve, max(state.best - state.settled, 0), self.judge.samples)

    def _stop(self, why: str) -> None:
        """End with the best weights that there are: those of the last checkpoint are still good."""
        self.state = State.load(self.job)
        self.state.stopped = why
        self.state.save()

    def _report(self, epoch: int, loss: float, done: int) -> None:
        """Say how far the training is, how good, and how fast."""
        parts = [f"training: epoch {epoch} of {self.settings['epochs']}, loss {loss:.4g}"]
        if len(self.state.curve) > 1:
            parts.append(f"held out: loss {self.state.curve[-1][0]:.4g}, score {self.state.curve[-1][1]:.4g}")
        seconds = time.monotonic() - self._since
        if self._taken and seconds > 1:
            per_second = self._taken / seconds
            samples = sum(len(bucket.trained) for bucket in self.feeds.buckets)
            left = samples * (self.settings["epochs"] - done / self.steps) / per_second
            parts.append(f"{per_second:.3g} samples/s, {_duration(left)} left")
        tell(event="step", what=", ".join(parts), done=done, total=self.total)


def _settled(hooks: list[Hook], done: int) -> bool:
    return all(hook.settled(done) for hook in hooks)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
