"""``onnxcompress`` and ``python -m onnxcompress``."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line; an interrupt while it is still being imported ends the process without a word."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .cli import main as run

    signal.signal(signal.SIGINT, before)
    run()


if __name__ == "__main__":
    main()
