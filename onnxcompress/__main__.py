"""``python -m onnxcompress``."""

from .cli import main

main()
