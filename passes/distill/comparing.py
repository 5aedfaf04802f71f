"""The options of what is compared: which outputs and inner tensors, and by which losses."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, get_args

from msgspec import Meta

from onnxcompress.errors import OptionError, did_you_mean
from onnxcompress.selection import SelectivePass

from .objectives import FEATURE_LOSSES, LABEL_LOSS, LOSSES, OUTPUT_LOSSES
from .objectives.tensors import Kind

KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True, kw_only=True)
class ComparingPass(SelectivePass):
    """A pass that compares a model with its teacher.

    Attributes
    ----------
    losses : dict
        Loss → weight, summed up as they are: kl, dkd, dist, mse, huber and cosine between outputs, cross-entropy with
        the labels, fitnets, attention, hidden-cosine and regressor between `features`. Without any: kl for classes,
        cosine for embeddings, huber for values, and a share of cross-entropy where labels fit.
    hard_weight : float
        That share: 0 imitates the teacher alone, 1 learns from the labels alone.
    outputs : dict
        Output or pattern → what it is (classes, binary, embedding, values, ignore), or by which loss it is compared.
        Without: by name, shape and the operators that make it.
    output_weights : dict
        Output or pattern → how much it counts beside the others; 1 without.
    features : dict
        Inner tensor of the model → inner tensor of the teacher that it is to be like.
    temperature : float
        Of kl and dkd: softens both distributions, so that the small probabilities count.
    beta : float
        Of dkd: the weight of the classes that are not the target.
    label_smoothing : float
        Of cross-entropy: this share of each label is spread over all classes.
    """

    losses: dict[str, float] = field(default_factory=dict)
    hard_weight: Annotated[float, Meta(ge=0, le=1)] = 0.5
    outputs: dict[str, str] = field(default_factory=dict)
    output_weights: dict[str, float] = field(default_factory=dict)
    features: dict[str, str] = field(default_factory=dict)
    temperature: Annotated[float, Meta(gt=0)] = 4.0
    beta: Annotated[float, Meta(ge=0)] = 8.0
    label_smoothing: Annotated[float, Meta(ge=0, lt=1)] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_words("losses", self.losses, list(LOSSES))
        self._check_words("outputs", self.outputs.values(), [*KINDS, *OUTPUT_LOSSES, LABEL_LOSS])
        for option, table in (("losses", self.losses), ("output_weights", self.output_weights)):
            for name, weight in table.items():
                if not 0 < weight < math.inf:
                    raise OptionError(f"{self.name}: {option}.{name} = {weight}: expected a number above 0")
        inner = [name for name in self.losses if name in FEATURE_LOSSES]
        if inner and not self.features:
            raise OptionError(
                f"{self.name}: losses: '{inner[0]}' compares inner tensors; say which, with features.STUDENT=TEACHER"
            )
        if self.features and self.losses and not inner:
            names = ", ".join(FEATURE_LOSSES)
            raise OptionError(f"{self.name}: features: no loss compares them; give losses one of {names}")

    def _check_words(self, option: str, given: Iterable[str], allowed: list[str]) -> None:
        for word in given:
            if word not in allowed:
                hint = did_you_mean(word, allowed) or f"; expected one of {', '.join(allowed)}"
                raise OptionError(f"{self.name}: {option}: unknown '{word}'{hint}")
