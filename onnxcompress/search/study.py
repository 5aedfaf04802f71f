"""Asks Optuna for recipes and tells it what came of them; the study may lie in a file and be gone on with."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..errors import OptionError
from .job import Outcome
from .space import PRUNE, Element, Params

if TYPE_CHECKING:
    import optuna

NAME = "onnxcompress"
FINGERPRINT, OUTCOME = "model", "outcome"


class Study:
    """A multi-objective study: what a recipe costs, and what it loses.

    Parameters
    ----------
    able : collection of Element
        What recipes are made of.
    rungs : sequence of dict
        Recipes that are tried first.
    fingerprint : str
        Of the model and of what was asked: a file that holds a study of another is refused.
    path : str or Path, optional
        The file that keeps the study.
    resume : bool
        Go on with what is in the file; else there must be none.
    seed : int
    """

    def __init__(
        self,
        able: Collection[Element],
        rungs: Sequence[Params],
        *,
        fingerprint: str,
        path: str | Path | None = None,
        resume: bool = False,
        seed: int = 0,
    ) -> None:
        self._able = {each.name: each for each in able}
        self._rungs = list(rungs)
        self._study = _open(path, resume=resume, seed=seed)
        known = self._study.user_attrs.get(FINGERPRINT)
        if known is not None and known != fingerprint:
            raise OptionError(
                f"study = {str(path)!r}: it is of another model, other samples or another objective; give another file"
            )
        if known is None:
            self._study.set_user_attr(FINGERPRINT, fingerprint)
        self.before = [
            (trial.params, msgspec.convert(trial.user_attrs[OUTCOME], Outcome))
            for trial in self._study.trials
            if OUTCOME in trial.user_attrs
        ]
        """What an earlier run has tried."""
        done = [params for params, _ in self.before]
        for rung in self._rungs:
            if rung not in done:
                self._study.enqueue_trial(rung)

    def ask(self, count: int) -> list[tuple[optuna.Trial, Params]]:
        """Return recipes to be tried, in the form of their choices."""
        trials = [self._study.ask() for _ in range(count)]
        return [(trial, self._chosen(trial)) for trial in trials]

    def _chosen(self, trial: optuna.Trial) -> Params:
        shares = (0.0, *PRUNE.choices["share"]) if PRUNE.name in self._able else (0.0,)
        share = trial.suggest_categorical("prune", shares)
        precisions = [name for name in self._able if name != PRUNE.name]
        trial.suggest_categorical("precision", ["float", *precisions])
        if share:
            trial.suggest_categorical("prune.importance", PRUNE.choices["importance"])
        element = self._able.get(trial.params["precision"])
        for name, values in (element.choices if element else {}).items():
            trial.suggest_categorical(f"{trial.params['precision']}.{name}", values)
        return dict(trial.params)

    def waiting(self) -> int:
        """Return how many known good recipes have not been asked for."""
        from optuna.trial import TrialState

        return len(self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def tell(self, trial: optuna.Trial, outcome: Outcome, values: tuple[float, float] | None) -> None:
        """Tell what came of a recipe: cost and drop, or None where it was not carried to its end."""
        from optuna.trial import TrialState

        trial.set_user_attr(OUTCOME, msgspec.to_builtins(outcome))
        if values is not None:
            self._study.tell(trial, values)
        else:
            self._study.tell(trial, state=TrialState.FAIL if outcome.failed else TrialState.PRUNED)

    def give_up(self, trial: optuna.Trial) -> None:
        """Forget a recipe that was asked for and not tried."""
        from optuna.trial import TrialState

        self._study.tell(trial, state=TrialState.FAIL)


def _open(path: str | Path | None, *, resume: bool, seed: int) -> optuna.Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=8)
    storage: Any = None
    if path is not None:
        storage = _storage(Path(path), resume=resume)
    elif resume:
        raise OptionError("resume: there is nothing to go on with; name the file of the study (--study)")
    return optuna.create_study(
        study_name=NAME, storage=storage, sampler=sampler, directions=["minimize"] * 2, load_if_exists=True
    )


def _storage(path: Path, *, resume: bool) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    if resume and not path.is_file():
        raise OptionError(f"study = {str(path)!r}: it is not there, so that there is nothing to go on with")
    if path.exists() and not resume:
        raise OptionError(f"study = {str(path)!r}: exists already; give --resume (resume=True), or another file")
    if path.exists():
        _check_journal(path)
    try:
        return JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))
    except OSError as error:
        raise OptionError(f"study = {str(path)!r}: {error.strerror or error}") from None


def _check_journal(path: Path) -> None:
    """Raise `OptionError` unless a file is what Optuna writes: each line says one thing that was done."""
    try:
        lines = path.read_text().splitlines()
        if lines and all("op_code" in json.loads(line) for line in lines):
            return
    except (OSError, ValueError, TypeError):
        pass
    raise OptionError(f"study = {str(path)!r}: it holds no study; give another file")


def text_of(params: Params) -> str:
    """Return the same text for the same choices."""
    return msgspec.json.encode(params, order="sorted").decode()
