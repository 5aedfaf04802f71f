"""What is trained: one function for each table, which yields its cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import student
from subjects import Samples, Subject

from onnxcompress import apply
from onnxcompress.contract import Pass
from onnxcompress.passes import (
    Cluster,
    Distill,
    DropBlocks,
    FoldBatchNorm,
    FoldConstants,
    MagnitudePrune,
    PruneNOfM,
    Quantize,
)

MORE = 20_000


@dataclass(frozen=True)
class Case:
    """One recipe on one model. `begin` is what the training starts from, scored for comparison."""

    part: str
    model: str
    what: str
    subject: Subject
    source: Path
    recipe: list[Pass]
    data: Any
    judge: Any
    begin: Path | None = None
    repeated: bool = False

    def before(self) -> float | None:
        """Score what the training starts from."""
        return None if self.begin is None else _score(self.subject, self.begin)


@lru_cache
def _score(subject: Subject, path: Path) -> float:
    return subject.score(path)


def few(samples: Samples | list[Samples]) -> Samples | list[Samples]:
    """Return what the report is made of, which is not what is printed here."""
    return samples[:2] if isinstance(samples, list) else {key: array[:2] for key, array in samples.items()}


TUTORIAL: dict[str, tuple[dict[str, float], dict[str, str], bool]] = {
    "labels only": ({"cross-entropy": 1.0}, {}, True),
    "kd": ({"kl": 0.25, "cross-entropy": 0.75}, {}, True),
    "cosine of hidden maps": ({"hidden-cosine": 1.0, "cross-entropy": 1.0}, {}, True),
    "feature regressor": ({"regressor": 1.0, "cross-entropy": 1.0}, {}, True),
    "dkd": ({"dkd": 0.25, "cross-entropy": 0.75}, {}, True),
    "dist": ({"dist": 1.0, "cross-entropy": 1.0}, {}, True),
    "kd without labels": ({"kl": 1.0}, {}, False),
}
"""Losses and their weights, tensors that are compared, and whether labels are given."""

FEATURES = {student.HIDDEN: "/layer3/layer3.2/Relu_1_output_0"}
COMPARES = {"cosine of hidden maps", "feature regressor"}
TUTORIAL_IMAGES, TUTORIAL_EPOCHS, TUTORIAL_RATE = 10_000, 8, 3e-3


def tutorial(kit: Path, kept: Path) -> Iterator[Case]:
    """Train a small student of another architecture from scratch on CIFAR-10, as PyTorch's tutorial does."""
    subject = Subject.of(kit, "resnet20_cifar10", kept)
    file = student.write(kept / "student.onnx")
    images, labels = subject.more(TUTORIAL_IMAGES)
    for what, (losses, _, labelled) in TUTORIAL.items():
        recipe = Distill(
            student=str(file),
            initialise="he",
            losses=losses,
            features=FEATURES if what in COMPARES else {},
            epochs=TUTORIAL_EPOCHS,
            learning_rate=TUTORIAL_RATE,
            batch_size=64,
            temperature=2.0,
            beta=2.0,
            keep_anyway=True,
        )
        data = {"image": images, "labels": labels} if labelled else {"image": images}
        yield Case(
            "tutorial", subject.name, what, subject, subject.path, [recipe], data, few({"image": images}), repeated=True
        )


PHOTOS = ("crop", "flip")
HALVED: dict[str, dict[int, dict[str, Any]]] = {
    "ppocr_cls": {0: {}},
    "mobilenet_v1_025_imagenet": {0: {"augment": PHOTOS, "epochs": 100}},
    "vit_cifar10": {0: {"augment": PHOTOS, "epochs": 60}, MORE: {"epochs": 20}},
    "resnet20_cifar10": {0: {"augment": PHOTOS, "epochs": 60}, MORE: {"epochs": 6}},
    "resnet56_cifar10": {0: {"augment": PHOTOS, "epochs": 20}, MORE: {"epochs": 5}},
}
"""What is asked of `distill`, by model and by how many further images there are."""


