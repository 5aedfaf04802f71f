"""How to train, and what came of it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from .engines import EngineName

Auto = Literal["auto"]

FEW, MANY = 512, 8192
"""Fewer samples come in small batches, more in large ones."""
STEPS, LEAST_EPOCHS, MOST_EPOCHS = 2500, 10, 60
"""How many steps are aimed at, within these bounds."""
ANSWERS, STEPS_OF_TEXT = 1024, 400
"""Where each token has an answer, a batch needs no more of them, and so many steps are aimed at."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train.

    Attributes
    ----------
    epochs, batch_size : int or "auto"
        Passes over the samples, and samples per step (an epoch is split into nearly equal batches of at most that).
        "auto": batches of 16, 32 or 64, of text with an answer for each token about 1,024 tokens, and 10 to 60 epochs,
        by the number of samples.
    optimizer : {"adamw", "sgd"}
        SGD has momentum 0.9.
    learning_rate, schedule : float or "auto", {"constant", "linear", "cosine"}
        The highest rate, and how it falls to zero. "auto" tries a few for some steps each.
    warmup : float
        The share of the steps over which the rate rises.
    weight_decay : float
        Applied to weights of two or more dimensions: not to biases nor to normalisation.
    batch_norm : {"train", "frozen"}
        Whether BatchNormalization runs with the statistics of each batch, which its running statistics follow, or with
        the running ones, which stay.
    holdout : float
        The share of the samples that judges and does not train; 0: the last weights are taken without judgement.
    patience : int
        Stop when so many epochs have brought nothing better; 0: never.
    seconds : float
        Stop behind the epoch in which so many seconds are over; 0: never.
    augment : tuple of str
        Random changes of the samples that train, by name or as ``file.py:function``.
    engine : {"auto", "onnxruntime-training", "onnxruntime"}
        What trains; auto: the first, or the second where uv, a Python up to 3.12 or its packages are not to be had.
    seed : int
        Decides which samples are held out, and the order of the others.
    """

    epochs: int | Auto = 10
    batch_size: int | Auto = 32
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float | Auto = 1e-3
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup: float = 0.0
    weight_decay: float = 0.01
    batch_norm: Literal["train", "frozen"] = "train"
    holdout: float = 0.0
    patience: int = 0
    seconds: float = 0.0
    augment: tuple[str, ...] = ()
    engine: EngineName | Auto = "auto"
    seed: int = 0

    def resolved(self, samples: int, fixed: int | None, tokens: int = 0) -> Settings:
        """Return the same with numbers for what the number of samples that train decides.

        Where the model takes a `fixed` number of samples at a time, a batch is some times as many. `tokens` is how many
        of a sample have an answer of their own; 0 where the sample has one as a whole.
        """
        size = _batch(samples, tokens) if self.batch_size == "auto" else self.batch_size
        if fixed:
            size = max(size // fixed, 1) * fixed
        epochs = self.epochs
        if epochs == "auto":
            aim = STEPS_OF_TEXT if tokens else STEPS
            epochs = min(max(round(aim / math.ceil(samples / size)), LEAST_EPOCHS), MOST_EPOCHS)
        return dataclasses.replace(self, batch_size=size, epochs=epochs)


def _batch(samples: int, tokens: int) -> int:
    size = 16 if samples < FEW else 32 if samples < MANY else 64
    return min(size, max(ANSWERS // tokens, 1)) if tokens else size


@dataclass(frozen=True)
class Trained:
    """What came back.

    Attributes
    ----------
    weights : dict of str to numpy.ndarray
        Weights and running statistics by initializer: the best, or the last where none were held out.
    losses : list of float
        The mean loss of each epoch.
    curve : list of (float, float)
        Loss and score on the samples held out: before training, and after each epoch; empty without any.
    best : int
        The epoch of the weights.
    settings : Settings
        With numbers for what was "auto".
    trained, held : int
        How many samples trained, and judged.
    tried : list of (float, float)
        Learning rates that were tried, and the loss that each ended with.
    stopped : str
        Why training ended before its last epoch; empty if it did not.
    notes : tuple of str
        What else is to be known: why another engine had to do.
    pruned : bool
        It was pruned meanwhile, so that where it started is no measure of where it ends.
    """

    weights: dict[str, npt.NDArray[np.float32]]
    losses: list[float]
    curve: list[tuple[float, float]] = field(default_factory=list)
    best: int = 0
    settings: Settings = field(default_factory=Settings)
    trained: int = 0
    held: int = 0
    tried: list[tuple[float, float]] = field(default_factory=list)
    stopped: str = ""
    notes: tuple[str, ...] = ()
    pruned: bool = False


@dataclass(frozen=True)
class Rehearsed:
    """What a training would be: its settings, samples that train and judge, steps, seconds of one step, and memory."""

    settings: Settings
    trained: int
    held: int
    steps: int
    seconds: float
    bytes: int | None
    weights: tuple[str, ...]
    notes: tuple[str, ...] = ()
