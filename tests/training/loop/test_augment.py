"""Changes of images keep what they are of, and the teacher sees what the student sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from corpus.trainable import cnn

from onnxcompress import apply
from onnxcompress.demo.data import load_split
from onnxcompress.errors import TrainingError
from onnxcompress.passes import Distill
from onnxcompress.training import CrossEntropy, Settings, train
from onnxcompress.training.loop.augment import KNOWN, crop, flip, mixup

LAYOUTS = {"channels first": (5, 3, 16, 24), "channels last": (5, 16, 24, 3)}


def planes(array: np.ndarray) -> np.ndarray:
    """Return the images as [N, C, H, W]."""
    return array if array.shape[1] == 3 else np.moveaxis(array, 3, 1)


def pictures(layout: str) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(LAYOUTS[layout]).astype(np.float32)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_crop_is_a_window_of_the_mirrored_surroundings(layout: str) -> None:
    before = pictures(layout)
    after = crop({"x": before}, np.random.default_rng(1))["x"]
    assert after.shape == before.shape and after.dtype == before.dtype
    moved = set()
    for old, new in zip(planes(before), planes(after), strict=True):
        wide = np.pad(old, ((0, 0), (2, 2), (3, 3)), mode="symmetric")
        windows = {(y, x): wide[:, y : y + 16, x : x + 24] for y in range(5) for x in range(7)}
        places = [place for place, window in windows.items() if np.array_equal(window, new)]
        assert len(places) == 1
        moved.update(places)
    assert len(moved) > 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_flip_mirrors_left_and_right(layout: str) -> None:
    before = pictures(layout)
    after = flip({"x": before}, np.random.default_rng(2))["x"]
    kinds = [
        "same" if np.array_equal(new, old) else "mirrored" if np.array_equal(new, old[:, :, ::-1]) else "other"
        for old, new in zip(planes(before), planes(after), strict=True)
    ]
    assert set(kinds) == {"same", "mirrored"}


def test_a_mix_shows_most_of_its_own_image() -> None:
    before = pictures("channels first")
    after = mixup({"x": before}, np.random.default_rng(3))["x"]
    shares = []
    for number, new in enumerate(after):
        others = [other for other in range(5) if other != number]
        fits = [np.linalg.lstsq(before[[number, other]].reshape(2, -1).T, new.ravel(), rcond=None) for other in others]
        best = min(fits, key=lambda fit: float(fit[1].sum()))
        shares.append(float(best[0][0]))
        assert best[0].sum() == pytest.approx(1, abs=1e-3)
    assert min(shares) > 0.499


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_no_image_stays(name: str) -> None:
    feeds = {"ids": np.ones((4, 7), np.int64), "sound": np.ones((4, 100), np.float32)}
    assert KNOWN[name](feeds, np.random.default_rng(0)) == {}


def test_the_teacher_answers_for_what_the_student_sees() -> None:
    """A student that is its teacher has no loss, however its samples are changed."""
    images, _ = load_split("train")
    options = {"learning_rate": 1e-12, "epochs": 1, "losses": {"kl": 1.0}, "batch_norm": "frozen", "keep_anyway": True}
    _, report = apply(cnn(), [Distill(augment=("crop", "flip", "mixup"), **options)], data={"image": images[:80]})
    assert abs(report.steps[0].curve[1].trained) < 1e-5


def test_a_function_that_returns_another_shape_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def wrong(feeds, random):\n    return {'image': feeds['image'][1:]}\n")
    images, labels = load_split("train")
    settings = Settings(epochs=1, augment=(f"{file}:wrong",))
    with pytest.raises(TrainingError, match=r"mine.py:wrong returned float32 \[31, 1, 8, 8\] for 'image', which was"):
        train(cnn(), {"image": images[:32]}, CrossEntropy(labels[:32]), settings=settings)
