"""What samples are made of, and how it is read: what the user says, before any model is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ..errors import DataError, OptionError
from ..graph.load import PATH
from ..urls import here
from ..urls import located as under


@dataclass(frozen=True)
class Data:
    """Samples with a word on how to read them; stands wherever ``data`` does.

    Attributes
    ----------
    source : str, Path, dict, list or callable
        As for `onnxcompress.samples.samples.load_samples`.
    preprocess : str or Path, optional
        How images become numbers: imagenet, mobilenet, yolo, clip, unit, a ``.toml`` file or a
        ``preprocessor_config.json``.
    tokenizer : str or Path, optional
        How text becomes numbers: a ``tokenizer.json``, or the folder of one.
    columns : mapping, optional
        What a table's columns are: text, pair, labels, image, sound or a model input → column.
    length : int, optional
        Tokens or sound samples at most in each sample, where the model does not say.
    sample_rate : int, optional
        What the model takes sound at, in hertz.
    model : str or Path, optional
        The model's file, beside which tokenizers and configurations are looked for.
    """

    source: Any
    preprocess: str | Path | None = None
    tokenizer: str | Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None
    sample_rate: int | None = None
    model: str | Path | None = None

    def __post_init__(self) -> None:
        if isinstance(self.source, Data):
            raise OptionError("data: a Data of a Data; give its source")
        for name in ("length", "sample_rate"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise OptionError(f"data: {name} = {value!r}: expected a whole number above 0")
        if not isinstance(self.columns, Mapping):
            raise OptionError(f"data: columns = {self.columns!r}: expected a mapping such as {{'text': 'sentence'}}")

    def here(self) -> Data:
        """Return the same with copies of what lies under a URL."""
        copies: dict[str, Any] = {}
        for name in ("source", "preprocess", "tokenizer"):
            given = getattr(self, name)
            if isinstance(given, (str, Path)) and isinstance(under(given), str):
                copies[name] = here(given, DataError)
        return replace(self, **copies)

    @property
    def path(self) -> Path | None:
        """The file or folder that `source` names; None where it names none."""
        try:
            return Path(self.source) if isinstance(self.source, (str, Path)) and Path(self.source).exists() else None
        except (OSError, ValueError):  # a name that is too long, or no name at all
            return None


def as_data(data: Any) -> Data:
    """Return `data` as a `Data`, without a word on how to read it if it is none."""
    return data if isinstance(data, Data) else Data(data)


def located(data: Any, model: ir.Model) -> Any:
    """Return `data` with the model's file in it, so that it can be read where only the model's content is known.

    None, and what is no path, stays as it is.
    """
    path = model.meta.get(PATH)
    given = as_data(data)
    if path is None or given.model is not None or not isinstance(given.source, (str, Path)):
        return data
    return replace(given, model=path)


def parse_columns(text: str | None) -> dict[str, str]:
    """Read ``text=sentence1,pair=sentence2,labels=score``.

    Raises
    ------
    OptionError
        A part is not of that form.
    """
    columns = {}
    for part in (text or "").split(","):
        name, equals, column = (word.strip() for word in part.partition("="))
        if text and not (name and equals and column):
            raise OptionError(f"columns '{text}': expected name=column pairs, such as text=sentence,labels=label")
        if text:
            columns[name] = column
    return columns
