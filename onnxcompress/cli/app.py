"""What all commands share: how they end, and the options that more than one takes."""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, runtime_checkable

import typer
from typer.core import TyperGroup

from ..errors import OnnxCompressError, VerifyError
from ..signals import how_it_ended, raise_on_end

if TYPE_CHECKING:
    from ..evidence import Verdict

FELL_SHORT, UNUSABLE, INTERNAL, PIPE_CLOSED = 1, 2, 70, 141
"""Exit statuses, beside 0; whoever is ended by a signal ends with 128 and its number."""


@runtime_checkable
class WrongUsage(Protocol):
    """What Typer raises where a command line is wrong; its class is click's, or that of a click of Typer's own."""

    def format_message(self) -> str:
        """Say what is wrong."""


class Commands(TyperGroup):
    """Turns whatever ends a command into one line on stderr and an exit status."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run a command line, and end the process with its exit status."""
        options["standalone_mode"] = False
        try:
            status = super().main(*args, **options)
        except Exception as error:
            if isinstance(error, WrongUsage):
                sys.exit(_usage(error))
            if os.environ.get("ONNXCOMPRESS_DEBUG") and not isinstance(error, OnnxCompressError):
                raise
            status = _failed(error)
        sys.exit(status or 0)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, and leave the command line as it was typed in ``ctx.meta["command"]``."""
        ctx.meta["command"] = shlex.join(["onnxcompress", *args])
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> int:
        """Run a command; what Typer would answer in its own way is answered here."""
        from ..display import console

        try:
            return super().invoke(ctx) or 0
        except KeyboardInterrupt as error:
            word, status = how_it_ended(error)
            console.say(f"{word}; {ctx.meta.get('written', 'nothing')} was written")
            return status
        except BrokenPipeError:
            console.drop_output()
            return PIPE_CLOSED


def _usage(error: WrongUsage) -> int:
    from ..display import console

    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "onnxcompress"
    console.say(f"error: {error.format_message().rstrip('.')}; see {command} --help")
    return UNUSABLE


def _failed(error: Exception) -> int:
    from ..display import console

    if isinstance(error, OnnxCompressError):
        console.say(f"error: {error}")
        return FELL_SHORT if isinstance(error, VerifyError) else error.exit_code
    if isinstance(error, MemoryError):
        console.say(f"error: not enough memory{f' ({error})' if str(error) else ''}; give fewer or smaller samples")
        return UNUSABLE
    if isinstance(error, OSError) and error.strerror is not None:
        console.say(f"error: {error.filename or 'a file'}: {error.strerror}")
        return UNUSABLE
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    console.say(f"error: internal error: {what}; run with ONNXCOMPRESS_DEBUG=1 for the traceback")
    return INTERNAL


app = typer.Typer(
    cls=Commands,
    help="Make exported ONNX models small and fast, with the evidence that they still do their job.",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"onnxcompress {version('onnxcompress')}")
        raise typer.Exit


@app.callback(help=app.info.help)
def start(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take what stands before the command."""


def share(text: str) -> float:
    """Read a number, which may be in percent: "1%" is 0.01."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise typer.BadParameter(f"{text!r}: expected a number such as 0.01, or 1%") from None


def find_model(path: Any) -> Any:
    """Return the .onnx file of each folder that is given in the place of one; callback of arguments."""
    if path is None:
        return None
    from ..graph.exports import model_file

    return [model_file(each) for each in path] if isinstance(path, (list, tuple)) else model_file(path)


def find_folder(path: Path) -> Path:
    """Return a file, or a folder with models in it, as it is given; callback of arguments that are written whole."""
    from ..graph.exports import model_file
    from ..package.folder import models_in

    return path if path.is_dir() and models_in(path) else model_file(path)


ModelPath = Annotated[
    Path, typer.Argument(metavar="MODEL", callback=find_model, help="An .onnx file, or a folder with one.")
]
ModelOrFolder = Annotated[
    Path,
    typer.Argument(metavar="MODEL", callback=find_folder, help="An .onnx file, or a folder with models; see -o."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data", help="Samples: pictures, sound, text, tables, arrays, a folder of them, file.py:function, random."
    ),
]
JudgeOption = Annotated[
    str | None,
    typer.Option("--evaluate-on", metavar="DATA", help="Samples to measure on, which no pass sees; as for --data."),
]
MetricOption = Annotated[
    str | None,
    typer.Option(
        "--metric",
        help="top1, agreement, cosine, boxes, perplexity, ..., cosine:OUTPUT, or file.py:function.",
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        "--max-drop",
        metavar="X",
        parser=share,
        help="How much of the metric may be lost: 0.01, or 1%. Exit with status 1 unless the samples show that.",
    ),
]
TableOption = Annotated[
    Path | None,
    typer.Option("--table", metavar="FILE.json", help="Times of layers that measure wrote, in place of measuring."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")]
SchedulerOption = Annotated[
    str | None,
    typer.Option("--scheduler", metavar="ADDRESS", help="Of a Dask cluster that shares the work: tcp://host:8786."),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seeds everything random.")]


def exit_status(verdict: Verdict | None) -> int:
    """Return the exit status that a verdict stands for, and say on stderr why it is not 0."""
    from ..display import console

    if verdict is None or verdict.holds:
        return 0
    console.say(" ".join(f"{text}." for text in (verdict.sentence, *verdict.details)))
    return FELL_SHORT


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    raise_on_end()
    warnings.showwarning = lambda message, *_, **__: _warn(message)
    app()


def _warn(message: Warning | str) -> None:
    """Say in one line what a library or onnxcompress warns of."""
    from ..display import console

    console.say(f"warning: {message}")