def half(kit: Path, kept: Path) -> Iterator[Case]:
    """Give models of half the multiply-accumulates their score back, from unlabelled samples."""
    for name, asked in HALVED.items():
        subject = Subject.of(kit, name, kept)
        begin = subject.half()
        for more, options in asked.items():
            samples = subject.samples(more)
            count = len(next(iter(samples.values())))  # type: ignore[union-attr]
            recipe: list[Pass] = [Distill(teacher=str(subject.path), **options)]
            yield Case("half", name, f"{count:,} samples", subject, begin, recipe, samples, few(samples), begin)


def encoder(kit: Path, kept: Path) -> Iterator[Case]:
    """Take every second layer out of a sentence encoder, and train the rest."""
    subject = Subject.of(kit, "minilm_l6_v2", kept)
    samples = subject.calibration
    begin = kept / "minilm_l6_v2-half.onnx"
    if not begin.exists():
        apply(subject.path, [DropBlocks(share=0.5)], data=subject.few(64), output=begin)
    recipe: list[Pass] = [Distill(teacher=str(subject.path), epochs=1, batch_size=32, learning_rate=1e-4)]
    yield Case("encoder", subject.name, "half of the layers", subject, begin, recipe, samples, few(samples), begin)


def recogniser(kit: Path, kept: Path) -> Iterator[Case]:
    """Train a text recogniser, with a class for each position, at half of its multiply-accumulates."""
    subject = Subject.of(kit, "ppocr_rec", kept)
    samples, begin = subject.calibration, subject.half()
    recipe: list[Pass] = [Distill(teacher=str(subject.path), epochs=12, batch_size=8, learning_rate=3e-4)]
    yield Case("recogniser", subject.name, "half", subject, begin, recipe, samples, few(samples), begin)


SPARSE: dict[str, Pass] = {
    "2:4": PruneNOfM(n=2, m=4),
    "80 % zeros": MagnitudePrune(sparsity=0.8),
    "16 clusters": Cluster(clusters=16),
}
FOLDS: list[Pass] = [FoldConstants(), FoldBatchNorm()]


def masks(kit: Path, kept: Path) -> Iterator[Case]:
    """Sparse and clustered weights, without and with training."""
    subject = Subject.of(kit, "resnet20_cifar10", kept)
    samples = subject.calibration
    for what, step in SPARSE.items():
        for trained in ([], [Distill(epochs=MASK_EPOCHS, learning_rate=QAT_RATE)]):
            name = what + (", trained" if trained else "")
            yield Case(
                "masks", subject.name, name, subject, subject.path, [*FOLDS, step, *trained], samples, few(samples)
            )


def qat(kit: Path, kept: Path) -> Iterator[Case]:
    """Integers after training and during it, alone and with masks and clusters."""
    for name in ("resnet20_cifar10", "mobilenet_v1_025_imagenet"):
        subject = Subject.of(kit, name, kept)
        samples = subject.calibration
        for bits in (8, 4):
            integers: list[Pass] = [Quantize(**WEIGHTS[bits])]
            # Plain rounding beside what `quantize` does by itself: training starts from either.
            plain: list[Pass] = [Quantize(rounding="nearest", correct=False, **WEIGHTS[bits])]
            train = Distill(epochs=QAT_EPOCHS, learning_rate=QAT_RATE)
            sparse, clustered = MagnitudePrune(sparsity=0.5), Cluster(clusters=16)
            kinds: dict[str, list[Pass]] = {
                "PTQ, nearest": plain,
                "PTQ": integers,
                "QAT": [*integers, train],
                "PQAT": [sparse, *integers, train],
                "CQAT": [clustered, *integers, train],
                "PCQAT": [sparse, clustered, *integers, train],
            }
            for what, recipe in kinds.items():
                yield Case(
                    "qat", name, f"W{bits}A8 {what}", subject, subject.path, [*FOLDS, *recipe], samples, few(samples)
                )


WEIGHTS: dict[int, dict[str, Any]] = {8: {}, 4: {"weights": "int4"}}
QAT_EPOCHS, MASK_EPOCHS, QAT_RATE = 4, 8, 5e-4

PARTS: dict[str, Callable[[Path, Path], Iterator[Case]]] = {
    "half": half,
    "tutorial": tutorial,
    "masks": masks,
    "qat": qat,
    "recogniser": recogniser,
    "encoder": encoder,
}
"""Tables by name."""
