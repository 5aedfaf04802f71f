"""The search itself: rounds of trials until time is up or nothing gains any more."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..evaluation import timing
from ..progress import Progress, silent
from ..signals import Ended
from .budget import Budget
from .decide import LOST_ALL, Base, best, cost_of, excess, loss_of, rank, usable
from .job import Job, Outcome, Part
from .space import TRAIN, Element, Params, describe, recipe
from .study import Study, text_of
from .trial import Stage, Tester, clocked, trials_of

if TYPE_CHECKING:
    from ..machines.workers import Workers

ROUND = 4
"""Recipes that are asked for together, however many workers there are, so that the same seed asks for the same."""

PATIENCE = 5
"""After so many rounds in which nothing better was found the search ends."""

LONGEST = 0.4
"""A trial may take so much of the time of the search."""

FINALISTS, FINAL_SECONDS = 4, 3.0
"""So many of the quickest are timed once more, side by side, for so long."""


@dataclass
class Rounds:
    """Trials of one search, and what came of them.

    Attributes
    ----------
    tester : Tester
    able : sequence of Element
    budget : Budget
    base : Base
    target : str or None
    workers : Workers
    progress : callable
    study : Study
        Set before it runs.
    tried : list
        Choices and outcome of each trial.
    trainer : Tester or None
        Who carried out what was trained.
    interrupted : bool
        Ctrl-C ended the search.
    """

    tester: Tester
    able: Sequence[Element]
    budget: Budget
    base: Base
    target: str | None
    workers: Workers
    progress: Progress = silent
    study: Study | None = None
    tried: list[tuple[Params, Outcome]] = field(default_factory=list)
    trainer: Tester | None = None
    interrupted: bool = False

    @property
    def outcomes(self) -> list[Outcome]:
        """What came of the trials."""
        return [outcome for _, outcome in self.tried]

    @property
    def threads(self) -> int:
        """How many threads models are timed on."""
        return self.tester.source.threads

    def spent(self) -> float:
        """Return the seconds since the search began."""
        return time.monotonic() - self._begun

    def run(self) -> None:
        """Try until time is up, or for some rounds nothing better was found; Ctrl-C ends it, too."""
        assert self.study is not None
        self.tried = [(params, dataclasses.replace(o, number=n)) for n, (params, o) in enumerate(self.study.before)]
        self._known = {text_of(params): outcome for params, outcome in self.tried}
        self._begun = time.monotonic()
        idle = 0
        try:
            while self.spent() < self.budget.seconds and idle < PATIENCE:
                before = best(self.outcomes, self.base, self.budget)
                self._round(self.study)
                better = best(self.outcomes, self.base, self.budget) is not before
                idle = 0 if better or self.study.waiting() else idle + 1
            self._time_finalists()
        except Ended:
            raise
        except KeyboardInterrupt:
            if not self.tried:
                raise
            self.interrupted = True

    def _round(self, study: Study) -> None:
        asked = study.ask(ROUND)
        fresh: dict[str, tuple[Job, Params]] = {}
        for _, params in asked:
            text = text_of(params)
            if text not in self._known and text not in fresh:
                fresh[text] = (self._job(len(self.tried) + len(fresh), params), params)
        for (text, (_, params)), outcome in zip(fresh.items(), self._carried_out([j for j, _ in fresh.values()])):  # noqa: B905  there are fewer outcomes when time is up
            self._known[text] = outcome
            self.tried.append((params, outcome))
            self._show()
        for trial, params in asked:
            found = self._known.get(text_of(params))
            if found is None:
                study.give_up(trial)
            else:
                study.tell(trial, found, self._values(found))

    def _carried_out(self, jobs: Sequence[Job]) -> Iterable[Outcome]:
        """Yield what comes of jobs, until time is up."""
        if not self.workers.near:
            yield from self.workers.map(trials_of, self.tester.sent, jobs)
            return
        for job in jobs:
            left = self.budget.seconds - self.spent()
            if left <= 0 and self.tried:
                return
            seconds = max(min(LONGEST * self.budget.seconds, left), 1.0)
            yield self.tester.run(dataclasses.replace(job, seconds=seconds))

    def _job(self, number: int, params: Params) -> Job:
        return Job(
            number,
            self.recipe(params),
            stop_above=self.budget.max_drop,
            zipped=self.budget.objective == "zipped",
            seconds=LONGEST * self.budget.seconds,
        )

    def _values(self, outcome: Outcome) -> tuple[float, float] | None:
        """Return cost and drop for the study; what exceeds a limit costs more by that."""
        if not usable(outcome):
            return None
        cost = min(cost_of(outcome, self.base, self.budget), LOST_ALL * 100)
        return cost + excess(outcome, self.base, self.budget), loss_of(outcome)[0]

    def _time_finalists(self) -> None:
        """Time the best ones once more: what was quickest of many in a short time was so by luck, too."""
        if self.budget.objective != "latency":
            return
        able = [each for each in self.tried if usable(each[1]) and rank(each[1], self.base, self.budget)[0] < 2]
        able = sorted(able, key=lambda each: rank(each[1], self.base, self.budget))[:FINALISTS]
        if not able:
            return
        models = [self.tester.stage(self.recipe(params)).model for params, _ in able]
        clocks = timing.time_models(
            [self.tester.original, *models], self.tester.feed, seconds=FINAL_SECONDS, **clocked(self.threads)
        )[1:]
        for (params, outcome), clock in zip(able, clocks, strict=True):
            again = dataclasses.replace(
                outcome,
                ratio=clock.ratio,
                ratio_low=clock.ratio_low,
                ratio_high=clock.ratio_high,
                milliseconds=clock.median_ms,
            )
            self.tried[self.tried.index((params, outcome))] = (params, again)

    def recipe(self, params: Params) -> tuple[Part, ...]:
        """Return the recipe of some choices."""
        return recipe(params, self.able, self.budget.objective, self.target)

    def params_of(self, outcome: Outcome) -> Params:
        """Return the choices that a trial was made of."""
        return next(params for params, each in self.tried if each is outcome)

    def recipe_of(self, outcome: Outcome) -> tuple[Part, ...]:
        """Return the recipe of a trial."""
        return self.recipe(self.params_of(outcome))

    def stage_of(self, outcome: Outcome) -> Stage:
        """Return the model that a trial made."""
        trained = TRAIN in self.params_of(outcome)
        tester = self.trainer if trained and self.trainer is not None else self.tester
        return tester.stage(self.recipe_of(outcome))

    def words_of(self, outcome: Outcome) -> str:
        """Say in a few words what a trial did."""
        return describe(self.params_of(outcome), self.able)

    def fail(self, outcome: Outcome, why: str) -> None:
        """Take back what a trial found: it cannot be made."""
        at = next(place for place, (_, each) in enumerate(self.tried) if each is outcome)
        self.tried[at] = (self.tried[at][0], dataclasses.replace(outcome, failed=why))

    def _show(self) -> None:
        found = best(self.outcomes, self.base, self.budget)
        said = "nothing better yet"
        if found is not None:
            said = f"best: {self.words_of(found)}, {cost_of(found, self.base, self.budget):.2f} of the original's"
        spent = min(self.spent(), self.budget.seconds)
        self.progress(f"{len(self.tried)} tried; {said}", int(spent), int(self.budget.seconds))
