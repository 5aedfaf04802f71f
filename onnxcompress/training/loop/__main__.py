"""Does the job in the folder that the command line names, and tells its story on stdout."""

import sys
import threading
from pathlib import Path

from .rehearse import rehearse
from .saliency import measure
from .tell import leave_with_parent, read_job, tell
from .training import train

JOBS = {"train": train, "rehearse": rehearse, "measure": measure}


def main(folder: Path) -> None:
    """Do the job that `folder` describes."""
    threading.Thread(target=leave_with_parent, daemon=True).start()
    job = read_job(folder)
    JOBS[job["kind"]](job, folder)
    tell(event="done")


if __name__ == "__main__":
    if len(sys.argv) > 1:  # without a folder it is only made sure that there is an interpreter to run in
        main(Path(sys.argv[1]))
