# /// script
# requires-python = ">=3.10,<3.13"
# dependencies = ["onnxruntime-training-cpu==1.19.2", "onnx==1.16.2", "numpy"]
# ///
"""Differentiate many objectives in one training interpreter.

Started by `test_gradients.py`: ``run_gradients.py ENGINE FOLDER`` with the path of `loop/engine.py`; each folder in
FOLDER holds ``objective.onnx`` and ``feeds.npz``, and gets ``gradients.npz`` or ``error.txt``.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def main(source: str, cases: Path) -> None:
    onnxruntime.set_default_logger_severity(4)
    package = Path(source).parent
    sys.path.insert(0, str(package.parent))
    engine = importlib.import_module(f"{package.name}.{Path(source).stem}")
    for case in cases.iterdir():
        feeds = dict(np.load(case / "feeds.npz"))
        weights = [name.removeprefix("weight:") for name in feeds if name.startswith("weight:")]
        try:
            session = engine.open_session(case / "objective.onnx", {"threads": 1})
            values = {name.removeprefix("weight:"): value for name, value in feeds.items()}
            results = session.run([engine.LOSS, *(f"{name}_grad" for name in weights)], values)
            np.savez(case / "gradients.npz", **dict(zip([engine.LOSS, *weights], results, strict=True)))
        except Exception as error:  # noqa: BLE001 - the test shows whatever it is
            (case / "error.txt").write_text(str(error))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
