"""The options that say how --data is read, the same in every command that takes it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

READ = {"data", "evaluate_on"}
"""Parameters of a command that are samples."""

HOW: dict[str, Any] = {
    "preprocess": Annotated[
        str | None,
        typer.Option(
            "--preprocess",
            metavar="NAME|FILE",
            help="How images become numbers: imagenet, mobilenet, yolo, clip, unit, a .toml or .json file.",
        ),
    ],
    "tokenizer": Annotated[
        str | None,
        typer.Option("--tokenizer", metavar="FILE", help="How text becomes numbers: a tokenizer.json."),
    ],
    "columns": Annotated[
        str | None,
        typer.Option("--columns", metavar="NAME=COLUMN,...", help="Of a table: text=sentence,labels=kind and so on."),
    ],
    "length": Annotated[
        int | None,
        typer.Option("--length", metavar="N", min=1, help="At most so many tokens, or values of sound, in a sample."),
    ],
    "sample_rate": Annotated[
        int | None,
        typer.Option("--sample-rate", metavar="HZ", min=1, help="What the model takes sound at."),
    ],
}
"""Field of `Data` → its option."""


def reads_data(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options of `HOW`, and hand it a `Data` in the place of what --data and --evaluate-on name."""
    signature = inspect.signature(command, eval_str=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    own = [parameter.replace(kind=keyword) for parameter in signature.parameters.values()]
    place = next(i for i, parameter in enumerate(own) if parameter.name == "data") + 1
    how = [inspect.Parameter(name, keyword, default=None, annotation=kind) for name, kind in HOW.items()]

    @functools.wraps(command)
    def reading(**values: Any) -> int:
        given = {name: value for name in HOW if (value := values.pop(name)) is not None}
        return command(**values | _read(values, given))

    reading.__signature__ = signature.replace(parameters=[*own[:place], *how, *own[place:]])  # type: ignore[attr-defined]
    reading.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *how]} | {"return": int}
    return reading


def _read(values: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return the samples of a command line, each with how it is read."""
    from ..samples.data import Data, parse_columns

    named = {name: values[name] for name in READ & values.keys() if values[name] is not None}
    if given and not named:
        raise typer.BadParameter(f"--{next(iter(given)).replace('_', '-')} says how --data is read: give --data too")
    if "columns" in given:
        given["columns"] = parse_columns(given["columns"])
    return {name: Data(source, **given) for name, source in named.items()}
