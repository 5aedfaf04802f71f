"""Prune real pretrained models with and without compensation, without training; print scores on test data.

    python benchmarks/recovery.py KIT_FOLDER [--sparsity 0.1 0.25 0.5] [--inner] [MODEL ...]

KIT_FOLDER is as for ``kit.py``. Samples come from the calibration split (512 drawn from a seed), scores from the test
split through plain ONNX Runtime, after `Shrink`. `--inner` prunes only groups that one weight makes: the insides of
residual blocks and not the streams that all blocks of a stage share.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from kit import SCORED, load_kit, score

from onnxcompress import OnnxCompressError, apply
from onnxcompress.channels.groups import find_groups
from onnxcompress.contract import Pass
from onnxcompress.graph.load import load
from onnxcompress.passes import FoldBatchNorm, FoldConstants, PruneChannels, Shrink

VARIANTS: dict[str, dict[str, Any]] = {
    "l2": {},
    "l2 + comp.": {"compensate": True},
    "rec. + comp.": {"importance": "reconstruction", "compensate": True},
    "rec. global + comp.": {"importance": "reconstruction", "compensate": True, "ranking": "global"},
}


def samples(kit: ModuleType, name: str, count: int = 512) -> Any:
    """Draw calibration samples: one array for each input, or a list of feeds where shapes differ."""
    feeds: list[dict[str, Any]] = kit.feeds(name, "calib")
    drawn = [feeds[i] for i in np.random.default_rng(0).permutation(len(feeds))[:count]]
    if len({tuple(a.shape for a in feed.values()) for feed in drawn}) > 1:
        return drawn
    return {key: np.concatenate([feed[key] for feed in drawn]) for key in drawn[0]}


def shared(path: Path) -> tuple[str, ...]:
    """Return the groups that more than one weight makes."""
    model, _ = apply(load(path), [FoldConstants(), FoldBatchNorm()])
    groups = find_groups(model).prunable
    return tuple(g.name for g in groups if sum(m.role == "out" for m in g.members) > 1)


def rows(kit: ModuleType, folder: Path, name: str, shares: list[float], budget: str, *, inner: bool) -> None:
    """Print one model's table."""
    source = folder / "models" / f"{name}.onnx"
    data = samples(kit, name)
    exclude = shared(source) if inner else ()
    print(f"{name}: original {score(kit, name, source):.4f}", flush=True)
    for share in shares:
        for variant, options in VARIANTS.items():
            prune = PruneChannels(sparsity=share, budget=budget, exclude=exclude, **options)  # type: ignore[arg-type]
            recipe: list[Pass] = [FoldConstants(), FoldBatchNorm(), prune, Shrink()]
            with tempfile.TemporaryDirectory() as temporary:
                target = Path(temporary, "pruned.onnx")
                start = time.perf_counter()
                _, report = apply(source, recipe, data=data, output=target)
                seconds = time.perf_counter() - start
                macs = [stage.macs or 0 for stage in report.stages]
                left = macs[-1] / max(macs[0], 1)
                print(f"  {share:4.2f} {variant:20s} {score(kit, name, target):7.4f}", end="")
                print(f"  macs {left:.3f}  bytes {target.stat().st_size / source.stat().st_size:.3f}", end="")
                print(f"  {seconds:5.0f} s  refused {len(report.steps[2].refused)}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kit", type=Path)
    parser.add_argument("models", nargs="*", default=SCORED)
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.1, 0.25, 0.5])
    parser.add_argument("--budget", default="macs", help="what the sparsity is a share of: channels, macs, …")
    parser.add_argument("--inner", action="store_true")
    options = parser.parse_args()
    kit = load_kit(options.kit)
    for name in options.models:
        try:
            rows(kit, options.kit, name, options.sparsity, options.budget, inner=options.inner)
        except OnnxCompressError as error:
            print(f"{name}: {error}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
