"""What training came to, in words, and whether its weights are taken."""

from __future__ import annotations

from collections.abc import Sequence

from onnxcompress.contract import Epoch
from onnxcompress.display.units import size
from onnxcompress.training import Rehearsed, Settings, Trained
from onnxcompress.training.loop.judge import is_better

MOST_NAMES = 6
ONE = "one sample alone: it trains and judges, so that its score says nothing of others; give 50 or more"
BOTH = "all {} samples train and judge, so that the score says nothing of others; give 50 or more"
NONE = "no samples are held out, so that nobody judged what training did"


def epochs(trained: Trained) -> tuple[Epoch, ...]:
    """Return the curve: before training, and after each epoch."""
    if not trained.curve:
        return tuple(Epoch(trained=loss) for loss in trained.losses)
    losses = [None, *trained.losses]
    return tuple(Epoch(trained=a, loss=b, score=c) for a, (b, c) in zip(losses, trained.curve, strict=True))


def is_taken(trained: Trained) -> bool:
    """Tell whether the best weights are better than what training started from; pruning it may have cost something."""
    none_asked = not trained.curve or trained.pruned
    return bool(none_asked) or is_better(trained.curve[trained.best], trained.curve[0], trained.held)


def unmet(trained: Trained) -> tuple[str, ...]:
    """Say that training made the student worse, where it did, so that it is not taken."""
    if is_taken(trained):
        return ()
    return (
        f"{_worse(trained)}; the model stays as it was (keep_anyway=true takes the weights; more samples may help)",
    )


def _worse(trained: Trained) -> str:
    (loss, score), (best_loss, best_score) = trained.curve[0], trained.curve[trained.best]
    return (
        f"training made it no better: score {score:.4g} (loss {loss:.4g}) on {trained.held} samples held out before, "
        f"{best_score:.4g} ({best_loss:.4g}) at best, after epoch {trained.best}"
    )


def notes(trained: Trained) -> tuple[str, ...]:
    """Say how good the student became, how that was found, and what training did on the way."""
    found = [] if is_taken(trained) else [_worse(trained)]
    if trained.curve and is_taken(trained):
        (loss, score), (best_loss, best_score) = trained.curve[0], trained.curve[trained.best]
        found.append(
            f"held out: score {score:.4g} before, {best_score:.4g} after epoch {trained.best} of "
            f"{trained.settings.epochs} (loss {loss:.4g}, {best_loss:.4g})"
        )
    found += [_judged(trained.trained, trained.held), _steps(trained)]
    if trained.losses:
        first, last, count = trained.losses[0], trained.losses[-1], len(trained.losses)
        grew = "; it grew: try a lower learning rate" if last > first else ""
        found.append(f"loss {first:.4g} in the first epoch, {last:.4g} in the last of {count}{grew}")
    found += [f"stopped {trained.stopped}"] if trained.stopped else []
    return (*found, *trained.notes)


def _judged(trained: int, held: int) -> str:
    if not held:
        return NONE
    if trained == held == 1:
        return ONE
    return BOTH.format(held) if trained == held <= 2 else f"{trained} samples trained, {held} that did not judged"


def _steps(trained: Trained) -> str:
    settings = trained.settings
    rate = f"learning rate {settings.learning_rate:g}"
    if trained.tried:
        rates = ", ".join(f"{rate:g}: {loss:.4g}" for rate, loss in trained.tried)
        few = "the only one that there was time to try" if len(trained.tried) == 1 else "the best of a few tried"
        rate += f", {few} for some steps (loss {rates})"
    return f"{_epochs(settings)} in batches of {settings.batch_size}, {rate}"


def _epochs(settings: Settings) -> str:
    return f"{settings.epochs} epoch{'' if settings.epochs == 1 else 's'}"


def rehearsed(found: Rehearsed) -> tuple[str, ...]:
    """Say what training would do, and what it would take."""
    seconds = found.seconds * found.steps
    time = (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )
    memory = "" if found.bytes is None else f", {size(found.bytes)} of memory"
    settings = found.settings
    rate = "; before that, learning rates are tried" if settings.learning_rate == "auto" else ""
    return (
        f"it would train {len(found.weights)} tensors: {listed(found.weights)}",
        f"{found.steps} steps ({_epochs(settings)} in batches of {settings.batch_size}; {found.trained} samples "
        f"train, {found.held} judge), {1000 * found.seconds:.3g} ms for one: about {time}{memory}{rate}",
        *found.notes,
    )


def listed(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    return ", ".join(names[:MOST_NAMES]) + (f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else "")
