"""Text: lines, or columns of a table, made into tokens as the model's tokenizer does it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, OptionError
from ...runtime.session import Array
from ..explain import takes
from ..extras import need
from ..inputs import Input
from ..roles import LATER, role
from ..sources import Piece, Request, Source, called, decoding

TOKENIZER = "tokenizer.json"
AT_ONCE = 1024
"""Texts among which those of the same length are brought together, so that none has to be padded."""

MOST_TOKENS = 512
"""Where neither the model nor the user nor the tokenizer says how many."""

Texts = tuple[str, ...]
Labelled = tuple[Texts, Any]


def read(files: Sequence[Path], request: Request) -> Source:
    """Return the lines of text files as samples; empty ones are none."""
    return texts(lambda: _lines(files), called(files, request), request, labelled=False)


def _lines(files: Sequence[Path]) -> Iterator[Labelled]:
    for file in files:
        try:
            with file.open(encoding="utf-8-sig") as lines:
                yield from (((line.strip(),), None) for line in lines if line.strip())
        except UnicodeDecodeError as error:
            raise DataError(f"{file.name}: is no UTF-8 text (byte {error.start}); save it as UTF-8") from None
        except OSError as error:
            raise DataError(f"{file.name}: cannot be read: {error.strerror or error}") from None


def texts(rows: Callable[[], Iterator[Labelled]], description: str, request: Request, *, labelled: bool) -> Source:
    """Return texts, or pairs of them, as samples.

    Parameters
    ----------
    rows : callable
        Returns an iterator over texts, each with its label, from the start.
    description : str
    request : Request
    labelled : bool

    Raises
    ------
    DataError
        The model takes no text, or there is no tokenizer.
    """
    inputs = request.layout.inputs
    strings = [item for item in inputs if item.dtype.kind == "O"]
    encode: Callable[[Sequence[Texts]], Iterator[tuple[list[int], dict[str, Array]]]]
    encode = _Strings(strings, description) if strings else _tokens(inputs, request)

    def pieces(waiting: Iterator[tuple[int, Labelled]]) -> Iterator[Piece]:
        while block := [entry for _, entry in islice(waiting, AT_ONCE)]:
            for places, feeds in encode([texts for texts, _ in block]):
                labels = {"labels": np.array([block[i][1] for i in places])} if labelled else {}
                yield description, feeds | labels

    decoders = {encode.ids.name: encode.tokenizer.decode} if isinstance(encode, _Tokens) else {}
    return dataclasses.replace(decoding(rows, pieces, description), decoders=decoders)


@dataclass(frozen=True)
class _Strings:
    """Hands texts to a model that takes them as they are."""

    inputs: Sequence[Input]
    description: str

    def __call__(self, block: Sequence[Texts]) -> Iterator[tuple[list[int], dict[str, Array]]]:
        """Yield all texts at once."""
        if len(block[0]) != len(self.inputs):
            raise DataError(f"{self.description}: the model takes {len(self.inputs)} texts, there are {len(block[0])}")
        feeds = {}
        for number, item in enumerate(self.inputs):
            rank = len(item.shape) if item.shape is not None else 1
            array = np.array([texts[number] for texts in block], object)
            feeds[item.name] = array.reshape(len(block), *(1,) * (rank - 1))
        yield list(range(len(block))), feeds


def _tokens(inputs: Sequence[Input], request: Request) -> _Tokens:
    ids = [item for item in inputs if role(item.name) == "ids"]
    whole = [item for item in inputs if item.dtype.kind in "iu" and item.shape is not None and len(item.shape) == 2]
    ids = ids or ([item for item in whole if role(item.name) is None] if len(inputs) == 1 else [])
    others = [item.name for item in inputs if item not in ids and role(item.name) not in {"mask", *LATER}]
    if len(ids) != 1 or others:
        what = f"'{others[0]}' would be missing" if ids and others else "no input takes the numbers of tokens"
        raise DataError(f"text cannot be fed: {what}; {takes(request.layout)}")
    fixed = (ids[0].shape or (None,))[-1]
    tokenizer, place = _load(request)
    table, tokens = ids[0].table, tokenizer.get_vocab_size()
    if table is not None and tokens > table.rows:
        raise DataError(
            f"tokenizer '{place}': has {tokens:,} tokens, and the embedding '{table.name}' has {table.rows:,} rows; "
            "give the tokenizer that belongs to the model"
        )
    length = request.data.length if not isinstance(fixed, int) else fixed
    longest = length or _longest(tokenizer, place) or MOST_TOKENS
    tokenizer.enable_truncation(longest)
    tokenizer.no_padding()
    padding = f", padded to {fixed}" if isinstance(fixed, int) else ""
    request.notes["tokenizer"] = (
        f"text: {place.name} of {place.resolve().parent.name}/, {longest} tokens at most{padding}"
    )
    masks = [item for item in inputs if role(item.name) == "mask"]
    kinds = [item for item in inputs if role(item.name) == "types"]
    if isinstance(fixed, int):
        pad, kind = _padding(tokenizer)
        tokenizer.enable_padding(length=fixed, pad_id=pad, pad_token=kind)
    return _Tokens(tokenizer, ids[0], masks, kinds)


@dataclass(frozen=True)
class _Tokens:
    """Makes tokens; texts of the same number of tokens come together."""

    tokenizer: Any
    ids: Input
    masks: Sequence[Input]
    kinds: Sequence[Input]

    def __call__(self, block: Sequence[Texts]) -> Iterator[tuple[list[int], dict[str, Array]]]:
        """Yield the texts of each length."""
        found = self.tokenizer.encode_batch([texts if len(texts) > 1 else texts[0] for texts in block])
        by_length: dict[int, list[int]] = {}
        for place, encoding in enumerate(found):
            if encoding.ids:
                by_length.setdefault(len(encoding.ids), []).append(place)
        for _, places in sorted(by_length.items()):
            feeds = {self.ids.name: np.array([found[i].ids for i in places], self.ids.dtype)}
            for item in self.masks:
                feeds[item.name] = np.array([found[i].attention_mask for i in places], item.dtype)
            for item in self.kinds:
                feeds[item.name] = np.array([found[i].type_ids for i in places], item.dtype)
            yield places, feeds


def _load(request: Request) -> tuple[Any, Path]:
    asked = request.data.tokenizer
    place = request.beside(TOKENIZER) if asked is None else Path(asked)
    if place is None:
        raise DataError(
            f"text needs the model's tokenizer: put its {TOKENIZER} beside the model, or give --tokenizer FILE"
        )
    place = place / TOKENIZER if place.is_dir() else place
    if not place.is_file():
        raise OptionError(f"tokenizer '{asked}': no such file")
    tokenizers = need("tokenizers", "text", "tokens")
    try:
        return tokenizers.Tokenizer.from_file(str(place)), place
    except Exception as error:  # noqa: BLE001 - the library raises the base class itself
        raise OptionError(f"tokenizer '{place}': no {TOKENIZER}: {' '.join(str(error).split())[:200]}") from None


def _longest(tokenizer: Any, place: Path) -> int | None:
    """Return how many tokens the model was made for, as far as its tokenizer says."""
    config = place.parent / "tokenizer_config.json"
    said = tokenizer.truncation["max_length"] if tokenizer.truncation else None
    if said is None and config.is_file():
        try:
            said = json.loads(config.read_text(encoding="utf-8")).get("model_max_length")
        except (OSError, ValueError, AttributeError):
            said = None
    return int(said) if isinstance(said, int) and 0 < said <= MOST_TOKENS else None


def _padding(tokenizer: Any) -> tuple[int, str]:
    if tokenizer.padding:
        return tokenizer.padding["pad_id"], tokenizer.padding["pad_token"]
    for token in ("[PAD]", "<pad>", "<|endoftext|>", "</s>"):
        if (number := tokenizer.token_to_id(token)) is not None:
            return number, token
    return 0, "[PAD]"
