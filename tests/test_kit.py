"""Real pretrained models, where they are there: nothing crashes, and what comes out is valid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.oracle import assert_same, plain_run
from loading import load_kit

from onnxcompress import apply, load, save
from onnxcompress.evaluation.timing import Timing
from onnxcompress.passes import (
    DropBlocks,
    FoldBatchNorm,
    FoldConstants,
    FreezeInputs,
    MagnitudePrune,
    PruneChannels,
    Quantize,
    RemoveDead,
    Shrink,
)
from onnxcompress.runtime.session import open_session
from onnxcompress.samples.random_values import runnable_feed

LARGEST_SHARE = {
    "gtcrn_simple": 0.96,
    "minilm_l6_v2": 0.77,
    "mnist_cntk": 0.37,
    "mobilenet_v1_025_imagenet": 0.40,
    "nanodet_m_320": 0.34,
    "ppocr_cls": 0.31,
    "ppocr_rec": 0.34,
    "resnet20_cifar10": 0.26,
    "resnet56_cifar10": 0.26,
    "silero_vad": 1.00,
    "ultraface_rfb320": 0.38,
    "vit_cifar10": 0.41,
}
"""Model → the largest share of parameters left when half of each group's channels go.

In gtcrn nearly every channel meets a cache that is an input and an output of the graph; in minilm the residual stream
is the output, half of the parameters are its word vectors; silero sits inside an If.
"""

LONG = {"minilm_l6_v2", "ppocr_rec", "silero_vad", "gtcrn_simple"}
"""Models that take seconds each time something is done with them."""

MODELS = [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in LARGEST_SHARE]
SCORED = [
    "resnet20_cifar10",
    "mobilenet_v1_025_imagenet",
    pytest.param("resnet56_cifar10", marks=pytest.mark.slow),
    pytest.param("ppocr_cls", marks=pytest.mark.slow),
]
UNPRUNABLE = {"silero_vad"}
"""Everything sits inside an If."""


def path_of(kit: Path, name: str) -> Path:
    return kit / "models" / f"{name}.onnx"


def example(model: ir.Model) -> dict[str, Any]:
    return runnable_feed(model, open_session(model))


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no model be timed: those that are quantized are, and that is enough of real models."""
    monkeypatch.setattr(
        "onnxcompress.evaluation.timing.time_models", lambda models, *_, **__: [Timing(*[1.0] * 6, 1)] * len(models)
    )


