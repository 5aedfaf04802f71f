"""Which tokens stay."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxcompress.errors import DataError
from onnxcompress.samples.samples import Samples

Indices = npt.NDArray[np.int64]

BYTES = "<0x"
"""How tokens that stand for single bytes begin."""
INSIDE = "##"
"""How WordPiece marks what stands inside a word."""


def counts(samples: Samples, inputs: Sequence[str], size: int) -> Indices:
    """Return how often each token occurs in samples."""
    found = np.zeros(size, np.int64)
    for feeds in samples.batches():
        for name in inputs:
            ids = np.asarray(feeds[name]).ravel().astype(np.int64)
            _check(f"input '{name}'", ids, size)
            found += np.bincount(ids[ids >= 0], minlength=size)
    return found


def listed(path: Path, size: int) -> Indices:
    """Read numbers of tokens, one in a line."""
    try:
        lines = path.read_text(encoding="utf-8").split()
        ids = np.unique(np.array([int(line) for line in lines], np.int64))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"tokens = '{path}': cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except (ValueError, OverflowError) as error:
        raise DataError(f"tokens = '{path}': expected whole numbers, one in a line: {error}") from None
    if not len(ids):
        raise DataError(f"tokens = '{path}': it names no token")
    _check(str(path), ids, size, least=0)
    return ids


def _check(where: str, ids: Indices, size: int, least: int = -1) -> None:
    if len(ids) and (ids.max() >= size or ids.min() < least):
        wrong = ids.max() if ids.max() >= size else ids.min()
        raise DataError(f"{where} holds token {wrong}, and the table has {size:,} rows (0 to {size - 1})")


def of_tokenizer(path: Path, wanted: Indices, size: int) -> tuple[Indices, int]:
    """Add what a tokenizer needs to make these tokens; returns its unknown token, too, or -1."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        model, added = content["model"], content.get("added_tokens") or []
        vocabulary = model["vocab"]
        ids = vocabulary if isinstance(vocabulary, dict) else {token: i for i, (token, _) in enumerate(vocabulary)}
        special = [int(token["id"]) for token in added]
        merges = [_pair(merge) for merge in model.get("merges") or ()]
        unknown = model.get("unk_id", ids.get(model.get("unk_token"), -1))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"tokenizer = '{path}': is no tokenizer.json that can be read: {error!r}") from None
    _check(f"tokenizer = '{path}'", np.array([*ids.values(), *special], np.int64), size)
    kept = {*wanted.tolist(), *special, *(i for token, i in ids.items() if _is_single(token))}
    names = {i: token for token, i in ids.items()}
    parts: dict[str, list[str]] = {}
    for left, right in merges:
        parts.setdefault(left + right, []).extend((left, right))
    kept |= {ids[token] for i in list(kept) for token in _made_of(names.get(i, ""), parts) if token in ids}
    return np.array(sorted(kept), np.int64), -1 if unknown is None else int(unknown)


def _pair(merge: str | list[str]) -> tuple[str, str]:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right


def _is_single(token: str) -> bool:
    return len(token.removeprefix(INSIDE)) <= 1 or (token.startswith(BYTES) and len(token) == len(BYTES) + 3)


def _made_of(token: str, parts: dict[str, list[str]]) -> Iterator[str]:
    """Yield all that a token may be merged of, itself included."""
    waiting, seen = [token], {token}
    while waiting:
        one = waiting.pop()
        yield one
        new = [part for part in parts.get(one, ()) if part not in seen]
        seen.update(new)
        waiting += new
