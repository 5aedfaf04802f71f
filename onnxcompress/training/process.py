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
from typing import Any

from ..errors import TrainingError
from ..progress import Progress

WORKER = Path(__file__).resolve().with_name("worker.py")
LOG = "worker.log"


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


def run_worker(folder: Path, log: Path, progress: Progress) -> Answer:
    """Let the training interpreter do the job that lies in `folder`.

    Raises
    ------
    TrainingError
        uv, which sets the interpreter up, is not there.
    """
    command = [find_uv(), "run", "--no-project", "--script", str(WORKER), str(folder)]
    progress("setting up the training interpreter", 0, 1)
    with log.open("wb") as errors, _started(command, errors) as process:
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
    # What points our interpreter to its packages must not reach the other one.
    hidden = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONSAFEPATH", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=environment | {"UV_NO_PROGRESS": "1"},
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