@pytest.mark.parametrize("name", MODELS)
def test_load_and_save_keep_the_outputs(kit: Path, tmp_path: Path, name: str) -> None:
    source = path_of(kit, name)
    model = load(source)
    save(model, tmp_path / "copy.onnx")
    feeds = example(model)
    assert_same(plain_run(source, feeds), plain_run(tmp_path / "copy.onnx", feeds), 0)


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize("name", MODELS)
def test_pruned_equals_masked(kit: Path, tmp_path: Path, name: str) -> None:
    masked, _ = apply(path_of(kit, name), [FreezeInputs(), PruneChannels(sparsity=0.5)])
    _, report = apply(masked, [Shrink()], output=tmp_path / "small.onnx")
    feeds = example(masked)
    assert_same(plain_run(masked, feeds), plain_run(tmp_path / "small.onnx", feeds), 1e-5)
    assert report.stages[-1].parameters <= LARGEST_SHARE[name] * report.stages[0].parameters
    assert (report.steps[0].done == []) == (name in UNPRUNABLE)


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize("name", MODELS)
def test_tidy_and_masks_run_on_everything(kit: Path, name: str) -> None:
    passes = [FreezeInputs(), FoldConstants(), FoldBatchNorm(), RemoveDead(), MagnitudePrune(threshold=0.1)]
    _, report = apply(path_of(kit, name), passes)
    assert report.steps[-1].done


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", SCORED)
def test_prune_shrink_quantize(kit: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip("PIL")
    module = load_kit(kit)
    feeds = module.feeds(name, "calib")[:40]
    data = {key: np.concatenate([feed[key] for feed in feeds]) for key in feeds[0]}
    recipe = [FoldConstants(), FoldBatchNorm(), PruneChannels(sparsity=0.1), Shrink(), Quantize()]
    out = tmp_path / "small.onnx"
    _, report = apply(path_of(kit, name), recipe, data=data, output=out)
    onnx.checker.check_model(str(out), full_check=True)
    outputs = plain_run(out, feeds[0])
    assert all(np.isfinite(value).all() for value in outputs.values())
    assert out.stat().st_size < 0.6 * path_of(kit, name).stat().st_size
    assert {node.op_type for node in onnx.load(out).graph.node} >= {"QuantizeLinear", "DequantizeLinear"}
    assert report.stages[-1].metric is not None


BLOCKS = {
    "resnet20_cifar10": 7,
    "resnet56_cifar10": 25,
    "vit_cifar10": 2,
    "minilm_l6_v2": 6,
    "ppocr_cls": 7,
    "ppocr_rec": 2,
}
"""Model → residual blocks as their papers count them, without those that change the shape."""


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize("name", BLOCKS)
def test_every_second_block_goes(kit: Path, name: str) -> None:
    result, report = apply(path_of(kit, name), [DropBlocks(choose="alternate")])
    gone = [change.subject for change in report.steps[0].done]
    assert len(gone) == BLOCKS[name] // 2
    assert report.steps[0].refused == []
    assert f"{len(gone)} of {BLOCKS[name]} residual blocks" in report.steps[0].notes[0]
    assert all(np.isfinite(value).all() for value in plain_run(result, example(result)).values())
    parameters = [int(change.what.split(" with ")[1].split(" ")[0].replace(",", "")) for change in report.steps[0].done]
    assert report.stages[0].parameters - report.stages[1].parameters == sum(parameters)


def test_the_cache_of_a_block_that_goes_stays(kit: Path) -> None:
    path = kit / "structures" / "llama_opset23.onnx"
    random = np.random.default_rng(0)
    data = {"input_ids": random.integers(0, 4096, (4, 8)), "position_ids": np.tile(np.arange(4, 12), (4, 1))}
    data["attention_mask"] = np.ones((4, 12), np.int64)
    caches = [f"past_key_values.{layer}.{kind}" for layer in range(2) for kind in ("key", "value")]
    data |= {cache: random.standard_normal((4, 2, 4, 32)).astype(np.float32) for cache in caches}
    result, report = apply(path, [DropBlocks(choose="alternate")], data=data)
    (gone,) = report.steps[0].done
    assert {refusal.subject for refusal in report.steps[0].refused} == {"present.1.key", "present.1.value"}
    before, after = plain_run(load(path), data), plain_run(result, data)
    assert list(before) == list(after)
    for cache in ("present.0.key", "present.0.value"):
        np.testing.assert_allclose(after[cache], before[cache], rtol=1e-5, atol=1e-6)
    assert gone.what == "left out: 33 nodes with 184,576 parameters"
    assert report.stages[1].parameters < 0.9 * report.stages[0].parameters


IMAGES = """
import csv, pathlib
import numpy as np
from PIL import Image

FOLDER = pathlib.Path("{folder}")

def test():
    with open(FOLDER / "test.csv") as file:
        rows = list(csv.DictReader(file))[:60]
    for row in rows:
        image = Image.open(FOLDER / "test" / row["file"]).convert("RGB")
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 127.5 - 1
        yield {{"image": pixels.transpose(2, 0, 1)[None], "labels": np.array([int(row["label"])])}}
"""


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_folder_of_images_through_a_small_function(kit: Path, tmp_path: Path) -> None:
    """JPEG files as data: top-1 is what the kit's own code finds on the same images."""
    pytest.importorskip("PIL")
    (tmp_path / "images.py").write_text(IMAGES.format(folder=kit / "data" / "imagenet"))
    name = "mobilenet_v1_025_imagenet"
    recipe = [FoldBatchNorm(), PruneChannels(sparsity=0.1, round_to=8), Shrink(), Quantize()]
    data = f"{tmp_path}/images.py:test"
    _, report = apply(path_of(kit, name), recipe, data=data, evaluate_on=data)
    module = load_kit(kit)
    session = open_session(path_of(kit, name))
    logits = [session.run(feed)["logits"] for feed in module.feeds(name, "test")[:60]]
    expected = (np.concatenate(logits).argmax(1) == module.labels(name)[:60]).mean()
    assert report.metric == "top1"
    assert report.samples == 60
    assert report.stages[0].metric == pytest.approx(expected)
    assert report.stages[-1].bytes < 0.35 * report.stages[0].bytes
