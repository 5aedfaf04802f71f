"""Prune real pretrained models with and without compensation, without training; print scores on test data.

    python benchmarks/recovery.py KIT_FOLDER [MODEL ...] [--sparsity 0.1 0.25 0.5] [--only NAME ...] [--results FILE]

KIT_FOLDER is as for ``kit.py``; the model `digits` is the demonstration's own, with its own data. Samples come from the
calibration split (512 drawn from a seed), scores from the test split through plain ONNX Runtime, after `Shrink`.
With `--results`, each line is kept in a file as it comes, and what is there already is not measured again. A table in
Markdown comes last.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime as ort
from kit import score
from loading import load_kit

from onnxcompress import OnnxCompressError, apply
from onnxcompress.demo.data import load_split
from onnxcompress.passes import FoldBatchNorm, FoldConstants, PruneChannels, Shrink

MODELS = (
    "digits",
    "resnet20_cifar10",
    "resnet56_cifar10",
    "mobilenet_v1_025_imagenet",
    "vit_cifar10",
    "ppocr_cls",
    "ppocr_rec",
    "minilm_l6_v2",
)

VARIANTS: dict[str, dict[str, Any]] = {
    "l2": {},
    "wanda": {"importance": "wanda"},
    "reconstruction, global": {"importance": "reconstruction", "ranking": "global"},
    "l2, fitted to noise": {"compensate": True},
    "l2, fitted": {"compensate": True},
    "reconstruction, fitted": {"importance": "reconstruction", "compensate": True},
    "reconstruction, global, fitted": {"importance": "reconstruction", "ranking": "global", "compensate": True},
    "the same in 3 steps": {"importance": "reconstruction", "ranking": "global", "compensate": True, "steps": 3},
}
"""Magnitude; other criteria; with compensation, first without samples."""

WITHOUT_SAMPLES = {"l2", "l2, fitted to noise"}


@dataclass(frozen=True)
class Subject:
    """A model with the samples that passes see, and its score on others. `folded` is without BatchNormalization."""

    name: str
    path: Path
    folded: Path
    samples: list[dict[str, Any]]
    kit: ModuleType

    @property
    def few(self) -> dict[str, Any]:
        """A few samples for the report, which is not what is printed here."""
        return {key: array[:2] for key, array in self.samples[0].items()}

    @classmethod
    def of(cls, kit: ModuleType, folder: Path, name: str, temporary: Path, count: int = 512) -> Subject:
        """Load a model of the kit, or the demonstration's."""
        digits = Path(__file__).parents[1] / "models" / "digits.onnx"
        path = digits if name == "digits" else folder / "models" / f"{name}.onnx"
        folded = temporary / f"{name}.onnx"
        apply(path, [FoldConstants(), FoldBatchNorm()], output=folded)
        feeds = [{"image": load_split("train")[0][:count]}] if name == "digits" else kit.feeds(name, "calib")
        return cls(name, path, folded, feeds if name == "digits" else draw(feeds, count), kit)

    def score(self, path: Path) -> float:
        """Score a model in the place of this one."""
        if self.name != "digits":
            return score(self.kit, self.name, path)
        images, labels = load_split("test")
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return float((session.run(None, {"image": images})[0].argmax(1) == labels).mean())


def draw(feeds: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Draw samples, and put those of the same shape together."""
    drawn: dict[Any, list[dict[str, Any]]] = {}
    for i in np.random.default_rng(0).permutation(len(feeds))[:count]:
        drawn.setdefault(tuple(a.shape for a in feeds[i].values()), []).append(feeds[i])
    return [{key: np.concatenate([feed[key] for feed in same]) for key in same[0]} for same in drawn.values()]


class Results:
    """One JSON object a line, kept in a file if there is one."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path is not None and path.exists() else []
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def has(self, model: str, share: float, variant: str) -> bool:
        """Tell whether this has been measured."""
        return any((r["model"], r["share"], r["variant"]) == (model, share, variant) for r in self.rows)

    def add(self, **row: Any) -> None:
        """Print a row and keep it."""
        text = " ".join(f"{key}={value:.4g}" if isinstance(value, float) else str(value) for key, value in row.items())
        print(text, flush=True)
        self.rows.append(row)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def table(self, models: list[str]) -> str:
        """Return scores as a table in Markdown, models and shares down, variants across; the best of each row bold."""
        lines = [f"| model (original) | MACs gone | {' | '.join(VARIANTS)} |", "|---|---|" + "---|" * len(VARIANTS)]
        for model in models:
            scores = {(r["share"], r["variant"]): r["score"] for r in self.rows if r["model"] == model}
            name = f"{model} ({scores.get((0, 'original'), float('nan')):.3f})"
            for share in sorted({share for share, _ in scores if share}):
                best = max(score for (other, _), score in scores.items() if other == share)
                row = (scores.get((share, variant)) for variant in VARIANTS)
                cells = ("–" if s is None else f"**{s:.3f}**" if s == best else f"{s:.3f}" for s in row)
                lines.append(f"| {name} | {share:.0%} | {' | '.join(cells)} |")
                name = ""
        return "\n".join(lines).replace("0.", ".")


def measure(subject: Subject, share: float, variant: str, budget: str, results: Results) -> None:
    """Prune once, and add the row."""
    prune = PruneChannels(sparsity=share, budget=budget, **VARIANTS[variant])  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as temporary:
        masked, target = Path(temporary, "masked.onnx"), Path(temporary, "pruned.onnx")
        start = time.perf_counter()
        data = None if variant in WITHOUT_SAMPLES else subject.samples
        _, report = apply(subject.folded, [prune], data=data, output=masked, evaluate_on=subject.few)
        seconds = time.perf_counter() - start
        _, shrunk = apply(masked, [Shrink()], output=target)
        before, after = (stage.macs or 0 for stage in (shrunk.stages[0], shrunk.stages[-1]))
        not_fitted = [r.subject for r in report.steps[0].refused if "not compensated" in r.reason]
        results.add(
            model=subject.name,
            share=share,
            variant=variant,
            score=subject.score(target),
            macs=after / max(before, 1),
            bytes=target.stat().st_size / subject.path.stat().st_size,
            seconds=seconds,
            not_fitted=len(not_fitted),
        )


def run(subject: Subject, options: argparse.Namespace, results: Results) -> None:
    """Measure one model where it has not been yet."""
    if not results.has(subject.name, 0, "original"):
        results.add(model=subject.name, share=0, variant="original", score=subject.score(subject.path))
    for share in options.sparsity:
        for variant in options.only:
            if results.has(subject.name, share, variant):
                continue
            try:
                measure(subject, share, variant, options.budget, results)
            except OnnxCompressError as error:
                print(f"{subject.name} {share} {variant}: {error}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kit", type=Path)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.1, 0.25, 0.5])
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--budget", default="macs", help="what the sparsity is a share of: channels, macs, …")
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    kit, results = load_kit(options.kit), Results(options.results)
    for name in options.models:
        with tempfile.TemporaryDirectory() as temporary:
            run(Subject.of(kit, options.kit, name, Path(temporary)), options, results)
    print(results.table(options.models))
    return 0


if __name__ == "__main__":
    sys.exit(main())
