"""A virtual environment for each peer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from candidates import ENVIRONMENTS


class InstallError(Exception):
    """A peer does not install."""


def python_of(name: str | None, cache: Path, *, here: bool) -> Path:
    """Return an environment's interpreter, and make the environment if it is not there.

    Raises
    ------
    InstallError
        With pip's last words. The next call tries again.
    """
    if name is None or here:
        return Path(sys.executable)
    folder = (cache / "environments" / name).absolute()
    python = folder / "bin" / "python"
    if (folder / "packages.txt").exists():
        return python
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    done = subprocess.run(
        [python, "-m", "pip", "install", "-q", *ENVIRONMENTS[name]], capture_output=True, text=True, check=False
    )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise InstallError(f"does not install: {(errors or ['pip failed'])[-1]}")
    (folder / "packages.txt").write_text("\n".join(packages(python)) + "\n", encoding="utf-8")
    return python


def packages(python: Path) -> list[str]:
    """Return what an interpreter has installed, as ``name==version``."""
    done = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()
