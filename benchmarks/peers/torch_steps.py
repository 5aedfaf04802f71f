"""Take training steps of an ONNX model in PyTorch, whenever a line asks for some; started by ``distill/speed.py``.

    python torch_steps.py STUDENT.onnx FEEDS.npz THREADS

Runs in the environment of ``benchmarks/architectures`` with ``onnx2torch`` added. The loss is KL at temperature 4 with
the array "teacher" of FEEDS, the optimizer PyTorch's fused AdamW; a line is answered as by ``distill/steps.py``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1] / "architectures"))
from networks import allow_missing_torchvision_operators

allow_missing_torchvision_operators()
import onnx2torch  # noqa: E402

TEMPERATURE = 4.0


def main(model: str, feeds: str, threads: int) -> None:
    """Answer lines until there are none."""
    torch.set_num_threads(threads)
    network = onnx2torch.convert(model).train()
    free = [p for p in network.parameters() if p.is_floating_point() and p.requires_grad]
    optimizer = torch.optim.AdamW(free, lr=1e-4, weight_decay=0.01, fused=True)
    arrays = {name: torch.from_numpy(array) for name, array in np.load(feeds).items()}
    target = functional.softmax(arrays.pop("teacher") / TEMPERATURE, -1)

    def step() -> float:
        optimizer.zero_grad()
        logits = network(*arrays.values())
        loss = functional.kl_div(functional.log_softmax(logits / TEMPERATURE, -1), target, reduction="batchmean")
        loss = loss * TEMPERATURE**2
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    for line in sys.stdin:
        end, seconds = time.monotonic() + float(line), []
        while not seconds or time.monotonic() < end:
            start = time.perf_counter()
            loss = step()
            seconds.append(time.perf_counter() - start)
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        peak = int(status["VmHWM"].split()[0]) / 1024
        print(json.dumps({"seconds": seconds, "megabytes": peak, "loss": loss}), flush=True)


main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
