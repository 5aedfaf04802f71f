"""Files that are no ONNX model: what they are, and how to export them to one."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from .. import urls
from ..errors import ModelError
from .tensors import tensors_in

TENSORFLOW = "python -m tf2onnx.convert"
TORCH = "in Python: torch.onnx.export(model, example_inputs, 'model.onnx', dynamo=True)"
OPTIMUM = "optimum-cli export onnx --model {path} {stem}-onnx"
KERAS = "in Python: keras.models.load_model('{path}').export('{stem}.onnx', format='onnx')"

FILES = {
    ".pt": ("a PyTorch file", TORCH),
    ".pth": ("a PyTorch file", TORCH),
    ".ckpt": ("a checkpoint", TORCH),
    ".bin": ("weights without a graph", OPTIMUM.replace("{path}", "{folder}")),
    ".safetensors": ("weights without a graph", OPTIMUM.replace("{path}", "{folder}")),
    ".gguf": ("weights without a graph", "optimum-cli export onnx --model NAME out"),
    ".tflite": ("a TensorFlow Lite model", f"{TENSORFLOW} --tflite {{path}} --output {{stem}}.onnx"),
    ".h5": ("a Keras model", KERAS),
    ".keras": ("a Keras model", KERAS),
    ".pb": (
        "a TensorFlow graph",
        f"{TENSORFLOW} --graphdef {{path}} --inputs NAME:0 --outputs NAME:0 --output {{stem}}.onnx",
    ),
    ".pdmodel": (
        "a Paddle model",
        "paddle2onnx --model_dir {folder} --model_filename {name} --params_filename {stem}.pdiparams "
        "--save_file {stem}.onnx",
    ),
    ".pdiparams": ("the weights of a Paddle model", "paddle2onnx --model_dir {folder} … beside its .pdmodel or .json"),
    ".mlmodel": (
        "a Core ML model",
        "in Python: onnxmltools.convert_coreml(coremltools.utils.load_spec('{path}')), or export what it was made of",
    ),
    ".pkl": ("a pickled object", "in Python: skl2onnx.to_onnx(model, samples) where it is of scikit-learn"),
    ".joblib": ("a pickled object", "in Python: skl2onnx.to_onnx(model, samples) where it is of scikit-learn"),
    ".ort": ("a model in onnxruntime's own format", "give the .onnx that it was made of"),
    ".xml": ("a model of OpenVINO", "give the .onnx that it was made of"),
    ".engine": ("an engine of TensorRT", "give the .onnx that it was made of"),
    ".plan": ("an engine of TensorRT", "give the .onnx that it was made of"),
}
"""Ending of a file → what it is, and how it is exported."""

FOLDERS = {
    "saved_model.pb": ("a SavedModel of TensorFlow", f"{TENSORFLOW} --saved-model {{path}} --output {{stem}}.onnx"),
    "*.pdmodel": ("a Paddle model", "paddle2onnx --model_dir {path} --save_file {stem}.onnx"),
    "Manifest.json": ("a package of Core ML", "export what it was made of"),
    "*.safetensors": ("a checkpoint of Hugging Face", OPTIMUM),
    "pytorch_model*.bin": ("a checkpoint of Hugging Face", OPTIMUM),
}
"""What lies in a folder → what that is, and how it is exported."""

MOST_LISTED = 6


def model_file(path: str | Path) -> Path:
    """Return the file of a model: what is given, or the only ``.onnx`` file of a folder, as exporters write it.

    What lies under a URL is copied, with the files of its weights.

    Raises
    ------
    ModelError
        The folder holds several models, which are named, or none; then it says how to export what is there.
    """
    url, path = path, urls.here(path, ModelError)
    try:
        folder = path.is_dir()
    except (OSError, ValueError):  # a name that no file can have; whoever opens it says so
        return path
    if not folder:
        if isinstance(urls.located(url), str):
            urls.beside(url, _data_files(path), ModelError)
        return path
    found = sorted(path.glob("*.onnx")) or sorted(path.glob("*/*.onnx"))
    if len(found) == 1:
        return found[0]
    if found:
        more = f" and {len(found) - MOST_LISTED} more" if len(found) > MOST_LISTED else ""
        names = ", ".join(str(each) for each in found[:MOST_LISTED])
        raise ModelError(f"{path}: a folder of {len(found)} models; give one of them: {names}{more}")
    for pattern, (what, how) in FOLDERS.items():
        if next(path.glob(pattern), None) is not None:
            raise ModelError(f"{path}: {_sentence(path, what, how)}")
    raise ModelError(f"{path}: a folder without an .onnx file")


def _data_files(path: Path) -> list[str]:
    """Return the files that a model has its weights in; none of what is no model."""
    try:
        proto = onnx.load(path, format="protobuf", load_external_data=False)
    except DecodeError:
        return []
    return [entry.value for tensor in tensors_in(proto) for entry in tensor.external_data if entry.key == "location"]


def how_to_export(path: Path) -> str | None:
    """Say what a file is that is no ONNX model, and how to export it; None where its ending tells nothing."""
    with path.open("rb") as file:
        if file.read(24).startswith(b"version https://git-lfs"):
            return "the place of a large file that Git LFS has not fetched; run: git lfs pull"
    if path.suffix.lower() not in FILES:
        return None
    return _sentence(path, *FILES[path.suffix.lower()])


def _sentence(path: Path, what: str, how: str) -> str:
    stem = path.stem or "model"
    filled = how.format(path=path, stem=stem, name=path.name, folder=path.parent)
    return f"{what}, and not ONNX; export it: {filled}"
