"""Prune the kit's models with Torch-Pruning, by way of onnx2torch; print scores beside the MACs that are left.

    python benchmarks/peers/torch_pruning_recovery.py KIT_FOLDER [--share 0.1 0.25 0.5] [MODEL ...]

Runs in the environment of ``benchmarks/architectures`` with ``onnx2torch`` and ``torch-pruning`` added. Like
``benchmarks/recovery.py`` it takes a share of the multiply-accumulates away, trains nothing, and scores on the test
split. Only models that onnx2torch converts are here.
"""

from __future__ import annotations

import argparse
import copy
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "architectures"))
from loading import load_kit
from networks import allow_missing_torchvision_operators

allow_missing_torchvision_operators()
import onnx2torch  # noqa: E402
import torch_pruning as tp  # noqa: E402

MODELS = ("resnet20_cifar10", "resnet56_cifar10", "mobilenet_v1_025_imagenet")
STEPS = 12
"""Halvings of the pruning ratio."""

IMPORTANCES: dict[str, tuple[Any, bool]] = {
    "l2": (lambda: tp.importance.GroupMagnitudeImportance(p=2), False),
    "l2 global": (lambda: tp.importance.GroupMagnitudeImportance(p=2), True),
    "lamp global": (lambda: tp.importance.LAMPImportance(p=2), True),
    "fpgm": (lambda: tp.importance.FPGMImportance(p=2), False),
    "taylor": (lambda: tp.importance.GroupTaylorImportance(), False),
    "taylor global": (lambda: tp.importance.GroupTaylorImportance(), True),
}


def samples(kit: ModuleType, name: str, count: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    """Return calibration images and labels."""
    feeds, labels = kit.feeds(name, "calib"), kit.labels(name, "calib")
    chosen = np.random.default_rng(0).permutation(len(feeds))[:count]
    images = np.concatenate([next(iter(feeds[i].values())) for i in chosen])
    return torch.from_numpy(images), torch.from_numpy(
        np.array([labels[i] for i in chosen]).reshape(-1).astype(np.int64)
    )


def left_alone(network: torch.nn.Module, image: torch.Tensor) -> list[torch.nn.Module]:
    """Return the layers whose outputs other layers' are added to, and the last.

    Torch-Pruning fails on the kit's ResNets, whose shortcuts pad channels, unless it leaves the streams alone.
    """
    layers = [m for m in network.modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))]
    graph = tp.DependencyGraph().build_dependency(network, example_inputs=image)
    shared = []
    for layer in layers:
        if getattr(layer, "groups", 1) > 1:
            continue  # depthwise: it goes with what feeds it
        prune = tp.prune_linear_out_channels if isinstance(layer, torch.nn.Linear) else tp.prune_conv_out_channels
        others = {
            d.target.module for d, _ in graph.get_pruning_group(layer, prune, [0]) if "prune_out" in str(d.handler)
        }
        if any(isinstance(m, torch.nn.Conv2d) and m is not layer and m.groups == 1 for m in others):
            shared.append(layer)
    return [*shared, layers[-1]]


def pruned(network: torch.nn.Module, image: torch.Tensor, data: Any, kind: str, ratio: float) -> torch.nn.Module:
    """Prune a copy: gradients of the loss on all samples first, where the criterion looks at them."""
    network = copy.deepcopy(network)
    importance, everywhere = IMPORTANCES[kind]
    pruner = tp.pruner.MetaPruner(
        network,
        image,
        importance(),
        pruning_ratio=ratio,
        global_pruning=everywhere,
        ignored_layers=left_alone(network, image),
    )
    if "taylor" in kind:
        network.zero_grad()
        torch.nn.functional.cross_entropy(network(data[0]).flatten(1), data[1]).backward()
    pruner.step()
    return network


def reach(network: torch.nn.Module, image: torch.Tensor, data: Any, kind: str, share: float) -> torch.nn.Module:
    """Find the smallest ratio that takes a share of the MACs away."""
    whole, _ = tp.utils.count_ops_and_params(network, image)
    low, high, best = 0.0, 1.0, None
    for _ in range(STEPS):
        ratio = (low + high) / 2
        candidate = pruned(network, image, data, kind, ratio)
        macs, _ = tp.utils.count_ops_and_params(candidate, image)
        if macs <= (1 - share) * whole:
            high, best = ratio, candidate
        else:
            low = ratio
    assert best is not None
    return best


class Session:
    """Runs a network as the kit runs an ONNX Runtime session; PyTorch cannot export what onnx2torch makes."""

    def __init__(self, network: torch.nn.Module) -> None:
        self._network = network

    def run(self, names: list[str] | None, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Return the one output."""
        with torch.no_grad():
            return [self._network(torch.from_numpy(next(iter(feeds.values())))).numpy()]


def rows(kit: ModuleType, folder: Path, name: str, shares: list[float]) -> None:
    """Print one model's rows."""
    network = onnx2torch.convert(onnx.load(folder / "models" / f"{name}.onnx")).eval()
    data = samples(kit, name)
    image = data[0][:1]
    whole, _ = tp.utils.count_ops_and_params(network, image)
    for share in shares:
        for kind in IMPORTANCES:
            try:
                small = reach(network, image, data, kind, share)
                macs, _ = tp.utils.count_ops_and_params(small, image)
                result = f"{kit.score(name, Session(small)):.4f} {macs / whole:.3f}"
            except Exception as error:  # noqa: BLE001 - a peer may fail in any way, and that is its row
                result = f"fails: {type(error).__name__}: {str(error)[:80]}"
            print(f"{name:28s} {share:4.2f} {kind:14s} {result}", flush=True)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kit", type=Path)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--share", type=float, nargs="+", default=[0.1, 0.25, 0.5])
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    kit = load_kit(options.kit)
    for name in options.models:
        rows(kit, options.kit, name, options.share)
    return 0


if __name__ == "__main__":
    sys.exit(main())
