"""Does the job in the folder that the command line names, and tells its story on stdout."""

import sys
import threading
from pathlib import Path

from .saliency import measure
from .tell import leave_with_parent, read_job, tell
from .training import train


def main(folder: Path) -> None:
    """Do the job that `folder` describes."""
    threading.Thread(target=leave_with_parent, daemon=True).start()
    job = read_job(folder)
    (measure if "result" in job else train)(job, folder)
    tell(event="done")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
