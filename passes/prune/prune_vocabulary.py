"""Keep the tokens that texts consist of, and no others."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from msgspec import Meta

from onnxcompress.contract import MODEL, Change, Changes, Context, Needs, Pass, Plan, Refusal
from onnxcompress.errors import OptionError, PassError

from .tokens.cut import cut, translate
from .tokens.kept import counts, listed, of_tokenizer
from .tokens.table import find_vocabulary


@dataclasses.dataclass(frozen=True, kw_only=True)
class VocabularyPlan(Plan):
    """The tokens that stay, in rising order, and the one that stands for all others."""

    kept: npt.NDArray[np.int64] = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    unknown: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruneVocabulary(Pass):
    """Keep the tokens of some texts: of the embedding their rows, of the output layer (tied or not) their scores.

    The model is asked and answers in the numbers that it did before, so that the tokenizer stays as it is: a small
    table translates them. A token that is gone has a score of -1,000, and counts as `unknown` where it is given.

    Parameters
    ----------
    tokens : str
        A file with the numbers of the tokens to keep, one in a line; empty: those of the samples.
    minimum_count : int
        Keep what the samples hold at least so many times.
    tokenizer : str
        A ``tokenizer.json``: its special tokens and its single characters and bytes stay, and, of byte-pair encoding,
        all parts that the tokens are merged of; its unknown token is taken for `unknown`.
    unknown : int
        The token that stands for those that are gone, which stays; -1: the tokenizer's, or the first that stays.

    Notes
    -----
    Abdaoui et al., "Load What You Need: Smaller Versions of Multilingual BERT", 2020, arXiv:2010.05609.
    """

    tokens: str = ""
    minimum_count: Annotated[int, Meta(ge=1)] = 1
    tokenizer: str = ""
    unknown: Annotated[int, Meta(ge=-1)] = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tokens and self.minimum_count > 1:
            raise OptionError(f"{self.name}: minimum_count counts tokens of samples; leave it or tokens out")
        object.__setattr__(self, "needs", Needs(samples=not self.tokens))

    def plan(self, model: ir.Model, context: Context) -> VocabularyPlan:
        """Choose the tokens that stay."""
        try:
            found = find_vocabulary(model)
        except PassError as error:
            return VocabularyPlan(refused=(Refusal(MODEL, str(error)),))
        if self.tokens:
            wanted = listed(Path(self.tokens), found.size)
        else:
            seen = counts(context.samples, [str(value.name) for value in found.inputs], found.size)
            wanted = np.flatnonzero(seen >= self.minimum_count)
        unknown = self.unknown
        if self.tokenizer:
            wanted, its_own = of_tokenizer(Path(self.tokenizer), wanted, found.size)
            unknown = its_own if unknown < 0 else unknown
        if unknown >= found.size:
            raise OptionError(f"{self.name}: unknown = {unknown}: the vocabulary has {found.size:,} tokens")
        if unknown < 0:
            unknown = int(wanted[0]) if len(wanted) else 0
        kept = np.union1d(wanted, [unknown]).astype(np.int64)
        if len(kept) == found.size:
            return VocabularyPlan(refused=(Refusal(MODEL, f"all of its {found.size:,} tokens occur"),))
        note = f"{len(kept):,} of {found.size:,} tokens stay; token {unknown} stands for the others"
        return VocabularyPlan(kept=kept, unknown=unknown, notes=(note,))

    def apply(self, model: ir.Model, plan: VocabularyPlan) -> Changes:
        """Cut the table and the scores, and translate the numbers."""
        if not len(plan.kept):
            return Changes(refused=plan.refused, notes=plan.notes)
        found = find_vocabulary(model)
        if plan.kept[-1] >= found.size or plan.unknown not in plan.kept:
            raise PassError(f"the table has {found.size:,} rows, and the plan keeps others; was it made for it?")
        names = ", ".join(str(value.name) for value in found.constants)
        gone = cut(model, found, plan.kept)
        translate(model, found, plan.kept, plan.unknown)
        done = (Change(names, f"{found.size - len(plan.kept):,} of {found.size:,} tokens gone, {gone:,} weights"),)
        return Changes(done, plan.refused, plan.notes)
