"""``--provider``, ``--provider-option`` and ``--custom-ops``, for every command that runs models."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

OPTIONS = {
    "provider": Annotated[
        str | None,
        typer.Option("--provider", metavar="NAME", help="Where to run: cpu, cuda, openvino, directml, qnn, coreml, …"),
    ],
    "provider_option": Annotated[
        list[str] | None, typer.Option("--provider-option", metavar="KEY=VALUE", help="An option of the provider.")
    ],
    "custom_ops": Annotated[
        list[Path] | None, typer.Option("--custom-ops", metavar="LIBRARY", help="A library of operators.")
    ],
}


def on_provider(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options that say where models run, and run it there."""

    @wraps(command)
    def run(
        *args: Any,
        provider: str | None = None,
        provider_option: list[str] | None = None,
        custom_ops: list[Path] | None = None,
        **options: Any,
    ) -> int:
        if not provider and not provider_option and not custom_ops:
            return command(*args, **options)
        from ..runtime.provider import Provider, running_on

        with running_on(Provider.parse(provider, provider_option or (), custom_ops or ())):
            return command(*args, **options)

    signature = inspect.signature(command, eval_str=True)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in OPTIONS.items()
    ]
    places = [*signature.parameters.values(), *added]
    # Those of the command may stand before them whatever their kind: all of them are given by name.
    given = [place.replace(kind=inspect.Parameter.KEYWORD_ONLY) for place in places]
    run.__signature__ = signature.replace(parameters=given)  # type: ignore[attr-defined]
    run.__annotations__ = {place.name: place.annotation for place in given}
    return run
