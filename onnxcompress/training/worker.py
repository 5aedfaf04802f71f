# /// script
# requires-python = ">=3.10,<3.13"
# dependencies = ["onnxruntime-training-cpu==1.19.2", "onnx==1.16.2", "numpy"]
# ///
"""``worker.py FOLDER`` does the job that lies in a folder; runs in an interpreter of its own.

uv makes that from the lines above, or it is the one that runs onnxcompress, as a process of its own. What it does
stands in the folder `loop`, which imports nothing of onnxcompress: that is not installed in the other interpreter.
"""

import runpy

if __name__ == "__main__":
    runpy.run_module("loop", run_name="__main__", alter_sys=True)
