"""A folder of pictures becomes what the model takes, with labels, and says what it did."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from command_line import call
from PIL import Image

from onnxcompress.errors import DataError, OptionError
from onnxcompress.samples.data import Data
from onnxcompress.samples.preprocess import IMAGENET, PRESETS, from_config
from onnxcompress.samples.readers import pixels
from onnxcompress.samples.readers.images import Maker
from onnxcompress.samples.samples import load_samples

NCHW = "g (float[N,3,8,8] image) => (float[N,3,8,8] y) { y = Relu(image) }"
NHWC = "g (uint8[N,8,8,3] image) => (uint8[N,8,8,3] y) { y = Identity(image) }"
GREY = "g (float[N,1,8,8] image) => (float[N,1,8,8] y) { y = Relu(image) }"
OPEN = "g (float[N,C,H,W] image) => (float[N,C,H,W] y) { y = Relu(image) }"


def picture(seed: int, size: tuple[int, int] = (8, 8)) -> Image.Image:
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def folder(root: Path, names: dict[str, Image.Image]) -> Path:
    for name, image in names.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(root / name)
    return root


def pictures(root: Path, model, **how) -> np.ndarray:
    return load_samples(Data(root, **how), model).arrays()["image"]


def test_class_folders_give_labels_and_what_was_assumed_is_said(parse, tmp_path):
    root = folder(tmp_path / "photos", {"dog/a.png": picture(0), "cat/b.png": picture(1), "cat/in/c.png": picture(2)})
    (root / "dog" / ".hidden.png").write_bytes(b"no picture, and none that counts")
    samples = load_samples(root, parse(NCHW))
    array = samples.arrays()["image"]
    assert samples.labels.tolist() == [0, 0, 1]
    assert samples.description == "photos/ (3 .png files)"
    expected = np.stack([np.asarray(picture(seed)) for seed in (1, 2, 0)])
    # the model's size is the picture's, so that the middle of a larger one is cut out
    larger = [Image.fromarray(each).resize((9, 9), Image.Resampling.BILINEAR).crop((0, 0, 8, 8)) for each in expected]
    numbers = (np.stack([np.asarray(each) for each in larger]) / 255 - IMAGENET["mean"]) / IMAGENET["std"]
    np.testing.assert_allclose(array, numbers.transpose(0, 3, 1, 2), atol=1e-6)
    assert samples.notes == [
        "labels: the 2 names of folders in alphabetical order: 0 = cat, 1 = dog; "
        "if the model counts otherwise, put its names in order into classes.txt",
        "images: preprocess imagenet assumed, as most models of colour images; say otherwise with --preprocess",
    ]
    (tmp_path / "classes.txt").write_text("fish\ndog\ncat of many words\n")
    samples = load_samples(root, parse(NCHW))
    assert samples.labels.tolist() == [2, 2, 1]
    assert "labels: names numbered as in classes.txt" in samples.notes


BRIGHTNESS = """g (float[N,3,8,8] image) => (float[N,6] y)
    <float[1,6] classes = {-0.3, 0.3, -0.45, 0.88, -0.24, 0.04}, float sharp = {-1000}> {
    mean = ReduceMean<axes = [1, 2, 3], keepdims = 1>(image) flat = Flatten(mean)
    off = Sub(flat, classes) square = Mul(off, off) y = Mul(square, sharp) }"""


@pytest.mark.parametrize(
    ("values", "preset"), [((89, 166), "mobilenet"), ((97, 132), "imagenet"), ((250, 255), "imagenet assumed")]
)
def test_labels_tell_which_preset_a_model_was_trained_with(parse, tmp_path, values, preset):
    """The model expects the classes at -0.3 and 0.3: with the last brightnesses no preset brings them there."""
    names = {f"{c}/{n}.png": Image.new("RGB", (8, 8), (value,) * 3) for c, value in enumerate(values) for n in range(9)}
    samples = load_samples(folder(tmp_path / "photos", names), parse(BRIGHTNESS))
    (note,) = (note for note in samples.notes if note.startswith("images:"))
    assert note.startswith(f"images: preprocess {preset}")
    assert ("18 of 18 labelled images are read right" in note) == ("assumed" not in preset)


@pytest.mark.parametrize("listed", ["photos/labels.csv", "photos.csv", "photos/labels.txt"])
def test_a_list_gives_labels(parse, tmp_path, listed):
    root = folder(tmp_path / "photos", {"a.png": picture(0), "b.png": picture(1), "c.png": picture(2)})
    lines = "b.png 7\na.png 4\n" if listed.endswith("txt") else "file,label\nb.png,7\na.png,4\n"
    (tmp_path / listed).write_text(lines)
    samples = load_samples(Data(root, preprocess="unit"), parse(NCHW))
    np.testing.assert_allclose(samples.arrays()["image"][1] * 255, np.asarray(picture(1)).transpose(2, 0, 1), atol=1e-4)
    assert samples.labels.tolist() == [4, 7]
    assert f"1 of 3 files are not in {listed.rpartition('/')[2]}, left out" in samples.notes
    (tmp_path / listed).write_text("file,label\nz.png,7\n")
    with pytest.raises(DataError, match=r"names none of the files in photos/, such as a\.png"):
        load_samples(root, parse(NCHW))


def test_a_table_names_the_pictures(parse, tmp_path):
    folder(tmp_path / "test", {"a.png": picture(0), "b.png": picture(1)})
    (tmp_path / "test.csv").write_text("file;label\na.png;3\nb.png;5\n")
    samples = load_samples(Data(tmp_path / "test.csv", preprocess="unit"), parse(NCHW))
    assert samples.labels.tolist() == [3, 5]
    np.testing.assert_allclose(samples.arrays()["image"][1] * 255, np.asarray(picture(1)).transpose(2, 0, 1), atol=1e-4)
    (tmp_path / "test.csv").write_text("file;label\na.png;3\ngone.png;5\n")
    samples = load_samples(Data(tmp_path / "test.csv", preprocess="unit"), parse(NCHW))
    assert samples.labels.tolist() == [3]
    assert any(note.startswith("left out as unreadable, 1 image: gone.png (") for note in samples.notes)


def test_each_kind_of_input(parse, tmp_path):
    """Bytes stay bytes; channels where the model has them; grey; upright; any size."""
    root = folder(tmp_path, {"a.png": picture(0)})
    assert (pictures(root, parse(NHWC)) == np.asarray(picture(0))).all()
    grey = np.asarray(picture(0).convert("L"))
    np.testing.assert_allclose(pictures(root, parse(GREY))[0, 0] * 255, grey, atol=1e-4)
    assert pictures(root, parse(OPEN)).shape == (1, 3, 224, 224)
    turned = picture(0)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    turned.save(tmp_path / "b.png", exif=exif)
    assert (pictures(tmp_path / "b.png", parse(NHWC))[0] == np.rot90(np.asarray(picture(0)), -1)).all()


def test_modes_of_pictures(parse, tmp_path):
    clear = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    wide = Image.fromarray(np.full((8, 8), 0x8040, np.uint16))
    root = folder(tmp_path, {"clear.png": clear, "wide.png": wide, "grey.png": Image.new("L", (8, 8), 7)})
    found = dict(zip(("clear", "grey", "wide"), pictures(root, parse(NHWC)), strict=True))
    assert {name: np.unique(array).tolist() for name, array in found.items()} == {
        "clear": [255],
        "grey": [7],
        "wide": [0x80],
    }


def test_a_letterbox_keeps_the_proportions():
    from onnxcompress.samples.image_input import ImageInput

    make = Maker(ImageInput("x", np.dtype(np.uint8), 3, True, 8, 8), PRESETS["yolo"])
    made = make._made(Image.new("RGB", (16, 8), "red"))
    assert (made[2:6] == (255, 0, 0)).all()
    assert (made[:2] == 114).all()
    assert (made[6:] == 114).all()


def test_a_file_of_ones_own(parse, tmp_path):
    root = folder(tmp_path / "photos", {"a.png": picture(0)})
    own = tmp_path / "own.toml"
    own.write_text('resize = "exact"\nmean = [1.0, 2.0, 3.0]\nstd = [2.0]\nscale = 1.0\nchannels = "BGR"\n')
    expected = (np.asarray(picture(0), np.float32)[..., ::-1] - [1, 2, 3]) / 2
    np.testing.assert_allclose(pictures(root, parse(NCHW), preprocess=own)[0], expected.transpose(2, 0, 1), atol=1e-4)
    for text, message in {
        "mean = 3": "Expected `array`, got `int`",
        "crop = 2.0": "crop = 2.0: expected above 0",
        "sizes = 3": "unknown field `sizes`",
        "mean = [": "not TOML",
        'resize = "wide"': "Invalid enum value 'wide'",
    }.items():
        own.write_text(text)
        with pytest.raises(OptionError, match=message):
            load_samples(Data(root, preprocess=own), parse(NCHW))
    for name, message in {"imagnet": "did you mean 'imagenet'", "gone.toml": "no such file"}.items():
        with pytest.raises(OptionError, match=message):
            load_samples(Data(root, preprocess=name), parse(NCHW))


def test_configurations_of_image_processors(parse, tmp_path):
    vit = {"size": {"height": 224, "width": 224}, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    found = from_config(vit)
    assert (found.resize, found.size, found.interpolation, found.mean) == ("exact", (224, 224), "bicubic", (0.5,) * 3)
    resnet = {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224, **vit_statistics(IMAGENET)}
    found = from_config(resnet)
    assert (found.resize, found.size, found.crop) == ("shorter", (224, 224), 0.875)
    assert from_config({"size": {"shortest_edge": 224}, "crop_pct": 0.9}).crop == 0.9
    detr = from_config({"size": {"shortest_edge": 800, "longest_edge": 1333}, "do_normalize": False})
    assert (detr.resize, detr.mean, detr.std) == ("letterbox", (0.0,), (1.0,))
    assert from_config({"size": 10, "do_rescale": False, "do_flip_channel_order": True}).channels == "BGR"
    for wrong in ({"size": {"other": 3}}, {"size": "x"}, {"size": 0}, {"image_mean": "x"}):
        with pytest.raises(OptionError, match=r"preprocessor_config\.json: not as image processors write it"):
            from_config(wrong)
    root = folder(tmp_path / "photos", {"a.png": picture(0)})
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**vit, "size": 8}))
    samples = load_samples(root, parse(NCHW))
    np.testing.assert_allclose(
        samples.arrays()["image"][0], np.asarray(picture(0)).transpose(2, 0, 1) / 127.5 - 1, atol=1e-5
    )
    assert "images: preprocessor_config.json beside the data" in samples.notes


def vit_statistics(known):
    return {"image_mean": list(known["mean"]), "image_std": list(known["std"])}


def test_unreadable_pictures_are_named_counted_and_left_out(parse, tmp_path, monkeypatch):
    root = folder(tmp_path / "photos", {f"{i:03}.png": picture(i) for i in range(100)})
    (root / "007.png").write_bytes(b"junk")
    (root / "070.png").write_bytes((root / "070.png").read_bytes()[:120])
    picture(0, (40, 40)).save(root / "080.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)  # of which twice as many are a bomb
    samples = load_samples(Data(root, preprocess="unit"), parse(NCHW))
    assert samples.count == 97
    (note,) = [note for note in samples.notes if "unreadable" in note]
    assert note.startswith("left out as unreadable, 3 images: 007.png (no JPEG, PNG, WEBP, …); 070.png (")
    assert "080.png (Image size (1600 pixels) exceeds limit" in note
    for name in root.iterdir():
        name.write_bytes(b"junk")
    with pytest.raises(
        DataError, match=r"photos/ \(100 \.png files\): none of the images can be read: 000\.png \(.* and more"
    ):
        load_samples(Data(root, preprocess="unit"), parse(NCHW))


def test_all_of_one_class_is_said(parse, tmp_path):
    samples = load_samples(folder(tmp_path, {"cat/a.png": picture(0), "cat/b.png": picture(1)}), parse(NCHW))
    assert samples.labels.tolist() == [0, 0]
    assert "all 2 samples have the label 0: they tell nothing of other classes" in samples.notes


def test_pictures_are_decoded_once(parse, tmp_path, monkeypatch):
    root = folder(tmp_path, {f"{i}.png": picture(i) for i in range(5)})
    samples = load_samples(Data(root, preprocess="unit"), parse(NCHW))
    before = samples.arrays()["image"]
    opened = []
    monkeypatch.setattr(Image, "open", lambda *a, **k: opened.append(a))
    np.testing.assert_array_equal(samples.arrays()["image"], before)
    assert not opened
    monkeypatch.undo()
    monkeypatch.setattr(pixels, "MOST_BYTES", 2 * 8 * 8 * 3)
    few = load_samples(Data(root, preprocess="unit"), parse(NCHW))
    np.testing.assert_array_equal(few.arrays()["image"], few.arrays()["image"])
    np.testing.assert_array_equal(few.arrays()["image"], before)


def test_no_room_for_decoded_pictures(parse, tmp_path, monkeypatch):
    root = folder(tmp_path, {f"{i}.png": picture(i) for i in range(5)})
    samples = load_samples(Data(root, preprocess="unit"), parse(NCHW))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    again = load_samples(Data(root, preprocess="unit"), parse(NCHW))
    np.testing.assert_array_equal(again.arrays()["image"], samples.arrays()["image"])


def test_arrays_of_bytes_are_pictures_where_preprocessing_is_asked_for(parse, tmp_path):
    array = np.stack([np.asarray(picture(seed)) for seed in range(3)])
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "x.npz", data=array, y=np.arange(3))
    (tmp_path / "mine.py").write_text(
        f"import numpy as np\ndef f(): return [dict(np.load({str(tmp_path / 'x.npz')!r}))]\n"
    )
    expected = (array / 255).transpose(0, 3, 1, 2)
    for data in (tmp_path / "x.npy", tmp_path / "x.npz", {"image": array}, f"{tmp_path}/mine.py:f"):
        samples = load_samples(Data(data, preprocess="unit"), parse(NCHW))
        np.testing.assert_allclose(samples.arrays()["image"], expected, atol=1e-6)
    assert samples.labels.tolist() == [0, 1, 2]
    assert "images: preprocess unit" in samples.notes
    np.testing.assert_allclose(
        pictures({"image": array[:, :4, :4]}, parse(NCHW), preprocess="unit").shape, (3, 3, 8, 8)
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }",
            r"no inputs have 4 axes; the model takes x: float32",
        ),
        ("g (float[N,7,8,8] x) => (float[N,7,8,8] y) { y = Relu(x) }", "input 'x' has 7 channels"),
        ("g (float[N,3,8,8] x, float[N,2] size) => (float[N,3,8,8] y) { y = Relu(x) }", "'size' would be missing"),
    ],
)
def test_models_that_take_no_pictures(parse, tmp_path, model, message):
    with pytest.raises(DataError, match=message):
        load_samples(folder(tmp_path, {"a.png": picture(0)}), parse(model))


def test_a_missing_package_is_named(parse, tmp_path, monkeypatch):
    import sys

    root = folder(tmp_path, {"a.png": picture(0)})
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match=r"pictures need PIL, which .*: pip install 'onnxcompress\[images\]'"):
        load_samples(root, parse(NCHW))


def test_notes_reach_the_terminal_and_the_report(tmp_path, parse):
    import onnx_ir as ir

    root = folder(tmp_path / "photos", {"dog/a.png": picture(0), "cat/b.png": picture(1)})
    (root / "cat" / "bad.png").write_bytes(b"junk")
    model = tmp_path / "m.onnx"
    ir.save(parse(NCHW), model)
    shown = call("compare", model, model, "--data", root, "--metric", "max_abs")
    assert "preprocess imagenet assumed" in " ".join(shown.stdout.split())
    written = call(
        "apply",
        model,
        "-p",
        "fold-constants",
        "--data",
        root,
        "-o",
        tmp_path / "o.onnx",
        "--report",
        tmp_path / "r.json",
    )
    assert written.exit_code == 0, written.output
    notes = json.loads((tmp_path / "r.json").read_text())["notes"]
    assert any(note.startswith("left out as unreadable, 1 image: bad.png") for note in notes)


@pytest.mark.parametrize("how", [{}, {"preprocess": "unit"}])
def test_samples_can_be_sent_to_another_process(parse, tmp_path, how):
    import pickle

    cloudpickle = pytest.importorskip("cloudpickle")
    samples = load_samples(Data(folder(tmp_path, {"a/a.png": picture(0), "b/b.png": picture(1)}), **how), parse(NCHW))
    before = samples.arrays()["image"]
    again = pickle.loads(cloudpickle.dumps(samples))
    np.testing.assert_array_equal(again.arrays()["image"], before)
    assert again.labels.tolist() == [0, 1]


def test_what_ultralytics_leaves_in_a_model_is_read(parse, tmp_path):
    model = parse(NCHW.replace("8,8", "H,W"))
    model.metadata_props.update(stride="32", task="detect", names="{0: 'person', 1: 'bicycle'}", imgsz="[64, 32]")
    samples = load_samples(folder(tmp_path, {"bicycle/a.png": picture(0), "person/b.png": picture(1)}), model)
    assert samples.arrays()["image"].shape == (2, 3, 64, 32)
    assert samples.labels.tolist() == [1, 0]
    assert samples.notes == [
        "labels: names numbered as in the model's metadata",
        "images: preprocess yolo, as the model's metadata is Ultralytics'",
    ]


def test_only_the_pictures_of_a_part_are_decoded(parse, tmp_path, monkeypatch):
    root = folder(tmp_path, {f"{i % 3}/{i:03}.png": picture(i) for i in range(90)})
    (root / "1" / "004.png").write_bytes(b"junk")
    whole = load_samples(Data(root, preprocess="unit"), parse(NCHW))
    rows, labels = whole.arrays()["image"], whole.labels
    opened, really = [], Image.open
    monkeypatch.setattr(Image, "open", lambda file, **how: opened.append(file) or really(file, **how))
    parts = load_samples(Data(root, preprocess="unit"), parse(NCHW)).parts()
    first = len(opened)
    assert first <= 64, "the first piece is checked"
    found = [part.arrays()["image"] for part in parts]
    assert len(opened) <= 90 + 1, "each once, and the one that cannot be read once more"
    assert sum(len(array) for array in found) == 89
    order = {row.tobytes(): place for place, row in enumerate(rows)}
    places = [[order[row.tobytes()] for row in array] for array in found]
    assert sorted(place for each in places for place in each) == list(range(89))
    assert [part.labels.tolist() for part in parts] == [labels[each].tolist() for each in places]
    lying = [batch.feeds["image"][at] for batch, at in parts[0].lying()]
    np.testing.assert_array_equal(np.concatenate(lying), found[0])
    assert sum("left out as unreadable, 1 image: 004.png" in note for note in parts[2].notes) == 1
