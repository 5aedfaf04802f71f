"""The training interpreter as a process: started, listened to, and never left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import TrainingError
from ..progress import Progress, silent
from .engines import DEFAULT, ENGINES, Engine, EngineName

WORKER = Path(__file__).resolve().with_name("worker.py")
LOG = "worker.log"


def choose_engine(wanted: EngineName | Literal["auto"], progress: Progress = silent) -> tuple[Engine, str]:
    """Return the engine that trains, and why it is not the default one (empty where it is, or another was asked for).

    Raises
    ------
    TrainingError
        onnxruntime-training was asked for by name, and its interpreter cannot be set up.
    """
    if wanted == "onnxruntime":
        return ENGINES[wanted], ""
    progress("setting up the training interpreter", 0, 1)
    try:
        _set_up(find_uv())
    except TrainingError as error:
        if wanted == DEFAULT.name:
            raise TrainingError(f"{error}; engine=onnxruntime trains without it") from None
        return ENGINES["onnxruntime"], f"{error}; the installed onnxruntime trains in its place"
    return DEFAULT, ""


_READY: set[str] = set()
"""Those uv that have set up the interpreter in this process."""


def _set_up(uv: str) -> None:
    """Let uv make the interpreter, or find that it is there."""
    if uv in _READY:
        return
    done = subprocess.run([*_uv_run(uv)], capture_output=True, env=_environment(), check=False)
    if done.returncode:
        raise TrainingError(f"uv cannot set up the training interpreter: {_first_error(done.stderr)}")
    _READY.add(uv)


def _uv_run(uv: str) -> list[str]:
    """Return the command that runs the worker with the packages, and hashes, of its lock file."""
    return [uv, "run", "--no-project", "--frozen", "--script", str(WORKER)]


def _first_error(text: bytes) -> str:
    """Return the line of uv's output that tells what is wrong."""
    lines = [line.strip(" ×│├─▶╰") for line in text.decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    first = (errors or lines or ["it says nothing"])[0]
    more = lines[lines.index(first) + 1 :] if first in lines else []
    cause = next((line for line in more if line.lower().startswith("caused by")), "")
    return f"{first.removeprefix('error: ')}{f' ({cause})' if cause else ''}"[:300]


def find_uv() -> str:
    """Return the path of uv, from its own wheel or from PATH."""
    try:
        import uv

        return str(uv.find_uv_bin())
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv")
    if found is None:
        raise TrainingError(
            'training needs uv to set up its interpreter; get it with: pip install "onnxcompress[train]"'
        )
    return found


@dataclass
class Answer:
    """How the worker ended (empty when it has done its job), and what else it said, by event."""

    failed: str = ""
    said: dict[str, dict[str, Any]] = field(default_factory=dict)


def run_worker(folder: Path, log: Path, progress: Progress, engine: Engine) -> Answer:
    """Let an engine do the job that lies in `folder`.

    Raises
    ------
    TrainingError
        uv, which sets the default engine's interpreter up, is not there.
    """
    command = _uv_run(find_uv()) if engine is DEFAULT else [sys.executable, str(WORKER)]
    progress("starting the training interpreter", 0, 1)
    with log.open("wb") as errors, _started([*command, str(folder)], errors) as process:
        answer = Answer()
        for line in process.stdout or ():
            message = _read_message(line)
            if message.get("event") == "step":
                progress(message["what"], message["done"], message["total"])
            elif message:
                answer.said[str(message.get("event"))] = message
        code = process.wait()
    if "done" not in answer.said:
        answer.failed = _what_happened(code, log)
    return answer


def _environment() -> dict[str, str]:
    """Return ours without what points this interpreter to its packages: that must not reach the other one."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONSAFEPATH", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in hidden} | {"UV_NO_PROGRESS": "1"}


def _read_message(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def _what_happened(code: int, log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    said = f": {lines[-1][:300]}" if lines else ""
    return f"the training interpreter ended with code {code}{said}"


@contextmanager
def _started(command: list[str], errors: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start the worker in a process group of its own, and leave none of it behind, whatever happens."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=_environment() if command[0] != sys.executable else None,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End uv and the worker that it started; a worker that this misses ends when its stdin closes."""
    if process.poll() is not None:
        return
    if sys.platform == "win32":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
